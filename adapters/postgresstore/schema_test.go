//go:build services

package postgresstore_test

import (
	"database/sql"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

func TestMigrate_ofManyProcessesAtOnce(t *testing.T) {
	dsn := testenv.Postgres(t)
	var group sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		db := openDB(t, dsn)
		group.Go(func() {
			store, err := postgresstore.New(db)
			if err == nil {
				err = store.Migrate(t.Context())
			}
			errs[i] = err
		})
	}
	group.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

func TestMigrate_completesAnInterruptedOne(t *testing.T) {
	db := openDB(t, testenv.Postgres(t))
	store, err := postgresstore.New(db)
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	for _, statement := range []string{"DROP TABLE waybill_hold", "DELETE FROM waybill_schema"} {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	require.ErrorIs(t, store.Check(t.Context()), reliable.ErrSchema)
	require.NoError(t, store.Migrate(t.Context()))
	_, err = store.Holds(t.Context())
	require.NoError(t, err)
}

func TestSchema_canBeAppliedByHandAndTwice(t *testing.T) {
	db := openDB(t, testenv.Postgres(t))
	script, err := postgresstore.Schema()
	require.NoError(t, err)
	for range 2 {
		for statement := range strings.SplitSeq(script, ";\n") {
			if statement = strings.TrimSpace(statement); statement != "" {
				_, err := db.ExecContext(t.Context(), statement)
				require.NoError(t, err, statement)
			}
		}
	}
	store, err := postgresstore.New(db)
	require.NoError(t, err)
	require.NoError(t, store.Check(t.Context()))
}

func TestCheck_saysWhatToDo(t *testing.T) {
	db := openDB(t, testenv.Postgres(t))
	store, err := postgresstore.New(db)
	require.NoError(t, err)
	missing := func(err error) {
		t.Helper()
		require.ErrorIs(t, err, reliable.ErrSchema)
		require.ErrorContains(t, err, "run Migrate or apply the output of Schema")
	}
	missing(store.Check(t.Context()))
	_, err = store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
	missing(err)
	require.ErrorIs(t, err, reliable.ErrNotStored)
	_, err = store.Stats(t.Context())
	missing(err)

	require.NoError(t, store.Migrate(t.Context()))
	set := func(version, usableBy int) {
		_, err := db.ExecContext(t.Context(), "DELETE FROM waybill_schema")
		require.NoError(t, err)
		_, err = db.ExecContext(t.Context(), "INSERT INTO waybill_schema VALUES ($1, $2, 0)", version, usableBy)
		require.NoError(t, err)
	}
	set(0, 0)
	missing(store.Check(t.Context()))
	set(7, 1)
	require.NoError(t, store.Check(t.Context()), "a newer program has migrated, and says that this one can go on")
	set(7, 6)
	err = store.Check(t.Context())
	require.ErrorIs(t, err, reliable.ErrSchema)
	require.ErrorContains(t, err, "update it")
}

func TestStores_ofTwoPrefixesKnowNothingOfEachOther(t *testing.T) {
	db := openDB(t, testenv.Postgres(t))
	stores := make([]*postgresstore.Store, 2)
	for i, prefix := range []string{"a_", "b_"} {
		store, err := postgresstore.New(db, postgresstore.WithTablePrefix(prefix))
		require.NoError(t, err)
		require.NoError(t, store.Migrate(t.Context()))
		stores[i] = store
	}
	_, err := stores[0].Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"), keyed("b", "k"))
	require.NoError(t, err)
	stats, err := stores[1].Stats(t.Context())
	require.NoError(t, err)
	require.Empty(t, stats)
}

func TestBind_takesTransactionsThatEmbedOne(t *testing.T) {
	db := openDB(t, testenv.Postgres(t))
	store, err := postgresstore.New(db)
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	wrapped := struct{ *sql.Tx }{tx} // as sqlx and bun do
	for i, handle := range []any{wrapped, &wrapped, tx} {
		bound, err := store.Bind(handle)
		require.NoError(t, err)
		_, err = bound.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope(string(rune('a'+i))))
		require.NoError(t, err)
	}
	require.NoError(t, tx.Commit())
	require.True(t, stored(t, store, "c"))

	bound, err := store.WithTx(tx)
	require.NoError(t, err)
	_, err = bound.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("d"))
	require.ErrorIs(t, err, reliable.ErrNotStored)
	require.ErrorIs(t, err, sql.ErrTxDone)
}
