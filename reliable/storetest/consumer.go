package storetest

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

var inboxChecks = []Check{
	{Name: "a message is received once by each group", Needs: needs(Receiving, Transactions), run: inboxOnce},
	{Name: "what was rolled back was not received", Needs: needs(Receiving, Transactions), run: inboxRollback},
	{Name: "ids and groups are compared byte by byte", Needs: needs(Receiving, Transactions), run: inboxBytes},
	{Name: "a repeat leaves the transaction usable", Needs: needs(Receiving, Transactions), run: inboxUsable},
	{Name: "of concurrent consumers one receives", Needs: needs(Receiving, Transactions), run: inboxConcurrently},
	{Name: "old entries are deleted in bounded batches", Needs: needs(Receiving, Transactions), run: inboxPurge},
	{Name: "bad input is refused", Needs: needs(Receiving, Transactions), run: inboxRefusals},
}

var processedChecks = []Check{
	{Name: "confirms are found by id and group", Needs: needs(Confirming), run: processedFound},
	{Name: "a repeated confirm changes nothing", Needs: needs(Confirming), run: processedRepeated},
	{Name: "other instances see them at once", Needs: needs(Confirming), run: processedElsewhere},
	{Name: "concurrent batches with confirms in common are stored", Needs: needs(Confirming), run: processedConcurrently},
	{Name: "old confirms are deleted in bounded batches", Needs: needs(Confirming), run: processedPurge},
	{Name: "bad input is refused and nothing stored", Needs: needs(Confirming), run: processedRefusals},
}

var markerChecks = []Check{
	{Name: "its witness tells what became of a transaction", Needs: needs(Marking, Transactions), run: markerTells},
	{Name: "old markers are deleted in bounded batches", Needs: needs(Marking, Transactions), run: markerPurge},
	{Name: "its witness forgets nothing that may be asked about", Needs: needs(Marking, Transactions), run: markerRemembers},
	{Name: "bad input is refused", Needs: needs(Marking), run: markerRefusals},
}

// receives records a message in a transaction of its own, and commits it.
func (t *T) receives(group string, id reliable.ID) bool {
	t.Helper()
	tx := t.begin()
	first, err := able[reliable.Inbox](t).Receive(t.Context(), tx.Native(), group, id)
	require.NoError(t, err, "receive")
	require.NoError(t, tx.Commit(t.Context()), "commit")
	return first
}

func inboxOnce(t *T) {
	require.True(t, t.receives("billing", "order-1"))
	require.False(t, t.receives("billing", "order-1"), "the second delivery")
	require.False(t, t.receives("billing", "order-1"), "the third")
	require.True(t, t.receives("shipping", "order-1"), "another group")
	require.True(t, t.receives("billing", "order-2"), "another message")
}

func inboxRollback(t *T) {
	tx := t.begin()
	first, err := able[reliable.Inbox](t).Receive(t.Context(), tx.Native(), "billing", "order-1")
	require.NoError(t, err)
	require.True(t, first)
	require.NoError(t, tx.Rollback(t.Context()))
	require.True(t, t.receives("billing", "order-1"), "its effect was rolled back as well")

	tx = t.begin()
	scope, err := tx.Savepoint(t.Context())
	require.NoError(t, err)
	_, err = able[reliable.Inbox](t).Receive(t.Context(), tx.Native(), "billing", "order-2")
	require.NoError(t, err)
	require.NoError(t, scope.Rollback(t.Context()))
	require.NoError(t, tx.Commit(t.Context()))
	require.True(t, t.receives("billing", "order-2"), "it was taken back with its savepoint")
}

func inboxBytes(t *T) {
	for _, id := range []reliable.ID{"order-a", "order-A", "order-a ", "örder-a"} {
		require.True(t, t.receives("billing", id), "%q", id)
		require.True(t, t.receives("Billing", id), "%q of another group", id)
	}
}

func inboxUsable(t *T) {
	require.True(t, t.receives("billing", "order-1"))
	tx := t.begin()
	for i, want := range []bool{false, true, false} {
		id := []reliable.ID{"order-1", "order-2", "order-2"}[i]
		first, err := able[reliable.Inbox](t).Receive(t.Context(), tx.Native(), "billing", id)
		require.NoError(t, err)
		require.Equal(t, want, first, "%d", i)
	}
	tx.put(t, env("after"))
	require.NoError(t, tx.Commit(t.Context()))
	t.hasStatus(env("after"), reliable.Pending)
	require.False(t, t.receives("billing", "order-2"))
}

