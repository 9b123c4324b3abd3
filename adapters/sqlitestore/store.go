package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

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
	_ reliable.Writing       = (*Store)(nil)
	_ reliable.Portioned     = (*Store)(nil)
)

// core carries the methods that the SQL stores have in common.
type core = sqlstore.Store

// Store keeps envelopes in tables of a SQLite database. It implements [reliable.Store] and every optional ability:
// [reliable.Transactor], [reliable.Holder], [reliable.Inspector], [reliable.Purger], [reliable.Elector],
// [reliable.Pacer], [reliable.Waker], [reliable.Checker], [reliable.Compensator], [reliable.Operator] and
// [reliable.Limited]. It is safe
// for concurrent use and starts no goroutine.
type Store struct {
	*core
	db     *database
	prefix string
	logger *slog.Logger
	owned  bool // db was opened by Open
}

// Option configures a [Store].
type Option func(*options) error

type options struct {
	sqlstore.Config
	synchronous string
	busyTimeout time.Duration
	asItIs      bool // Open leaves the tables alone
	opening     bool // not only New
}

// WithTablePrefix begins the names of all tables and indexes; the default is "waybill_". It has 1 to 40 of a-z, 0-9 and
// _, and does not begin with a digit. Stores of different prefixes in one database know nothing of each other.
func WithTablePrefix(prefix string) Option {
	return func(o *options) error {
		o.Prefix = prefix
		return sqlstore.CheckPrefix("WithTablePrefix", prefix)
	}
}

// WithLimits sets the sizes above which envelopes are refused with [reliable.ErrInvalid]; the default is
// [reliable.DefaultLimits]. Limits for topic, key and ID can only be lowered. A payload limit in the hundreds of
// megabytes makes single statements large enough to stall every other writer.
func WithLimits(limits reliable.Limits) Option {
	return func(o *options) error {
		o.Limits = limits
		return sqlstore.CheckLimits("WithLimits", limits)
	}
}

// WithLogger sets where warnings about a database that is not set up well go; the default is nowhere.
func WithLogger(logger *slog.Logger) Option {
	return func(o *options) error {
		if logger == nil {
			return reliable.Invalid("WithLogger", "is nil, pass a logger or leave the option out")
		}
		o.Logger = logger
		return nil
	}
}

// WithSynchronousNormal has SQLite sync the write-ahead log at checkpoints and not at every commit: several times as
// many commits a second, but after a power loss (not after a crash of the process) the last commits may be gone,
// business data and messages alike. The default is FULL. It is for [Open] only.
func WithSynchronousNormal() Option {
	return func(o *options) error {
		o.synchronous = "NORMAL"
		if !o.opening {
			return reliable.Invalid("WithSynchronousNormal", "is for Open; set the pragma synchronous where the database is opened")
		}
		return nil
	}
}

// WithBusyTimeout sets how long a writer waits while another process or transaction holds the write lock; for [Open]
// only. The default is 5 s, contexts end it earlier. Too short fails transactions under load, too long hides a
// transaction that somebody left open.
func WithBusyTimeout(timeout time.Duration) Option {
	return func(o *options) error {
		o.busyTimeout = timeout
		switch {
		case !o.opening:
			return reliable.Invalid("WithBusyTimeout", "is for Open; set the pragma busy_timeout where the database is opened")
		case timeout < time.Millisecond || timeout > time.Hour:
			return reliable.Invalid("WithBusyTimeout", "is %v, must be from 1ms to 1h", timeout)
		}
		return nil
	}
}

// WithoutMigration has [Open] leave the tables as they are: whoever opened the store calls [Store.Check] or [Store.Migrate].
// It is for programs that look into what belongs to others. The default is to bring them up to date.
func WithoutMigration() Option {
	return func(o *options) error {
		o.asItIs = true
		if !o.opening {
			return reliable.Invalid("WithoutMigration", "is for Open; New leaves the tables alone anyway")
		}
		return nil
	}
}

const defaultBusyTimeout = 5 * time.Second

func configure(opening bool, opts []Option) (options, error) {
	o := options{
		Config: sqlstore.DefaultConfig(), synchronous: "FULL", busyTimeout: defaultBusyTimeout, opening: opening,
	}
	var errs []error
	for _, opt := range opts {
		errs = append(errs, opt(&o))
	}
	if err := errors.Join(errs...); err != nil {
		return o, fmt.Errorf("sqlitestore: %w", err)
	}
	return o, nil
}

// New returns a store on db, which the caller keeps and closes. It does no I/O: run [Store.Migrate] or [Store.Check]
// before use.
//
// db is opened by the driver "sqlite" of modernc.org/sqlite. For more than one writer at a time it should have the
// pragmas journal_mode(WAL) and busy_timeout(5000) on every connection and the parameter _txlock=immediate; [Open] sets
// these. The business transactions whose messages are stored are transactions of the same db.
func New(db *sql.DB, opts ...Option) (*Store, error) {
	o, err := configure(false, opts)
	if err != nil {
		return nil, err
	}
	if db == nil {
		return nil, fmt.Errorf("sqlitestore: %w", reliable.Invalid("db", "is nil"))
	}
	return newStore(db, o), nil
}

