//go:build services

package postgresstore_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/internal/servertest"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

// listening waits until some connection to the database listens for wake-ups and waits.
func listening(t *testing.T, address string, n int) {
	t.Helper()
	db := openDB(t, address)
	require.Eventually(t, func() bool {
		var count int
		err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "+
			"pid <> pg_backend_pid() AND state = 'idle' AND query NOT LIKE 'UNLISTEN%' AND query LIKE '%ORDER BY due, stored_at LIMIT 1%'").Scan(&count)
		return err == nil && count == n
	}, 90*time.Second, 10*time.Millisecond)
}

func TestWake_reachesAnotherProcess(t *testing.T) {
	address := testenv.Postgres(t)
	sender, err := postgresstore.NewPgx(openPool(t, address))
	require.NoError(t, err)
	require.NoError(t, sender.Migrate(t.Context()))
	onPgx, err := postgresstore.NewPgx(openPool(t, address))
	require.NoError(t, err)
	onSQL, err := postgresstore.New(openDB(t, address))
	require.NoError(t, err)

	told := make(chan error, 4)
	for _, relay := range []*postgresstore.Store{onPgx, onPgx, onSQL, onSQL} {
		go func() { told <- relay.AwaitWake(t.Context()) }()
	}
	listening(t, address, 2) // of two calls on one store, one holds a connection
	require.NoError(t, sender.Wake(t.Context()))
	for range 4 {
		require.NoError(t, <-told)
	}
}

func TestAwaitWake_doesNotMissWhatCameBeforeItListened(t *testing.T) {
	address := testenv.Postgres(t)
	store, err := postgresstore.NewPgx(openPool(t, address))
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	_, err = store.Enqueue(t.Context(), reliable.EnqueueRequest{}, servertest.Envelope("a"))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	require.NoError(t, store.AwaitWake(ctx))
}

// tracer counts statements that begin with LISTEN.
type tracer struct{ listens atomic.Int64 }

func (l *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.HasPrefix(data.SQL, "LISTEN") {
		l.listens.Add(1)
	}
	return ctx
}

func (*tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestAwaitWake_doesNotListenToOthersWhileThisProcessIsBusy(t *testing.T) {
	config, err := pgxpool.ParseConfig(testenv.Postgres(t))
	require.NoError(t, err)
	var traced tracer
	config.ConnConfig.Tracer = &traced
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	store, err := postgresstore.NewPgx(pool)
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	began := time.Now()
	told := make(chan error, 1)
	for range 200 {
		go func() { told <- store.AwaitWake(t.Context()) }()
		require.NoError(t, store.Wake(t.Context()))
		require.NoError(t, <-told)
	}
	require.LessOrEqual(t, traced.listens.Load(), 1+int64(time.Since(began)/(100*time.Millisecond)))
	require.LessOrEqual(t, pool.Stat().NewConnsCount(), int64(3), "no connection was lost")

	go func() { told <- store.AwaitWake(t.Context()) }()
	listening(t, config.ConnString(), 1) // again, now that it is quiet
	require.NoError(t, store.Wake(t.Context()))
	require.NoError(t, <-told)
}

func TestAwaitWake_leavesASmallPoolAlone(t *testing.T) {
	address := testenv.Postgres(t)
	db := openDB(t, address)
	db.SetMaxOpenConns(2)
	store, err := postgresstore.New(db)
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	told := make(chan error, 1)
	go func() { told <- store.AwaitWake(t.Context()) }()
	require.Eventually(t, func() bool {
		require.NoError(t, store.Wake(t.Context()))
		require.Zero(t, db.Stats().InUse, "no connection is held")
		select {
		case err := <-told:
			return err == nil
		default:
			return false
		}
	}, 90*time.Second, 10*time.Millisecond)
}

func TestWake_ofManyAtOnceIsCoalesced(t *testing.T) {
	store, err := postgresstore.New(openDB(t, testenv.Postgres(t)))
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	var group sync.WaitGroup
	errs := make([]error, 50)
	for i := range errs {
		group.Go(func() { errs[i] = store.Wake(t.Context()) })
	}
	group.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}
