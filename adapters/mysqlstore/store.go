package mysqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

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
	_ reliable.Portioned     = (*Store)(nil)
)

// core carries the methods that the SQL stores have in common.
type core = sqlstore.Store

// Store keeps envelopes in tables of a MySQL or MariaDB database. It implements [reliable.Store] and every optional
// ability: [reliable.Transactor], [reliable.Holder], [reliable.Inspector], [reliable.Purger], [reliable.Elector],
// [reliable.Pacer], [reliable.Waker], [reliable.Checker], [reliable.Compensator], [reliable.Operator], [reliable.Limited] and
// [reliable.Portioned]. It is safe for concurrent use and starts no goroutine that outlives a call. It keeps the
// statements that store few envelopes prepared on the connections of its pool, so a program makes one Store and keeps
// it.
type Store struct {
	*core
	db       *sql.DB
	prepared *sqlstore.Prepared
	prefix   string
}

// Option configures a [Store].
type Option func(*sqlstore.Config) error

// WithTablePrefix begins the names of all tables; the default is "waybill_". It has 1 to 40 of a-z, 0-9 and _, and does
// not begin with a digit. Stores of different prefixes in one database know nothing of each other.
func WithTablePrefix(prefix string) Option {
	return func(c *sqlstore.Config) error {
		c.Prefix = prefix
		return sqlstore.CheckPrefix("WithTablePrefix", prefix)
	}
}

// WithLimits sets the sizes above which envelopes are refused with [reliable.ErrInvalid]; the default is
// [reliable.DefaultLimits]. Limits for topic, key and ID can only be lowered. A payload limit above half of the
// server's max_allowed_packet accepts payloads that the server then refuses.
func WithLimits(limits reliable.Limits) Option {
	return func(c *sqlstore.Config) error {
		c.Limits = limits
		return sqlstore.CheckLimits("WithLimits", limits)
	}
}

func configure(opts []Option) (sqlstore.Config, error) {
	c := sqlstore.DefaultConfig()
	var errs []error
	for _, opt := range opts {
		errs = append(errs, opt(&c))
	}
	if err := errors.Join(errs...); err != nil {
		return c, fmt.Errorf("mysqlstore: %w", err)
	}
	return c, nil
}

// New returns a store on db, which the caller keeps and closes. It does no I/O: run [Store.Migrate] or [Store.Check]
// before use.
func New(db *sql.DB, opts ...Option) (*Store, error) {
	c, err := configure(opts)
	if err != nil {
		return nil, err
	}
	if db == nil {
		return nil, fmt.Errorf("mysqlstore: %w", reliable.Invalid("db", "is nil"))
	}
	prepared := sqlstore.NewPrepared(db, classify)
	own := sqlstore.SQLDatabase{DB: db, Options: &sql.TxOptions{Isolation: sql.LevelReadCommitted}, Prepared: prepared}
	return &Store{core: sqlstore.New(dialect(c.Prefix), own, db, c).Prepare(prepared), db: db, prepared: prepared, prefix: c.Prefix}, nil
}

// WithTx returns an Enqueuer that stores in tx, a transaction of the same database, which its owner commits or rolls
// back.
func (s *Store) WithTx(tx *sql.Tx) (reliable.Enqueuer, error) { return s.Bind(tx) }

// Begin starts a business transaction; see [reliable.Transactor]. db is nil for the store's own, or a *sql.DB or
// *sql.Conn.
func (s *Store) Begin(ctx context.Context, db any) (reliable.Tx, error) {
	if db == nil {
		db = s.db
	}
	s.prepared.Ready(ctx)
	return s.core.Begin(sqlstore.BeginSQL(ctx, db))
}

// Database implements [reliable.Mover]: a broker that keeps its messages in the same database hands over in this store's
// transactions.
func (s *Store) Database(ctx context.Context) (string, error) {
	return s.Identify(ctx, sqlidentity.MySQL)
}

// Schema returns the SQL that creates the tables, for those who apply it themselves.
func Schema(opts ...Option) (string, error) {
	c, err := configure(opts)
	if err != nil {
		return "", err
	}
	return sqlstore.PrintSchema(migrations(c.Prefix)), nil
}

// Migrate creates the tables or brings them up to date; it does nothing if they are. Several processes may call it at
// once. The server commits each statement; an interrupted migration is completed by the next call. A migration leaves
// the tables usable for the programs before it.
func (s *Store) Migrate(ctx context.Context) error {
	err := s.Check(ctx)
	if err == nil || !errors.Is(err, reliable.ErrSchema) {
		return err
	}
	if err := s.migrate(ctx); err != nil {
		return fmt.Errorf("mysqlstore: migrate: %w", err)
	}
	return s.Check(ctx)
}

const (
	// migrationWait is how long a process waits for another one's migration, in seconds.
	migrationWait = 60
	// unlockTimeout is how long giving the lock back may take; the server does it when the connection ends.
	unlockTimeout = 5 * time.Second
)

var errMigrating = errors.New("another process has been migrating for a minute: try again")

func (s *Store) migrate(ctx context.Context) error {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()

	// Names of locks belong to the whole server and have at most 64 characters.
	const lock = `SHA1(CONCAT('waybill schema ', DATABASE(), ' ', ?))`
	var got sql.NullInt64
	err = conn.QueryRowContext(ctx, `SELECT GET_LOCK(`+lock+`, ?)`, s.prefix, migrationWait).Scan(&got)
	switch {
	case err != nil:
		return err
	case got.Int64 != 1:
		return errMigrating
	}
	defer func() {
		unlocking, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
		defer cancel()
		_, _ = conn.ExecContext(unlocking, `DO RELEASE_LOCK(`+lock+`)`, s.prefix)
	}()

	version, err := s.version(ctx, conn)
	if err != nil {
		return err
	}
	for _, m := range sqlstore.Pending(migrations(s.prefix), version) {
		for _, statement := range append(m.Statements, m.Record) {
			if _, err := conn.ExecContext(ctx, statement); err != nil {
				return fmt.Errorf("version %d: %w", m.Version, err)
			}
		}
	}
	return nil
}

// version returns the newest version that was applied, 0 if there are no tables.
func (s *Store) version(ctx context.Context, conn *sql.Conn) (int64, error) {
	var version, usableBy int64
	err := conn.QueryRowContext(ctx, statements(s.prefix).Version.Text()).Scan(&version, &usableBy)
	if err != nil && classify(err) == sqlstore.Missing {
		return 0, nil
	}
	return version, err
}
