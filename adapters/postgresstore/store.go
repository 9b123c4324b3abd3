package postgresstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/waybillmq/waybill/adapters/internal/sqlidentity"
	"github.com/waybillmq/waybill/adapters/internal/sqlstore"
	"github.com/waybillmq/waybill/reliable"
)

var (
	_ reliable.Store         = (*Store)(nil)
	_ reliable.Transactor    = (*Store)(nil)
	_ reliable.Holder        = (*Store)(nil)
	_ reliable.Inspector     = (*Store)(nil)
	_ reliable.Purger        = (*Store)(nil)
	_ reliable.Elector       = (*Store)(nil)
	_ reliable.Pacer         = (*Store)(nil)
	_ reliable.Waker         = (*Store)(nil)
	_ reliable.Checker       = (*Store)(nil)
	_ reliable.Compensator   = (*Store)(nil)
	_ reliable.Operator      = (*Store)(nil)
	_ reliable.Inbox         = (*Store)(nil)
	_ reliable.Confirmations = (*Store)(nil)
	_ reliable.Marker        = (*Store)(nil)
	_ reliable.Withholder    = (*Store)(nil)
	_ reliable.Limited       = (*Store)(nil)
	_ reliable.Mover         = (*Store)(nil)
)

// core carries the methods that the SQL stores have in common.
type core = sqlstore.Store

// Store keeps envelopes in tables of a PostgreSQL database. It implements [reliable.Store] and every optional ability:
// [reliable.Transactor], [reliable.Holder], [reliable.Inspector], [reliable.Purger], [reliable.Elector],
// [reliable.Pacer], [reliable.Waker], [reliable.Checker], [reliable.Compensator], [reliable.Operator] and
// [reliable.Limited]. It is safe
// for concurrent use and starts no goroutine that outlives a call.
type Store struct {
	*core
	own      any // the *sql.DB or *pgxpool.Pool
	db       sqlstore.Database
	prefix   string
	look     string // what says whether there is something to claim
	logger   *slog.Logger
	notifier notifier
	listener *listener
}

// Option configures a [Store].
type Option func(*sqlstore.Config) error

// WithTablePrefix begins the names of all tables and indexes; the default is "waybill_". It has 1 to 40 of a-z, 0-9 and
// _, and does not begin with a digit. Stores of different prefixes in one database know nothing of each other. The
// tables are in the schema that the connection's search_path names first.
func WithTablePrefix(prefix string) Option {
	return func(c *sqlstore.Config) error {
		c.Prefix = prefix
		return sqlstore.CheckPrefix("WithTablePrefix", prefix)
	}
}

// WithLimits sets the sizes above which envelopes are refused with [reliable.ErrInvalid]; the default is
// [reliable.DefaultLimits]. Limits for topic, key and ID can only be lowered. A payload limit in the hundreds of
// megabytes needs as much memory in the server for each of them.
func WithLimits(limits reliable.Limits) Option {
	return func(c *sqlstore.Config) error {
		c.Limits = limits
		return sqlstore.CheckLimits("WithLimits", limits)
	}
}

// WithLogger sets where a warning goes when wake-ups cannot be received; the default is nowhere.
func WithLogger(logger *slog.Logger) Option {
	return func(c *sqlstore.Config) error {
		if logger == nil {
			return reliable.Invalid("WithLogger", "is nil, pass a logger or leave the option out")
		}
		c.Logger = logger
		return nil
	}
}

func configure(opts []Option) (sqlstore.Config, error) {
	c := sqlstore.DefaultConfig()
	var errs []error
	for _, opt := range opts {
		errs = append(errs, opt(&c))
	}
	if err := errors.Join(errs...); err != nil {
		return c, fmt.Errorf("postgresstore: %w", err)
	}
	return c, nil
}

// New returns a store on db, which the caller keeps and closes; its driver is pgx's (github.com/jackc/pgx/v5/stdlib).
// It does no I/O: run [Store.Migrate] or [Store.Check] before use.
func New(db *sql.DB, opts ...Option) (*Store, error) {
	c, err := configure(opts)
	if err != nil {
		return nil, err
	}
	if db == nil {
		return nil, fmt.Errorf("postgresstore: %w", reliable.Invalid("db", "is nil"))
	}
	own := sqlPool{sqlstore.SQLDatabase{DB: db, Options: &sql.TxOptions{Isolation: sql.LevelReadCommitted}}}
	s := newStore(db, own, c)
	s.listener.take = s.takeSQL(db)
	return s, nil
}

