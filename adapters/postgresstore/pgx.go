package postgresstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/waybillmq/waybill/adapters/internal/sqlstore"
	"github.com/waybillmq/waybill/reliable"
)

// executor is what pgx's connections and transactions have in common.
type executor interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// pgxConn runs statements on pgx.
type pgxConn struct{ on executor }

func (c pgxConn) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	tag, err := c.on.Exec(ctx, query, args...)
	return tag.RowsAffected(), unsent(err, args)
}

func (c pgxConn) Query(ctx context.Context, query string, args ...any) (sqlstore.Rows, error) {
	rows, err := c.on.Query(ctx, query, args...)
	if err != nil {
		return nil, unsent(err, args)
	}
	return pgxRows{rows}, nil
}

// unsent marks, as database/sql does, the errors by which nothing was sent because the connection was dead already. pgx
// can tell for statements with arguments only.
func unsent(err error, args []any) error {
	if len(args) > 0 && pgconn.SafeToRetry(err) && !pgconn.Timeout(err) && !errors.Is(err, context.Canceled) {
		return errors.Join(driver.ErrBadConn, err)
	}
	return err
}

type pgxRows struct{ pgx.Rows }

func (r pgxRows) Close() error {
	r.Rows.Close()
	return r.Err()
}

// pgxPool is where the connections of a store on pgxpool come from.
type pgxPool struct{ pool *pgxpool.Pool }

func (p pgxPool) Acquire(ctx context.Context) (sqlstore.Conn, func(), error) {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return nil, nil, err
	}
	return pgxConn{conn}, conn.Release, nil
}

// A plan that was made while the tables were small, or before they were first analyzed, scans them, and is kept for as
// long as the connection does not hear of new statistics, however much they grow meanwhile. The statements of a store's
// own transactions have an index each.
const (
	indexesOnly = `SET LOCAL enable_seqscan = off`
	beginQuery  = `BEGIN ISOLATION LEVEL READ COMMITTED; ` + indexesOnly
)

// sqlPool is where the connections of a store on database/sql come from.
type sqlPool struct{ sqlstore.SQLDatabase }

func (p sqlPool) Begin(ctx context.Context) (sqlstore.Tx, error) {
	tx, err := p.SQLDatabase.Begin(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, indexesOnly); err != nil {
		tx.Rollback()
		return nil, err
	}
	return tx, nil
}

// beginTries is how many dead connections of the pool are passed over: a BEGIN that was lost did nothing.
const beginTries = 3

func (p pgxPool) Begin(ctx context.Context) (sqlstore.Tx, error) {
	for try := 1; ; try++ {
		tx, err := p.pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: beginQuery})
		if err == nil {
			return &pgxTx{pgxConn{tx}, tx}, nil
		}
		var refused *pgconn.PgError
		var connecting *pgconn.ConnectError
		if try == beginTries || ctx.Err() != nil || errors.As(err, &refused) || errors.As(err, &connecting) {
			return nil, err
		}
	}
}

// pgxTx is a transaction of the store's own.
type pgxTx struct {
	pgxConn
	tx pgx.Tx
}

func (t *pgxTx) Commit(ctx context.Context) error { return commit(ctx, t.tx) }

func (t *pgxTx) Rollback() { _ = rollback(context.Background(), t.tx) }

// rollbackTimeout is how long a rollback may take; the connection is closed then, and the server rolls back by itself.
const rollbackTimeout = 5 * time.Second

// pgxNative is a business transaction on pgx.
type pgxNative struct {
	pgxConn
	tx pgx.Tx
}

func (n *pgxNative) Native() any { return n.tx }

func (n *pgxNative) Commit(ctx context.Context) error { return commit(ctx, n.tx) }

// commit tells the cases in which COMMIT was certainly not sent.
func commit(ctx context.Context, tx pgx.Tx) error {
	if err := ctx.Err(); err != nil {
		_ = rollback(ctx, tx)
		return sqlstore.NotCommitted(err)
	}
	if tx.Conn().IsClosed() {
		_ = rollback(ctx, tx)
		return sqlstore.NotCommitted(pgconn.ErrConnClosed)
	}
	return tx.Commit(ctx)
}

func rollback(ctx context.Context, tx pgx.Tx) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if err := tx.Rollback(ctx); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
		return err
	}
	return nil
}

func (n *pgxNative) Rollback(ctx context.Context) error { return rollback(ctx, n.tx) }

// pgxBeginner is what *pgxpool.Pool, *pgxpool.Conn and *pgx.Conn have in common.
type pgxBeginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// begin starts a business transaction on a user's handle.
func begin(ctx context.Context, db any) (sqlstore.Native, error) {
	var beginner pgxBeginner
	switch db := db.(type) {
	case *pgxpool.Pool:
		if db != nil {
			beginner = db
		}
	case *pgxpool.Conn:
		if db != nil {
			beginner = db
		}
	case *pgx.Conn:
		if db != nil {
			beginner = db
		}
	case *sql.DB, *sql.Conn:
		return sqlstore.BeginSQL(ctx, db)
	}
	if beginner == nil {
		return nil, reliable.Invalid("db", "is a %T, pass a *sql.DB, *sql.Conn, *pgxpool.Pool, *pgxpool.Conn or *pgx.Conn, "+
			"or nil for the store's own", db)
	}
	tx, err := beginner.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &pgxNative{pgxConn{tx}, tx}, nil
}
