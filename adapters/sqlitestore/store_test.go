package sqlitestore_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
)

func envelope(id string) reliable.Envelope {
	return reliable.Envelope{ID: reliable.ID(id), Topic: "orders", Payload: []byte("payload of " + id)}
}

func keyed(id, key string) reliable.Envelope {
	env := envelope(id)
	env.Key = key
	return env
}

func stored(t *testing.T, store *sqlitestore.Store, id string) bool {
	t.Helper()
	records, err := store.Lookup(t.Context(), reliable.ID(id))
	require.NoError(t, err)
	return len(records) == 1
}

func TestOpen_setsTheDatabaseUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a name with ? and # and %41.db")
	store, err := sqlitestore.Open(t.Context(), path)
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	require.FileExists(t, path)
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "busy_timeout": "5000"} {
		var got string
		require.NoError(t, store.DB().QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got))
		require.Equal(t, want, got, pragma)
	}
	require.NoError(t, store.Close())
	require.NoError(t, store.Close(), "the second time it does nothing")

	again, err := sqlitestore.Open(t.Context(), path, sqlitestore.WithSynchronousNormal(), sqlitestore.WithBusyTimeout(time.Second))
	require.NoError(t, err)
	require.NoError(t, again.Close())
}

func TestOpen_refusesWhatIsNoFile(t *testing.T) {
	for _, path := range []string{"", ":memory:", "file:x?mode=memory"} {
		_, err := sqlitestore.Open(t.Context(), path)
		require.ErrorIs(t, err, reliable.ErrInvalid, path)
	}
	_, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "no such folder", "x.db"))
	require.Error(t, err)
}

func TestNew_reportsAllThatIsWrongTogether(t *testing.T) {
	_, err := sqlitestore.New(&sql.DB{}, sqlitestore.WithTablePrefix("a\"; DROP TABLE x; --"), sqlitestore.WithSynchronousNormal())
	require.ErrorIs(t, err, reliable.ErrInvalid)
	require.ErrorContains(t, err, "WithTablePrefix")
	require.ErrorContains(t, err, "WithSynchronousNormal")
	_, err = sqlitestore.New(nil)
	require.ErrorIs(t, err, reliable.ErrInvalid)
}

func TestMigrate_ofManyProcessesAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "waybill.db")
	var group sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		group.Go(func() {
			store, err := sqlitestore.Open(t.Context(), path)
			if err == nil {
				err = store.Close()
			}
			errs[i] = err
		})
	}
	group.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

// raw opens a database by hand, with as little as possible.
func raw(t *testing.T, parameters string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "raw.db")+parameters)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func TestCheck_saysWhatToDo(t *testing.T) {
	db := raw(t, "")
	store, err := sqlitestore.New(db)
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

	script, err := sqlitestore.Schema()
	require.NoError(t, err)
	for range 2 {
		_, err = db.ExecContext(t.Context(), script)
		require.NoError(t, err)
	}
	require.NoError(t, store.Check(t.Context()))
	set := func(version, usableBy int) {
		_, err := db.ExecContext(t.Context(), "DELETE FROM waybill_schema")
		require.NoError(t, err)
		_, err = db.ExecContext(t.Context(), "INSERT INTO waybill_schema VALUES (?, ?, 0)", version, usableBy)
		require.NoError(t, err)
	}
	set(7, 1)
	require.NoError(t, store.Check(t.Context()))
	set(7, 6)
	require.ErrorIs(t, store.Check(t.Context()), reliable.ErrSchema)
}

func TestStores_ofTwoPrefixesKnowNothingOfEachOther(t *testing.T) {
	db := raw(t, "")
	stores := make([]*sqlitestore.Store, 2)
	for i, prefix := range []string{"a_", "b_"} {
		store, err := sqlitestore.New(db, sqlitestore.WithTablePrefix(prefix))
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

func TestBegin_holdsTheWriteLockFromTheStart(t *testing.T) {
	db := raw(t, "?_pragma=busy_timeout(20)") // opened without _txlock=immediate
	store, err := sqlitestore.New(db)
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	tx, err := store.Begin(t.Context(), nil)
	require.NoError(t, err)
	_, err = store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("beside"))
	require.ErrorIs(t, err, reliable.ErrNotStored)
	require.ErrorContains(t, err, "locked")
	_, err = tx.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("inside"))
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	require.True(t, stored(t, store, "inside"))
	require.False(t, stored(t, store, "beside"))
}

func TestEnqueue_onALockedDatabaseReturnsWithTheContext(t *testing.T) {
	store := open(t)
	tx, err := store.Begin(t.Context(), nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback(t.Context())) }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = store.Enqueue(ctx, reliable.EnqueueRequest{}, envelope("a"))
	require.ErrorIs(t, err, reliable.ErrNotStored)
	require.NotErrorIs(t, err, reliable.ErrUnknown)
	require.Less(t, time.Since(start), 4*time.Second, "the busy timeout is 5 s")
}

func TestEnqueue_intoAReadOnlyOrFullDatabaseIsNotStored(t *testing.T) {
	for _, pragma := range []string{"query_only = 1", "max_page_count = 1"} {
		db := raw(t, "")
		db.SetMaxOpenConns(1)
		store, err := sqlitestore.New(db)
		require.NoError(t, err)
		require.NoError(t, store.Migrate(t.Context()))
		_, err = db.ExecContext(t.Context(), "PRAGMA "+pragma)
		require.NoError(t, err)
		env := envelope("a")
		env.Payload = make([]byte, 1<<20)
		_, err = store.Enqueue(t.Context(), reliable.EnqueueRequest{}, env)
		require.ErrorIs(t, err, reliable.ErrNotStored, pragma)
		require.NotErrorIs(t, err, reliable.ErrUnknown, pragma)
	}
}

