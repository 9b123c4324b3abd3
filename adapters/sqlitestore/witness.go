package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

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
	conn, err := w.db.Conn(ctx)
	if err != nil {
		return 0, fmt.Errorf("sqlitestore: ask: %w", err)
	}
	defer conn.Close()
	fate, err := w.askOn(ctx, conn, id)
	if err != nil {
		return 0, fmt.Errorf("sqlitestore: ask: %w", err)
	}
	return fate, nil
}

func (w *RowWitness) askOn(ctx context.Context, conn *sql.Conn, id reliable.ID) (reliable.Fate, error) {
	restore, err := limitWait(ctx, conn)
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
	defer func() { _, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") }()
	var found int
	err = conn.QueryRowContext(ctx, w.ask, w.row.ValueOf(id)).Scan(&found)
	switch {
	case err == nil:
		return reliable.FateCommitted, nil
	case errors.Is(err, sql.ErrNoRows):
		return reliable.FateAborted, nil
	}
	return 0, err
}

// limitWait shortens how long the connection waits for the lock, and returns what sets it back.
func limitWait(ctx context.Context, conn *sql.Conn) (restore func(), err error) {
	var before int64
	if err := conn.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&before); err != nil {
		return nil, err
	}
	set := func(ctx context.Context, timeout int64) error {
		_, err := conn.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", timeout))
		return err
	}
	if err := set(ctx, min(before, witnessPatience.Milliseconds())); err != nil {
		return nil, err
	}
	return func() { _ = set(context.WithoutCancel(ctx), before) }, nil
}

func busy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&primaryCode == sqlite3.SQLITE_BUSY
}
