package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/waybillmq/waybill/adapters/internal/sqlstore"
	"github.com/waybillmq/waybill/reliable"
)

var _ reliable.Witness = (*RowWitness)(nil)

type (
	// WitnessRow says by which row a [RowWitness] tells the fate of a transaction.
	WitnessRow = sqlstore.WitnessRow
	// RowPromise is what has to hold of the row, and has to be said, since nobody but the owner of the business tables can
	// know.
	RowPromise = sqlstore.RowPromise
)

// RowWitness tells the fate of a transaction by the business row that it inserted: nothing else is written. It reads under
// SQLite's write lock: whoever holds that knows that no other transaction is writing, so that what is not there by then
// does not come. While it cannot have the lock, the answer is [reliable.FateOpen], whoever it is that holds it. What it
// says is worth as much as the [RowPromise] that it was given.
type RowWitness struct {
	db  *sql.DB
	row WitnessRow
	ask string
}

// witnessPatience is how long a question waits for the write lock: longer than usual transactions take, so that it gets
// its turn among busy writers, and far less than anybody waits for an answer.
const witnessPatience = 500 * time.Millisecond

// NewRowWitness returns a witness that asks on db, which the caller keeps and closes. It does no I/O. Every part of the
// promise must be given; what is wrong is reported together, as errors that are [reliable.ErrInvalid].
func NewRowWitness(db *sql.DB, row WitnessRow) (*RowWitness, error) {
	table, column, err := row.Check(`"`)
	if db == nil {
		err = errors.Join(err, reliable.Invalid("db", "is nil"))
	}
	if err != nil {
		return nil, fmt.Errorf("sqlitestore: %w", err)
	}
	return &RowWitness{db, row, "SELECT 1 FROM " + table + " WHERE " + column + " = ?"}, nil
}

// Mark checks that tx is a transaction; the token is empty, because the row is the mark.
func (w *RowWitness) Mark(_ context.Context, tx any) (reliable.Token, error) {
	if _, err := sqlstore.ConnOf(tx); err != nil {
		return "", fmt.Errorf("sqlitestore: mark: %w", err)
	}
	return "", nil
}

// Ask implements [reliable.Witness]; the token is not needed.
func (w *RowWitness) Ask(ctx context.Context, id reliable.ID, _ reliable.Token) (reliable.Fate, error) {
	fate, err := underWriteLock(ctx, w.db, func(conn *sql.Conn) (reliable.Fate, error) {
		var found int
		err := conn.QueryRowContext(ctx, w.ask, w.row.ValueOf(id)).Scan(&found)
		switch {
		case err == nil:
			return reliable.FateCommitted, nil
		case errors.Is(err, sql.ErrNoRows):
			return reliable.FateAborted, nil
		}
		return 0, err
	})
	if err != nil {
		return 0, fmt.Errorf("sqlitestore: ask: %w", err)
	}
	return fate, nil
}

// MarkerWitness returns a witness that inserts a row in the business transaction and finds it, or puts a tombstone in its
// place; see [reliable.Marker]. It asks on the store's own handle, under SQLite's write lock, as a [RowWitness] does.
func (s *Store) MarkerWitness(horizon time.Duration) (reliable.Witness, error) {
	return s.NewMarkerWitness(horizon, sqlstore.ConnOf, s.askMarker)
}

func (s *Store) askMarker(
	ctx context.Context, look func(context.Context, sqlstore.Conn) (reliable.Fate, error),
) (reliable.Fate, error) {
	return underWriteLock(ctx, s.db.DB, func(conn *sql.Conn) (reliable.Fate, error) {
		return look(ctx, sqlstore.SQLConn{On: conn})
	})
}

// underWriteLock runs look while nobody else is writing; who holds the lock too long has a transaction open.
func underWriteLock(
	ctx context.Context, db *sql.DB, look func(*sql.Conn) (reliable.Fate, error),
) (fate reliable.Fate, err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	before, err := waitOf(ctx, conn)
	if err != nil {
		return 0, err
	}
	restore, err := limitWait(ctx, conn, before, witnessPatience)
	if err != nil {
		return 0, err
	}
	defer restore()
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		if busy(err) {
			return reliable.FateOpen, nil
		}
		return 0, err
	}
	over := context.WithoutCancel(ctx)
	if fate, err = look(conn); err == nil {
		_, err = conn.ExecContext(over, "COMMIT")
	}
	if err != nil {
		_, _ = conn.ExecContext(over, "ROLLBACK")
		return 0, err
	}
	return fate, nil
}