func newStore(db *sql.DB, o options) *Store {
	d := newDatabase(db, o.Prefix)
	core := sqlstore.New(dialect(o.Prefix), d, db, o.Config)
	if o.opening {
		d.wait = o.busyTimeout
		d.Prepared = sqlstore.NewPrepared(db, classify)
		core.Prepare(d.Prepared)
	}
	return &Store{core: core, db: d, prefix: o.Prefix, logger: o.Logger, owned: o.opening}
}

// Open opens the database file at path, creates it if need be, sets it up (WAL, a busy timeout, BEGIN IMMEDIATE,
// synchronous=FULL) and, but for [WithoutMigration], brings its tables up to date. Business transactions are begun on
// [Store.DB], or by the store. [Store.Close] closes it.
func Open(ctx context.Context, path string, opts ...Option) (*Store, error) {
	o, err := configure(true, opts)
	if err != nil {
		return nil, err
	}
	if path == "" || strings.HasPrefix(path, ":") || strings.HasPrefix(path, "file:") {
		return nil, fmt.Errorf("sqlitestore: open: %w", reliable.Invalid("path", "must be the path of a file; for a database "+
			"in memory use memstore, for a URI open it yourself and use New"))
	}
	db, err := sql.Open("sqlite", dsn(path, o))
	if err != nil {
		return nil, fmt.Errorf("sqlitestore: open: %w", err)
	}
	s := newStore(db, o)
	// The first connection turns the journal of a new file into a WAL, and finds out at once what is no database. Several
	// processes that do so may be told that the file is busy, without having waited for the busy timeout.
	if err = whileBusy(ctx, o.busyTimeout, func() error { return db.PingContext(ctx) }); err != nil {
		err = fmt.Errorf("sqlitestore: open: %w", err)
	} else if !o.asItIs {
		err = s.Migrate(ctx)
	}
	if err != nil {
		_ = db.Close()
		return nil, err
	}
	return s, nil
}

// dsn names the file and what every connection to it is set to.
func dsn(path string, o options) string {
	parameters := url.Values{"_txlock": {"immediate"}, "_pragma": {
		fmt.Sprintf("busy_timeout(%d)", o.busyTimeout.Milliseconds()),
		"journal_mode(WAL)",
		"synchronous(" + o.synchronous + ")",
	}}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: parameters.Encode()}).String()
}

// DB returns the database, for business tables and transactions.
func (s *Store) DB() *sql.DB { return s.db.DB }

// Close closes the database if [Open] opened it; it does nothing for a store made by [New], and nothing the second
// time.
func (s *Store) Close() error {
	if !s.owned {
		return nil
	}
	return s.db.DB.Close()
}

// Writers is 1: a database has one writer at a time, and a second one only waits for it.
func (*Store) Writers() int { return 1 }

// WithTx returns an Enqueuer that stores in tx, a transaction of the same database, which its owner commits or rolls
// back.
func (s *Store) WithTx(tx *sql.Tx) (reliable.Enqueuer, error) { return s.Bind(tx) }

// Begin starts a business transaction that holds the write lock from its beginning; see [reliable.Transactor]. db is
// nil for the store's own, or a *sql.DB or *sql.Conn of the same file.
func (s *Store) Begin(ctx context.Context, db any) (reliable.Tx, error) {
	return s.core.Begin(s.db.business(ctx, db))
}

// Schema returns the SQL that creates the tables, for those who apply it themselves.
func Schema(opts ...Option) (string, error) {
	o, err := configure(true, opts)
	if err != nil {
		return "", err
	}
	return sqlstore.PrintSchema(migrations(o.Prefix)), nil
}

// Migrate creates the tables or brings them up to date, in one transaction; it does nothing if they are. Several
// processes may call it at once. A migration leaves the tables usable for the programs before it.
func (s *Store) Migrate(ctx context.Context) error {
	err := s.Check(ctx)
	if err == nil || !errors.Is(err, reliable.ErrSchema) {
		return err
	}
	if err := s.migrate(ctx); err != nil {
		return fmt.Errorf("sqlitestore: migrate: %w", err)
	}
	return s.Check(ctx)
}

func (s *Store) migrate(ctx context.Context) error {
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
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

// version returns the newest version that was applied, 0 if there are no tables.
func (s *Store) version(ctx context.Context, tx sqlstore.Conn) (int64, error) {
	var version, usableBy int64
	rows, err := tx.Query(ctx, statements(s.prefix).Version.Text())
	if err == nil {
		defer func() { _ = rows.Close() }()
		if rows.Next() {
			err = rows.Scan(&version, &usableBy)
		}
		err = errors.Join(err, rows.Err())
	}
	if err != nil && classify(err) == sqlstore.Missing {
		return 0, nil
	}
	return version, err
}

// Check returns an error that is [reliable.ErrSchema] if the tables are missing, too old or too new. It logs a warning
// if the database is not set up for several writers.
func (s *Store) Check(ctx context.Context) error {
	if err := s.core.Check(ctx); err != nil {
		return err
	}
	var timeout int
	if err := s.db.DB.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&timeout); err == nil && timeout == 0 {
		s.logger.WarnContext(ctx, "sqlite database has no busy_timeout: concurrent writers will fail instead of waiting")
	}
	return nil
}
