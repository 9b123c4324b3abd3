package mysqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/go-sql-driver/mysql"

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

// RowWitness tells the fate of a transaction by the business row that it inserted: nothing else is written. It reads the
// row with a lock and does not wait for it, so that a row whose transaction is open is told from one that is not there.
// What it says is worth as much as the [RowPromise] that it was given.
type RowWitness struct {
	db  *sql.DB
	row WitnessRow
	ask string
}

// NewRowWitness returns a witness that asks on db, which the caller keeps and closes. It does no I/O. Every part of the
// promise must be given; what is wrong is reported together, as errors that are [reliable.ErrInvalid].
func NewRowWitness(db *sql.DB, row WitnessRow) (*RowWitness, error) {
	table, column, err := row.Check("`")
	if db == nil {
		err = errors.Join(err, reliable.Invalid("db", "is nil"))
	}
	if err != nil {
		return nil, fmt.Errorf("mysqlstore: %w", err)
	}
	// NOWAIT makes MariaDB and MySQL refuse at once where the row is locked, as one is whose insert is not committed.
	ask := "SELECT 1 FROM " + table + " WHERE " + column + " = ? FOR UPDATE NOWAIT"
	return &RowWitness{db, row, ask}, nil
}

// Mark checks that tx is a transaction; the token is empty, because the row is the mark.
func (w *RowWitness) Mark(_ context.Context, tx any) (reliable.Token, error) {
	if _, err := sqlstore.ConnOf(tx); err != nil {
		return "", fmt.Errorf("mysqlstore: mark: %w", err)
	}
	return "", nil
}

// Ask implements [reliable.Witness]; the token is not needed.
func (w *RowWitness) Ask(ctx context.Context, id reliable.ID, _ reliable.Token) (reliable.Fate, error) {
	// READ COMMITTED, because a row that is not there would otherwise have its gap locked.
	tx, err := w.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return 0, fmt.Errorf("mysqlstore: ask: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	var found int
	err = tx.QueryRowContext(ctx, w.ask, w.row.ValueOf(id)).Scan(&found)
	switch {
	case err == nil:
		return reliable.FateCommitted, nil
	case errors.Is(err, sql.ErrNoRows):
		return reliable.FateAborted, nil
	case locked(err):
		return reliable.FateOpen, nil
	}
	return 0, fmt.Errorf("mysqlstore: ask: %w", err)
}

// errLockNowait is ER_LOCK_NOWAIT, by which MySQL says what MariaDB says with errLockWaitTimeout.
const errLockNowait = 3572

func locked(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && (e.Number == errLockWaitTimeout || e.Number == errLockNowait)
}

// MarkerWitness returns a witness that inserts a row in the business transaction and finds it, or puts a tombstone in its
// place; see [reliable.Marker]. It asks on the store's own handle.
func (s *Store) MarkerWitness(horizon time.Duration) (reliable.Witness, error) {
	return s.NewMarkerWitness(horizon, sqlstore.ConnOf, s.askMarker)
}

func (s *Store) askMarker(
	ctx context.Context, look func(context.Context, sqlstore.Conn) (reliable.Fate, error),
) (reliable.Fate, error) {
	return s.AskWithLocks(ctx, look, nil, locked)
}