// NewPgx is [New] on a pool of pgx.
func NewPgx(pool *pgxpool.Pool, opts ...Option) (*Store, error) {
	c, err := configure(opts)
	if err != nil {
		return nil, err
	}
	if pool == nil {
		return nil, fmt.Errorf("postgresstore: %w", reliable.Invalid("pool", "is nil"))
	}
	s := newStore(pool, pgxPool{pool}, c)
	s.listener.take = s.takePgx(pool)
	return s, nil
}

func newStore(own any, db sqlstore.Database, c sqlstore.Config) *Store {
	d := dialect(c.Prefix)
	return &Store{
		core:     sqlstore.New(d, db, nil, c),
		look:     d.Look.Text(),
		own:      own,
		db:       db,
		prefix:   c.Prefix,
		logger:   c.Logger,
		listener: newListener(),
	}
}

// Bind returns an Enqueuer that stores in tx: a pgx.Tx, a *sql.Tx, or a transaction of a library on top of it; see
// [reliable.Transactor].
func (s *Store) Bind(tx any) (reliable.Enqueuer, error) {
	if tx, ok := tx.(pgx.Tx); ok && !isNil(tx) {
		return s.BindConn(pgxConn{tx}), nil
	}
	return s.core.Bind(tx)
}

// WithTx returns an Enqueuer that stores in tx, a transaction of the same database, which its owner commits or rolls
// back.
func (s *Store) WithTx(tx *sql.Tx) (reliable.Enqueuer, error) { return s.Bind(tx) }

// WithPgxTx is [Store.WithTx] for a transaction of pgx.
func (s *Store) WithPgxTx(tx pgx.Tx) (reliable.Enqueuer, error) { return s.Bind(tx) }

// Begin starts a business transaction; see [reliable.Transactor]. db is nil for the store's own, a *sql.DB or
// *sql.Conn, or a *pgxpool.Pool, *pgxpool.Conn or *pgx.Conn.
func (s *Store) Begin(ctx context.Context, db any) (reliable.Tx, error) {
	if db == nil {
		db = s.own
	}
	return s.core.Begin(begin(ctx, db))
}

// Database implements [reliable.Mover]: a broker that keeps its messages in the same database hands over in this store's
// transactions.
func (s *Store) Database(ctx context.Context) (string, error) {
	return s.Identify(ctx, sqlidentity.Postgres)
}

// Schema returns the SQL that creates the tables, for those who apply it themselves.
func Schema(opts ...Option) (string, error) {
	c, err := configure(opts)
	if err != nil {
		return "", err
	}
	return sqlstore.PrintSchema(migrations(c.Prefix)), nil
}

// Migrate creates the tables or brings them up to date, in one transaction; it does nothing if they are. Several
// processes may call it at once. A migration leaves the tables usable for the programs before it.
func (s *Store) Migrate(ctx context.Context) error {
	err := s.Check(ctx)
	if err == nil || !errors.Is(err, reliable.ErrSchema) {
		return err
	}
	if err := s.migrate(ctx); err != nil {
		return fmt.Errorf("postgresstore: migrate: %w", err)
	}
	return s.Check(ctx)
}

func (s *Store) migrate(ctx context.Context) error {
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	const lock = `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`
	if _, err := tx.Exec(ctx, lock, "waybill schema "+s.prefix); err != nil {
		return err
	}
	version, err := s.version(ctx, tx)
	if err != nil {
		return err
	}
	for _, m := range sqlstore.Pending(migrations(s.prefix), version) {
		for _, statement := range append(m.Statements, m.Record) {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return fmt.Errorf("version %d: %w", m.Version, err)
			}
		}
	}
	return tx.Commit(ctx)
}

// version returns the newest version that was applied, 0 if there are no tables. A failed query would end the
// transaction, so it asks first.
func (s *Store) version(ctx context.Context, tx sqlstore.Conn) (int64, error) {
	var exists bool
	var version, usableBy int64
	err := scanOne(ctx, tx, []any{&exists}, `SELECT to_regclass($1) IS NOT NULL`, `"`+s.prefix+`schema"`)
	if err != nil || !exists {
		return 0, err
	}
	err = scanOne(ctx, tx, []any{&version, &usableBy}, statements(s.prefix).Version.Text())
	return version, err
}

func scanOne(ctx context.Context, c sqlstore.Conn, dest []any, query string, args ...any) error {
	rows, err := c.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	if rows.Next() {
		err = rows.Scan(dest...)
	}
	return errors.Join(err, rows.Err(), rows.Close())
}
