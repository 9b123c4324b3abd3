//go:build services

package faults

import (
	"context"
	"database/sql"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// execFunc runs one statement in a transaction.
type execFunc func(ctx context.Context, statement string) error

// transaction is a transaction that its user began and ends.
type transaction struct {
	native           any
	exec             execFunc
	commit, rollback func(context.Context) error
}

// face is an outbox with a relay as users of one database and one driver meet it. The broker forgets nothing and refuses
// nothing: what it was given in the end is what was sent.
type face struct {
	t      *testing.T
	outbox *tagging.Outbox
	broker *membroker.Broker
	store  reliable.Store

	begin func(ctx context.Context) (*transaction, error)
	inTx  func(ctx context.Context, fn func(do execFunc, out *tagging.Scope) error) error
}

// eachFace runs a test on every database and driver, with an empty business table orders.
func eachFace(t *testing.T, test func(t *testing.T, f *face)) {
	t.Helper()
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) *face{
		"MariaDB":                 func(t *testing.T) *face { return databaseFace(t, mariaDB(t)) },
		"PostgreSQL database/sql": func(t *testing.T) *face { return databaseFace(t, postgres(t)) },
		"PostgreSQL pgx":          pgxFace,
		"SQLite":                  sqliteFace,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t)
			tx, err := f.begin(t.Context())
			require.NoError(t, err)
			require.NoError(t, tx.exec(t.Context(), "CREATE TABLE orders (id VARCHAR(64) PRIMARY KEY)"))
			require.NoError(t, tx.commit(t.Context()))
			test(t, f)
		})
	}
}

func databaseFace(t *testing.T, d database) *face {
	t.Helper()
	db, store, err := d.open(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return sqlFace(t, db, store)
}

func sqliteFace(t *testing.T) *face {
	t.Helper()
	store, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "orders.db"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	return sqlFace(t, store.DB(), store)
}

func sqlFace(t *testing.T, db *sql.DB, store reliable.Store) *face {
	t.Helper()
	f := newFace(t, store)
	on := func(tx *sql.Tx) execFunc {
		return func(ctx context.Context, statement string) error {
			_, err := tx.ExecContext(ctx, statement)
			return err
		}
	}
	f.begin = func(ctx context.Context) (*transaction, error) {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return nil, err
		}
		return &transaction{tx, on(tx), func(context.Context) error { return tx.Commit() }, func(context.Context) error { return tx.Rollback() }}, nil
	}
	f.inTx = func(ctx context.Context, fn func(execFunc, *tagging.Scope) error) error {
		return tagging.InTx(ctx, f.outbox, db, func(tx *sql.Tx, out *tagging.Scope) error { return fn(on(tx), out) })
	}
	return f
}

func pgxFace(t *testing.T) *face {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), testenv.Postgres(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	store, err := postgresstore.NewPgx(pool)
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	f := newFace(t, store)
	on := func(tx pgx.Tx) execFunc {
		return func(ctx context.Context, statement string) error {
			_, err := tx.Exec(ctx, statement)
			return err
		}
	}
	f.begin = func(ctx context.Context) (*transaction, error) {
		tx, err := pool.Begin(ctx)
		if err != nil {
			return nil, err
		}
		return &transaction{tx, on(tx), tx.Commit, tx.Rollback}, nil
	}
	f.inTx = func(ctx context.Context, fn func(execFunc, *tagging.Scope) error) error {
		return tagging.InTx(ctx, f.outbox, pool, func(tx pgx.Tx, out *tagging.Scope) error { return fn(on(tx), out) })
	}
	return f
}

// newFace starts the relay; the test's end stops it.
func newFace(t *testing.T, store reliable.Store) *face {
	t.Helper()
	f := &face{t: t, broker: membroker.New(), store: store}
	var err error
	f.outbox, err = tagging.New(store, f.broker, f.broker, tagging.WithLogger(quiet(t)), tagging.WithoutRetention(),
		tagging.WithPollInterval(50*time.Millisecond))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.outbox.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
		assert.NoError(t, f.broker.Close())
	})
	return f
}

// order is a message to the queue.
func order(id string) reliable.Envelope {
	return reliable.Envelope{ID: reliable.ID(id), Topic: queue, Payload: []byte("order " + id)}
}

// sent waits until nothing is pending and returns the ids that the broker was given, sorted.
func (f *face) sent() []string {
	f.t.Helper()
	// What is stored last is sent too: nothing that was stored before it is merely late.
	_, err := f.outbox.Publish(f.t.Context(), reliable.Envelope{ID: "last", Topic: "last", Payload: []byte("x")})
	require.NoError(f.t, err)
	require.Eventually(f.t, func() bool {
		stats, err := f.outbox.Stats(f.t.Context())
		return err == nil && len(stats) == 0 && len(f.broker.Delivered("last")) > 0
	}, patience, 20*time.Millisecond)
	ids := []string{}
	for _, delivery := range f.broker.Delivered(queue) {
		ids = append(ids, string(delivery.ID))
	}
	slices.Sort(ids)
	return ids
}
