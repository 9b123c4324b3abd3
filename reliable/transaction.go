package reliable

import "context"

// Transactor is the ability of a store to write inside a business transaction of its users.
type Transactor interface {
	// Bind returns an Enqueuer that stores inside tx, which its owner commits or rolls back. SQL stores take *sql.Tx,
	// pgx.Tx (PostgreSQL) and anything else with ExecContext and QueryContext that is a transaction, so those of GORM,
	// sqlx, ent and bun. Anything that is no transaction, a *sql.DB above all, is refused with [ErrInvalid].
	Bind(tx any) (Enqueuer, error)
	// Begin starts a transaction on db, the user's own handle: *sql.DB or *sql.Conn, for PostgreSQL also *pgxpool.Pool or
	// *pgx.Conn; nil means the store's own. Another type is refused with [ErrInvalid].
	Begin(ctx context.Context, db any) (Tx, error)
}

// Tx is a business transaction that the store began. It is used by one goroutine at a time.
type Tx interface {
	Enqueuer
	// Native returns what the user works with: a *sql.Tx or a pgx.Tx.
	Native() any
	// Commit returns nil if the transaction committed, an error that is [ErrUnknown] if the answer was cut off, and any
	// other error if it certainly did not commit.
	Commit(ctx context.Context) error
	// Rollback ends the transaction; it does nothing after Commit or Rollback. It works after ctx of Begin was canceled.
	Rollback(ctx context.Context) error
	// Savepoint opens a scope inside the transaction that can be taken back on its own.
	Savepoint(ctx context.Context) (Savepoint, error)
}

// Savepoint is a scope inside a [Tx]. Scopes end in the reverse order of their opening.
type Savepoint interface {
	// Release keeps what was done since the savepoint.
	Release(ctx context.Context) error
	// Rollback takes back what was done since the savepoint; the transaction goes on.
	Rollback(ctx context.Context) error
}
