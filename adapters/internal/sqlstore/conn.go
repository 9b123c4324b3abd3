package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
)

// Conn runs statements: one connection, or one transaction.
type Conn interface {
	// Exec returns how many rows were affected.
	Exec(ctx context.Context, query string, args ...any) (int64, error)
	Query(ctx context.Context, query string, args ...any) (Rows, error)
}

// Rows is what *sql.Rows and pgx.Rows have in common.
type Rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
	Close() error
}

// Database is where a store's own connections and transactions come from.
type Database interface {
	// Acquire takes a connection for single statements. An error of it means that nothing was sent.
	Acquire(ctx context.Context) (Conn, func(), error)
	// Begin starts a short READ COMMITTED transaction.
	Begin(ctx context.Context) (Tx, error)
}

// Tx is a transaction of a store's own.
type Tx interface {
	Conn
	Commit(ctx context.Context) error
	// Rollback ends the transaction if it is still open; its error is of no interest, the server rolls back as well when
	// the connection is gone.
	Rollback()
}

// Executor is what *sql.DB, *sql.Conn, *sql.Tx and the transactions of GORM, sqlx, ent and bun have in common.
type Executor interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// SQLConn runs statements on an [Executor].
type SQLConn struct{ On Executor }

// Exec implements [Conn].
func (c SQLConn) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	result, err := c.On.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// Query implements [Conn].
func (c SQLConn) Query(ctx context.Context, query string, args ...any) (Rows, error) {
	rows, err := c.On.QueryContext(ctx, query, args...) //nolint:rowserrcheck // who reads them asks: see Store.query
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// SQLDatabase is a [Database] on database/sql.
type SQLDatabase struct {
	DB *sql.DB
	// Options are those of the store's own transactions.
	Options *sql.TxOptions
	// Prepared is what is kept prepared on DB; nil for nothing.
	Prepared *Prepared
}

// staleConnections is how many dead connections of the pool are passed over before a new one is asked for; the driver
// says of these that nothing was sent.
const staleConnections = 3

// Acquire implements [Database].
func (d SQLDatabase) Acquire(ctx context.Context) (Conn, func(), error) {
	conn, err := d.DB.Conn(ctx)
	if err != nil {
		return nil, nil, err
	}
	return SQLConn{conn}, func() { _ = conn.Close() }, nil
}

// Begin implements [Database].
func (d SQLDatabase) Begin(ctx context.Context) (Tx, error) {
	d.Prepared.Ready(ctx)
	tx, err := d.DB.BeginTx(ctx, d.Options)
	if err != nil {
		return nil, err
	}
	return &SQLTx{SQLConn: SQLConn{tx}, Tx: tx}, nil
}

// preparing is an optional ability of a Conn: it runs what is kept prepared.
type preparing interface {
	execPrepared(ctx context.Context, p *Prepared, query string, args []any) (affected int64, err error)
}

// SQLTx is a [Tx] on database/sql.
type SQLTx struct {
	SQLConn
	Tx *sql.Tx
}

// Commit waits for the answer no longer than ctx; [sql.Tx.Commit] alone would wait for ever for a server that hangs.
func (t *SQLTx) Commit(ctx context.Context) error { return CommitSQL(ctx, t.Tx) }

func (t *SQLTx) execPrepared(ctx context.Context, p *Prepared, query string, args []any) (int64, error) {
	return p.execIn(ctx, t.Tx, query, args)
}

// Rollback implements [Tx].
func (t *SQLTx) Rollback() { _ = t.Tx.Rollback() }

// CommitSQL commits tx and waits for the answer no longer than ctx. [errUncommitted] marks the errors by which COMMIT
// was certainly not sent.
func CommitSQL(ctx context.Context, tx *sql.Tx) error {
	if err := ctx.Err(); err != nil {
		_ = tx.Rollback()
		return errors.Join(errUncommitted, err)
	}
	if ctx.Done() == nil {
		return commitSQL(tx)
	}
	answer := make(chan error, 1)
	go func() { answer <- commitSQL(tx) }()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-answer: // both were ready: the answer is the better one
		return err
	default:
		return ctx.Err()
	}
}

// errUncommitted marks an error by which COMMIT was certainly not sent.
var errUncommitted = errors.New("not committed")

func commitSQL(tx *sql.Tx) error {
	err := tx.Commit()
	// database/sql answers these by itself, before it asks the driver: the transaction was ended already.
	if errors.Is(err, sql.ErrTxDone) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return errors.Join(errUncommitted, err)
	}
	return err
}

// stale reports whether err says that the connection was dead before anything was sent on it.
func stale(err error) bool { return errors.Is(err, driver.ErrBadConn) }

// NotCommitted marks an error by which COMMIT was certainly not sent.
func NotCommitted(err error) error { return errors.Join(errUncommitted, err) }