func TestCommit_ofATransactionThatIsOverIsAnError(t *testing.T) {
	store := open(t)
	tx, err := store.Begin(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, tx.Native().(*sql.Tx).Commit())
	err = tx.Commit(t.Context())
	require.ErrorIs(t, err, sql.ErrTxDone)
	require.NotErrorIs(t, err, reliable.ErrUnknown)
	require.NoError(t, tx.Rollback(t.Context()))
	_, err = tx.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
	require.ErrorIs(t, err, reliable.ErrNotStored)
	require.ErrorIs(t, err, reliable.ErrClosed)
}

// A row whose envelope a person has deleted must not block its key.
func TestOrder_goesOnPastWhatWasDeletedByHand(t *testing.T) {
	store := open(t)
	request := reliable.ClaimRequest{Max: 10, Lease: time.Minute}
	claim := func() []reliable.Attempt {
		attempts, err := store.Claim(t.Context(), request)
		require.NoError(t, err)
		return attempts
	}
	_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, keyed("1", "k"), keyed("2", "k"), keyed("3", "k"))
	require.NoError(t, err)
	_, err = store.DB().ExecContext(t.Context(), "DELETE FROM waybill_outbox WHERE id IN ('1')")
	require.NoError(t, err)
	var attempts []reliable.Attempt
	for range 3 {
		if attempts = claim(); len(attempts) > 0 {
			break
		}
	}
	require.Len(t, attempts, 1)
	require.EqualValues(t, "2", attempts[0].ID)
	_, err = store.DB().ExecContext(t.Context(), "DELETE FROM waybill_outbox WHERE id IN ('3')")
	require.NoError(t, err)
	_, err = store.Enqueue(t.Context(), reliable.EnqueueRequest{}, keyed("4", "k"))
	require.NoError(t, err)
	require.Empty(t, claim())
	a := attempts[0]
	_, err = store.Settle(t.Context(), reliable.Settlement{
		ID: a.ID, Fence: a.Fence, Topic: a.Topic, Key: a.Key, Sent: true, Outcome: reliable.Acked, To: reliable.Confirmed,
	})
	require.NoError(t, err)
	attempts = claim()
	require.Len(t, attempts, 1)
	require.EqualValues(t, "4", attempts[0].ID)
}

func TestStatements_useTheirIndexes(t *testing.T) {
	store := open(t)
	for query, index := range map[string]string{
		"SELECT MIN(due) FROM waybill_outbox WHERE status = 0":                                         "outbox_pending",
		"SELECT id FROM waybill_outbox WHERE status = 0 AND due <= 1 ORDER BY due, seq LIMIT 1":        "outbox_pending",
		"SELECT id FROM waybill_outbox WHERE status = 2 AND topic IN ('a') AND due <= 1":               "outbox_failed",
		"SELECT id FROM waybill_outbox WHERE status = ? AND status > 0 AND due <= 1 ORDER BY due":      "outbox_settled",
		"SELECT seq FROM waybill_lane WHERE fresh = 1 AND seq > 1 ORDER BY seq":                        "lane_fresh",
		"SELECT seq FROM waybill_lane WHERE lane = x'00' ORDER BY seq LIMIT 1":                         "lane_order",
		"UPDATE waybill_outbox SET due = 1 FROM (VALUES (1)) AS v WHERE waybill_outbox.id = v.column1": "autoindex_waybill_outbox",
	} {
		rows, err := store.DB().QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, 1)
		if err != nil {
			rows, err = store.DB().QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query)
		}
		require.NoError(t, err)
		var plan []string
		for rows.Next() {
			var a, b, c int
			var detail string
			require.NoError(t, rows.Scan(&a, &b, &c, &detail))
			plan = append(plan, detail)
		}
		require.NoError(t, rows.Err())
		text := strings.Join(plan, "\n")
		require.Contains(t, text, index, query)
		require.NotContains(t, text, "TEMP B-TREE", query)
	}
}

func TestStore_keepsWritersOfOneProcessFromStarving(t *testing.T) {
	store := open(t)
	var group sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		group.Go(func() {
			for n := range 20 {
				if _, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope(fmt.Sprint(i, "-", n))); err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	stats, err := store.Stats(t.Context())
	require.NoError(t, err)
	require.Equal(t, 320, stats[0].Pending)
}

// Two handles, each opened on its own, are to SQLite what two processes are.
func TestStore_aBusyProcessDoesNotKeepTheLockFromAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "waybill.db")
	busy, err := sqlitestore.Open(t.Context(), path, sqlitestore.WithSynchronousNormal())
	require.NoError(t, err)
	defer func() { require.NoError(t, busy.Close()) }()
	other, err := sqlitestore.Open(t.Context(), path, sqlitestore.WithSynchronousNormal(), sqlitestore.WithBusyTimeout(time.Second))
	require.NoError(t, err)
	defer func() { require.NoError(t, other.Close()) }()

	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	errs := make([]error, 8) // so that the lock goes from one to the next at once
	for i := range errs {
		group.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				many := make([]reliable.Envelope, 100)
				for m := range many {
					many[m] = envelope(fmt.Sprint(i, "-", n, "-", m))
				}
				if _, err := busy.Enqueue(ctx, reliable.EnqueueRequest{}, many...); err != nil && ctx.Err() == nil {
					errs[i] = err
					return
				}
			}
		})
	}
	for n := range 50 {
		if _, err = other.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope(fmt.Sprint("other-", n))); err != nil {
			break
		}
	}
	stop()
	group.Wait()
	require.NoError(t, err)
	for _, err := range errs {
		require.NoError(t, err)
	}
}
