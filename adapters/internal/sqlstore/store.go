package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Store is everything of a store but its construction. It starts no goroutine and is safe for concurrent use.
type Store struct {
	dialect Dialect
	db      Database
	limits  reliable.Limits
	wake    *wakeUp
	front   front
	// prepared is nil where the driver keeps statements prepared by itself.
	prepared *Prepared
}

// Config is what options set.
type Config struct {
	Prefix string
	Limits reliable.Limits
	Logger *slog.Logger
}

// DefaultConfig is what stores use unless configured otherwise.
func DefaultConfig() Config {
	return Config{Prefix: DefaultPrefix, Limits: reliable.DefaultLimits(), Logger: slog.New(slog.DiscardHandler)}
}

// CheckLimits says whether the columns hold what limits allow.
func CheckLimits(option string, limits reliable.Limits) error {
	hard := reliable.DefaultLimits()
	for _, field := range []struct {
		name      string
		limit     int
		hard      int
		unlimited bool
	}{
		{"Payload", limits.Payload, 1 << 30, true},
		{"Metadata", limits.Metadata, 4 << 20, true},
		{"MetadataPairs", limits.MetadataPairs, 1 << 20, true},
		{"Topic", limits.Topic, hard.Topic, false},
		{"Key", limits.Key, hard.Key, false},
		{"ID", limits.ID, hard.ID, false},
	} {
		switch {
		case field.limit < 0:
			return reliable.Invalid(option, "has a negative %s", field.name)
		case field.limit > field.hard || field.limit == 0 && !field.unlimited:
			return reliable.Invalid(option, "has %d for %s, the column holds %d", field.limit, field.name, field.hard)
		}
	}
	return nil
}

// New returns a store on db. Stores of the same prefix on pool, which may be nil, wake each other.
func New(dialect Dialect, db Database, pool *sql.DB, config Config) *Store {
	return &Store{dialect: dialect, db: db, limits: config.Limits, wake: wakeUpOf(pool, config.Prefix)}
}

// Prepare has the store keep its INSERTs prepared by p, and returns it.
func (s *Store) Prepare(p *Prepared) *Store {
	s.prepared = p
	p.closeWith(s)
	return s
}

// Limits returns the sizes above which envelopes are refused.
func (s *Store) Limits() reliable.Limits { return s.limits }

// fail names the operation in err, and what helps against it.
func (s *Store) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	if s.dialect.Classify(err) == Missing && !errors.Is(err, reliable.ErrSchema) {
		err = fmt.Errorf("%w: %w: run Migrate or apply the output of Schema", reliable.ErrSchema, err)
	}
	return fmt.Errorf("%s: %s: %w", s.dialect.Package, op, err)
}

// exec runs a statement that changes rows.
func (s *Store) exec(ctx context.Context, c Conn, st Statement, args ...any) (int64, error) {
	if s.dialect.Arrays {
		return c.Exec(ctx, st.text, args...)
	}
	text, flat := st.expand(args)
	return c.Exec(ctx, text, flat...)
}

// query runs a statement and has each row read by scan.
func (s *Store) query(ctx context.Context, c Conn, scan func(Rows) error, st Statement, args ...any) error {
	text := st.text
	if !s.dialect.Arrays {
		text, args = st.expand(args)
	}
	rows, err := c.Query(ctx, text, args...)
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := scan(rows); err != nil {
			_ = rows.Close()
			return err
		}
	}
	if err := rows.Err(); err != nil {
		_ = rows.Close()
		return err
	}
	return rows.Close()
}

// rows reads rows of the outbox.
func (s *Store) rows(ctx context.Context, c Conn, st Statement, args ...any) ([]*row, error) {
	var all []*row
	err := s.query(ctx, c, func(rows Rows) error {
		r := new(row)
		all = append(all, r)
		return r.scan(rows)
	}, st, args...)
	return all, err
}

// strings reads one column of text.
func (s *Store) strings(ctx context.Context, c Conn, st Statement, args ...any) ([]string, error) {
	var all []string
	err := s.query(ctx, c, func(rows Rows) error {
		var text string
		if err := rows.Scan(&text); err != nil {
			return err
		}
		all = append(all, text)
		return nil
	}, st, args...)
	return all, err
}

// read runs fn on a connection, outside a transaction. It may be repeated.
func (s *Store) read(ctx context.Context, fn func(Conn) error) error {
	for t := s.begin(); ; {
		conn, release, err := s.db.Acquire(ctx)
		if err != nil {
			return err
		}
		err = fn(conn)
		release()
		if err == nil || !t.again(ctx, err) {
			return err
		}
	}
}

// write runs fn in a short transaction of its own and commits it. It is repeated when the database broke it off to end
// a deadlock, so fn starts from nothing each time. An error that is [reliable.ErrUnknown] means that the answer to
// COMMIT was cut off; any other, that nothing was written.
func (s *Store) write(ctx context.Context, fn func(Tx) error) error {
	for t := s.begin(); ; {
		err := s.writeOnce(ctx, fn)
		if err == nil || errors.Is(err, reliable.ErrUnknown) || !t.again(ctx, err) {
			return err
		}
	}
}

func (s *Store) writeOnce(ctx context.Context, fn func(Tx) error) error {
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		tx.Rollback()
		return err
	}
	return s.committed(tx.Commit(ctx))
}

// committed says what an error of COMMIT means.
func (s *Store) committed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errUncommitted), stale(err):
		return err
	case s.dialect.Classify(err) == Lost:
		return fmt.Errorf("%w: the answer to COMMIT was cut off: %w", reliable.ErrUnknown, err)
	}
	return err
}

const (
	// maxTries bounds how often a transaction is repeated that the database broke off. Seven are enough for the lock order
	// of this package; more would hide a hot spot.
	maxTries = 7
	// maxTrying bounds how long, for the databases that wait long for a lock before they break off.
	maxTrying = 10 * time.Second
)

// tries counts how often, and how long, an operation has been tried.
type tries struct {
	store *Store
	n     int
	since time.Time
}

func (s *Store) begin() tries { return tries{store: s, since: time.Now()} }

// again reports whether an operation that failed with err is to be repeated, after a pause that grows.
func (t *tries) again(ctx context.Context, err error) bool {
	t.n++
	if t.n >= maxTries || ctx.Err() != nil || time.Since(t.since) > maxTrying {
		return false
	}
	if stale(err) {
		return t.n <= staleConnections
	}
	if t.store.dialect.Classify(err) != Conflict {
		return false
	}
	pause := time.NewTimer(time.Duration(rand.Int64N(int64(time.Millisecond) << t.n))) //nolint:gosec // no secret
	defer pause.Stop()
	select {
	case <-pause.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// inChunks calls fn for the parts of list that fit one statement.
func inChunks[E any](list []E, size int, fn func([]E) error) error {
	for len(list) > 0 {
		n := min(size, len(list))
		if err := fn(list[:n]); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}