func inboxConcurrently(t *T) {
	var firsts atomic.Int32
	store := t.handles()
	t.together(8, func(i int) error {
		transactor, _ := reliable.Ability[reliable.Transactor](store(i))
		inbox, _ := reliable.Ability[reliable.Inbox](store(i))
		tx, err := transactor.Begin(t.Context(), nil)
		if err != nil {
			return err
		}
		first, err := inbox.Receive(t.Context(), tx.Native(), "billing", "order-1")
		if err != nil {
			return tx.Rollback(t.Context()) // a deadlock among those who wait: the message would come again
		}
		if err := tx.Commit(t.Context()); err != nil {
			return err
		}
		if first {
			firsts.Add(1)
		}
		return nil
	})
	require.EqualValues(t, 1, firsts.Load())
}

func inboxPurge(t *T) {
	for i := range 5 {
		t.receives("billing", reliable.ID(number("order-", i)))
	}
	t.purges(able[reliable.Inbox](t).PurgeInbox)
	require.True(t, t.receives("billing", "order-0"), "its entry is gone")
}

type purgeFunc func(ctx context.Context, olderThan time.Duration, limit int) (int, error)

// purges deletes five old entries, two at a time.
func (t *T) purges(purge purgeFunc) {
	t.Helper()
	count := func(olderThan time.Duration, limit int) int {
		n, err := purge(t.Context(), olderThan, limit)
		require.NoError(t, err, "purge")
		return n
	}
	require.Zero(t, count(long, 10), "none is that old")
	t.pass(grain)
	for _, want := range []int{2, 2, 1, 0} {
		require.Equal(t, want, count(0, 2))
	}
	_, err := purge(t.Context(), -1, 1)
	require.ErrorIs(t, err, reliable.ErrInvalid)
	_, err = purge(t.Context(), 0, 0)
	require.ErrorIs(t, err, reliable.ErrInvalid)
}

func inboxRefusals(t *T) {
	inbox := able[reliable.Inbox](t)
	tx := t.begin()
	for _, bad := range badProcessed() {
		_, err := inbox.Receive(t.Context(), tx.Native(), bad.Group, bad.ID)
		require.ErrorIs(t, err, reliable.ErrInvalid, "%q %q", bad.Group, bad.ID)
	}
	for _, tx := range []any{nil, "tx", t.store} {
		_, err := inbox.Receive(t.Context(), tx, "billing", "order-1")
		require.ErrorIs(t, err, reliable.ErrInvalid, "%T", tx)
	}
}

func badProcessed() []reliable.Processed {
	long := strings.Repeat("x", 129)
	return []reliable.Processed{
		{ID: "", Group: "billing"},
		{ID: "order-1", Group: ""},
		{ID: reliable.ID(long), Group: "billing"},
		{ID: "order-1", Group: long},
		{ID: "order-\xff", Group: "billing"},
		{ID: "order-1", Group: "a\x00b"},
	}
}

func (t *T) confirmations() reliable.Confirmations {
	t.Helper()
	return able[reliable.Confirmations](t)
}

// processedBy are the groups of each id, of all stores alike.
func (t *T) processedBy(store reliable.Confirmations, ids ...reliable.ID) map[reliable.ID][]string {
	t.Helper()
	groups, err := store.ProcessedBy(t.Context(), ids...)
	require.NoError(t, err)
	return groups
}

func processedFound(t *T) {
	store := t.confirmations()
	require.NoError(t, store.StoreProcessed(t.Context()))
	require.Empty(t, t.processedBy(store))
	require.Empty(t, t.processedBy(store, "order-1"))
	require.NoError(t, store.StoreProcessed(t.Context(),
		reliable.Processed{ID: "order-2", Group: "billing"},
		reliable.Processed{ID: "order-1", Group: "shipping"},
		reliable.Processed{ID: "order-1", Group: "billing"},
		reliable.Processed{ID: "Order-1", Group: "Billing"},
	))
	got := t.processedBy(store, "order-1", "order-2", "order-3", "Order-1", "order-1")
	require.Len(t, got, 3)
	require.ElementsMatch(t, []string{"billing", "shipping"}, got["order-1"])
	require.Equal(t, []string{"billing"}, got["order-2"])
	require.Equal(t, []string{"Billing"}, got["Order-1"])
}

func processedRepeated(t *T) {
	store := t.confirmations()
	confirm := reliable.Processed{ID: "order-1", Group: "billing"}
	require.NoError(t, store.StoreProcessed(t.Context(), confirm, confirm))
	require.NoError(t, store.StoreProcessed(t.Context(), confirm, reliable.Processed{ID: "order-2", Group: "billing"}))
	require.Equal(t, []string{"billing"}, t.processedBy(store, "order-1")["order-1"])
	require.Equal(t, []string{"billing"}, t.processedBy(store, "order-2")["order-2"], "the rest of the batch")
}

func processedElsewhere(t *T) {
	require.NoError(t, t.confirmations().StoreProcessed(t.Context(), reliable.Processed{ID: "order-1", Group: "billing"}))
	other, _ := reliable.Ability[reliable.Confirmations](t.other())
	require.Equal(t, []string{"billing"}, t.processedBy(other, "order-1")["order-1"])
}

