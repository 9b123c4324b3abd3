package memstore_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
)

func begin(t *testing.T, store *memstore.Store) *memstore.Tx {
	t.Helper()
	tx, err := store.Begin(t.Context(), nil)
	require.NoError(t, err)
	return tx.Native().(*memstore.Tx)
}

func TestTx_businessRowsAndEnvelopesAppearTogether(t *testing.T) {
	store := memstore.New()
	tx := begin(t, store)
	require.NoError(t, tx.Put("order 1", "new"))
	_, err := tx.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
	require.NoError(t, err)

	seen, ok := tx.Get("order 1")
	require.True(t, ok, "a transaction sees its own rows")
	require.Equal(t, "new", seen)
	_, ok = store.Business("order 1")
	require.False(t, ok, "others do not")
	require.Empty(t, store.Records())

	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, map[string]any{"order 1": "new"}, store.BusinessRows())
	require.Len(t, store.Records(), 1)
	require.ErrorIs(t, tx.Put("order 2", "late"), reliable.ErrClosed)
}

func TestTx_savepointTakesBusinessRowsBackToo(t *testing.T) {
	store := memstore.New()
	tx := begin(t, store)
	require.NoError(t, tx.Put("kept", 1))
	sp, err := tx.Savepoint(t.Context())
	require.NoError(t, err)
	require.NoError(t, tx.Put("withdrawn", 2))
	require.NoError(t, tx.Delete("kept"))
	_, ok := tx.Get("kept")
	require.False(t, ok)
	require.NoError(t, sp.Rollback(t.Context()))
	require.Error(t, sp.Release(t.Context()), "it has ended")
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, map[string]any{"kept": 1}, store.BusinessRows())

	tx = begin(t, store)
	require.NoError(t, tx.Delete("kept"))
	require.NoError(t, tx.Commit(t.Context()))
	require.Empty(t, store.BusinessRows())
}

func TestTx_anotherWithTheSameIDWaitsForIt(t *testing.T) {
	for _, commits := range []bool{true, false} {
		t.Run(fmt.Sprintf("commits %v", commits), func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				store := memstore.New()
				first := begin(t, store)
				_, err := first.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
				require.NoError(t, err)

				var stored []reliable.Stored
				waited := make(chan time.Duration)
				start := time.Now()
				go func() {
					stored, err = store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"), envelope("b"))
					waited <- time.Since(start)
				}()
				time.Sleep(time.Minute)
				if commits {
					require.NoError(t, first.Commit(t.Context()))
				} else {
					require.NoError(t, first.Rollback(t.Context()))
				}
				require.Equal(t, time.Minute, <-waited)
				require.NoError(t, err)
				require.Equal(t, !commits, stored[0].New)
				require.True(t, stored[1].New)
			})
		})
	}
}

func TestTx_waitingForAnotherEndsWithTheContext(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		first := begin(t, store)
		_, err := first.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = store.Enqueue(ctx, reliable.EnqueueRequest{}, envelope("b"), envelope("a"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, reliable.ErrNotStored)
		require.NoError(t, first.Commit(t.Context()))
		assert.Equal(t, map[reliable.ID]reliable.Status{"a": reliable.Pending}, statuses(store))
	})
}

func TestTx_deadlockFailsOneOfTheTwo(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		first, second := begin(t, store), begin(t, store)
		enqueue := func(tx *memstore.Tx, id reliable.ID) error {
			_, err := tx.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope(id))
			return err
		}
		require.NoError(t, enqueue(first, "a"))
		require.NoError(t, enqueue(second, "b"))
		waited := make(chan error)
		go func() { waited <- enqueue(first, "b") }()
		synctest.Wait()
		require.ErrorContains(t, enqueue(second, "a"), "deadlock")
		require.NoError(t, second.Rollback(t.Context()))
		require.NoError(t, <-waited)
		require.NoError(t, first.Commit(t.Context()))
		require.Len(t, store.Records(), 2)
	})
}

func TestNew_refusesContradictoryOptions(t *testing.T) {
	require.Panics(t, func() { memstore.New(memstore.WithFault(nil)) })
	require.Panics(t, func() { memstore.New(memstore.WithLimits(reliable.Limits{Payload: -1})) })
}

func TestWithLimits_refusesWhatIsLarger(t *testing.T) {
	store := memstore.New(memstore.WithLimits(reliable.Limits{Payload: 3}))
	require.Equal(t, 3, store.Limits().Payload)
	_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	require.Empty(t, store.Records())
}

// A caller may reuse its payload once the outcome is known, and later duplicates are compared with what was stored.
func TestEnqueue_keepsItsOwnCopy(t *testing.T) {
	store := memstore.New()
	e := envelope("a")
	e.Metadata = map[string]string{"n": "1"}
	_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, e)
	require.NoError(t, err)
	e.Payload[0], e.Metadata["n"] = 'P', "2"
	require.Equal(t, "payload", string(store.Records()[0].Payload))
	require.Equal(t, "1", store.Records()[0].Metadata["n"])
}

func TestAwaitWake_isToldOfAWakeUpThatCameJustBefore(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		require.NoError(t, store.Wake(t.Context()))
		require.NoError(t, store.Wake(t.Context()))
		require.NoError(t, store.AwaitWake(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, store.AwaitWake(ctx), context.DeadlineExceeded, "wake-ups are coalesced")
	})
}