func processedConcurrently(t *T) {
	const batches, size = 8, 200
	store := t.handles()
	t.together(batches, func(i int) error {
		confirmations, _ := reliable.Ability[reliable.Confirmations](store(i))
		confirms := make([]reliable.Processed, size)
		for n := range confirms {
			k := n
			if i%2 == 1 {
				k = size - 1 - n // the other way round
			}
			confirms[n] = reliable.Processed{ID: reliable.ID(number("order-", k)), Group: "billing"}
		}
		return confirmations.StoreProcessed(t.Context(), confirms...)
	})
	ids := make([]reliable.ID, size)
	for n := range ids {
		ids[n] = reliable.ID(number("order-", n))
	}
	require.Len(t, t.processedBy(t.confirmations(), ids...), size)
}

func processedPurge(t *T) {
	for i := range 5 {
		confirm := reliable.Processed{ID: reliable.ID(number("order-", i)), Group: "billing"}
		require.NoError(t, t.confirmations().StoreProcessed(t.Context(), confirm))
	}
	t.purges(t.confirmations().PurgeProcessed)
	require.Empty(t, t.processedBy(t.confirmations(), "order-0"))
}

func processedRefusals(t *T) {
	store := t.confirmations()
	for _, bad := range badProcessed() {
		err := store.StoreProcessed(t.Context(), reliable.Processed{ID: "good", Group: "billing"}, bad)
		require.ErrorIs(t, err, reliable.ErrInvalid, "%q %q", bad.Group, bad.ID)
	}
	require.Empty(t, t.processedBy(store, "good"), "a part of a refused batch was stored")
	require.ErrorIs(t, store.StoreProcessed(t.Context(), make([]reliable.Processed, reliable.MaxProcessed+1)...), reliable.ErrInvalid)
	_, err := store.ProcessedBy(t.Context(), make([]reliable.ID, reliable.MaxProcessed+1)...)
	require.ErrorIs(t, err, reliable.ErrInvalid)
}

func (t *T) markerWitness() reliable.Witness {
	t.Helper()
	witness, err := able[reliable.Marker](t).MarkerWitness(time.Hour)
	require.NoError(t, err)
	return witness
}

func markerTells(t *T) {
	witness := t.markerWitness()
	for want, end := range map[reliable.Fate]func(txn) error{
		reliable.FateCommitted: func(tx txn) error { return tx.Commit(t.Context()) },
		reliable.FateAborted:   func(tx txn) error { return tx.Rollback(t.Context()) },
	} {
		tx := t.begin()
		token, err := witness.Mark(t.Context(), tx.Native())
		require.NoError(t, err)
		fate, err := witness.Ask(t.Context(), "order-1", token)
		require.NoError(t, err)
		require.Equal(t, reliable.FateOpen, fate)
		require.NoError(t, end(tx))
		for range 2 {
			fate, err = witness.Ask(t.Context(), "order-1", token)
			require.NoError(t, err)
			require.Equal(t, want, fate)
		}
	}
}

func markerPurge(t *T) {
	for range 5 {
		tx := t.begin()
		_, err := t.markerWitness().Mark(t.Context(), tx.Native())
		require.NoError(t, err)
		require.NoError(t, tx.Commit(t.Context()))
	}
	t.purges(able[reliable.Marker](t).PurgeMarkers)
}

// markerRemembers has a witness asked to forget what it may still be asked about.
func markerRemembers(t *T) {
	witness := t.markerWitness()
	remembering, ok := reliable.Ability[reliable.Remembering](witness)
	require.True(t, ok, "the witness says for how long it knows")
	require.Equal(t, time.Hour, remembering.Horizon())
	tx := t.begin()
	token, err := witness.Mark(t.Context(), tx.Native())
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	for _, age := range []time.Duration{0, time.Minute, time.Hour} {
		_, err := remembering.Forget(t.Context(), age, 10)
		require.ErrorIs(t, err, reliable.ErrInvalid, "%v are within the horizon", age)
	}
	forgotten, err := remembering.Forget(t.Context(), time.Hour+time.Minute, 10)
	require.NoError(t, err)
	require.Zero(t, forgotten, "it is young")
	fate, err := witness.Ask(t.Context(), "order-1", token)
	require.NoError(t, err)
	require.Equal(t, reliable.FateCommitted, fate)
	if _, elects := reliable.Ability[reliable.Elector](t.store); elects {
		_, elects = reliable.Ability[reliable.Elector](witness)
		require.True(t, elects, "what the store can do is found behind its witness")
	}
}

func markerRefusals(t *T) {
	for _, horizon := range []time.Duration{0, -time.Second} {
		_, err := able[reliable.Marker](t).MarkerWitness(horizon)
		require.ErrorIs(t, err, reliable.ErrInvalid)
	}
}
