package storetest

import (
	"context"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// Checks call the store beside an open transaction only where the store has more than one writer.
var transactionChecks = []Check{
	{Name: "what was committed can be claimed", Needs: needs(Transactions), run: txCommit},
	{Name: "a rollback leaves nothing", Needs: needs(Transactions), run: txRollback},
	{Name: "nothing is seen before the commit, and no claim waits for it", Needs: needs(Transactions), run: txIsolated},
	{Name: "a lease given inside holds after the commit", Needs: needs(Transactions), run: txLease},
	{Name: "a duplicate leaves the transaction usable", Needs: needs(Transactions), run: txDuplicate},
	{Name: "a duplicate of its own is found", Needs: needs(Transactions), run: txOwnDuplicate},
	{Name: "a conflict stores nothing", Needs: needs(Transactions), run: txConflict},
	{Name: "two thousand are rolled back together", Needs: needs(Transactions), run: txManyRolledBack},
	{Name: "a savepoint rolled back withdraws what came since", Needs: needs(Transactions), run: txSavepointRollback},
	{Name: "a savepoint released keeps what came since", Needs: needs(Transactions), run: txSavepointRelease},
	{Name: "savepoints nest", Needs: needs(Transactions), run: txSavepointsNest},
	{Name: "a conflict inside a savepoint can be taken back", Needs: needs(Transactions), run: txConflictInSavepoint},
	{Name: "once ended it refuses everything but Rollback", Needs: needs(Transactions), run: txEnded},
	{Name: "a context that ends before the commit leaves nothing", Needs: needs(Transactions), run: txCanceled},
	{Name: "Begin refuses what is no database of its kind", Needs: needs(Transactions), run: txBeginRefuses},
	{Name: "Bind stores in the transaction that Native returns", Needs: needs(Transactions), run: bindOwnNative},
	{Name: "Bind stores in a transaction of the user's own", Needs: needs(Transactions), run: bindNative},
	{Name: "Bind obeys savepoints of the user's own", Needs: needs(Transactions), run: bindNativeSavepoint},
	{Name: "Bind refuses what is no transaction", Needs: needs(Transactions), run: bindRefuses},
	{
		Name:  "concurrent transactions that store the same envelopes store them once",
		Needs: needs(Transactions), run: txConcurrentDuplicates,
	},
}

// txn is an open transaction.
type txn struct{ reliable.Tx }

func (t *T) begin() txn {
	t.Helper()
	tx, err := able[reliable.Transactor](t).Begin(t.Context(), nil)
	require.NoError(t, err, "begin")
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	return txn{tx}
}

func (x txn) put(t *T, envs ...reliable.Envelope) []reliable.Stored {
	t.Helper()
	return putThrough(t, x.Tx, envs...)
}

func putThrough(t *T, through reliable.Enqueuer, envs ...reliable.Envelope) []reliable.Stored {
	t.Helper()
	stored, err := through.Enqueue(t.Context(), reliable.EnqueueRequest{}, envs...)
	require.NoError(t, err, "enqueue in a transaction")
	require.Len(t, stored, len(envs), "one result for each envelope")
	return stored
}

func (x txn) commit(t *T) {
	t.Helper()
	require.NoError(t, x.Commit(t.Context()), "commit")
}

func (x txn) rollback(t *T) {
	t.Helper()
	require.NoError(t, x.Rollback(t.Context()), "roll back")
}

func (x txn) savepoint(t *T) reliable.Savepoint {
	t.Helper()
	sp, err := x.Savepoint(t.Context())
	require.NoError(t, err, "savepoint")
	return sp
}

func txCommit(t *T) {
	tx := t.begin()
	stored := tx.put(t, env("a"), keyed("k", "key"))
	require.True(t, stored[0].New)
	require.True(t, stored[1].New)
	tx.put(t)
	tx.put(t, env("b"))
	tx.commit(t)
	require.ElementsMatch(t, []reliable.ID{"a", "b", "k"}, ids(t.soon(3)))
	for _, s := range t.put(env("a"), env("b"), keyed("k", "key")) {
		require.False(t, s.New)
	}
}

func txRollback(t *T) {
	tx := t.begin()
	tx.put(t, env("a"), keyed("k", "key"))
	tx.rollback(t)
	t.none("it was rolled back")
	t.absent(env("a"), keyed("k", "key"))
	require.Len(t, t.soon(2), 2)
}

func txIsolated(t *T) {
	if t.h.OneWriter {
		t.Log("not tested: the store has one writer")
		return
	}
	t.put(env("before"))
	tx := t.begin()
	tx.put(t, env("a"), keyed("k", "key"))
	require.Equal(t, []reliable.ID{"before"}, ids(t.claim(10)), "what is committed can be claimed, and nothing else")
	t.put(env("beside"))
	beside := t.one()
	require.Equal(t, reliable.ID("beside"), beside.ID)
	t.settles(ack(beside), reliable.Applied)
	tx.commit(t)
	require.ElementsMatch(t, []reliable.ID{"a", "k"}, ids(t.soon(2)))
}

func txLease(t *T) {
	tx := t.begin()
	stored, err := tx.Enqueue(t.Context(), reliable.EnqueueRequest{Worker: "me", Lease: long}, env("a"), keyed("k", "key"))
	require.NoError(t, err)
	require.True(t, stored[0].Leased)
	require.False(t, stored[1].Leased)
	tx.commit(t)
	require.Equal(t, []reliable.ID{"k"}, ids(t.soon(1)))
	t.none("a belongs to who stored it")
	t.settles(ack(stored[0].Attempt), reliable.Applied)
	t.hasStatus(env("a"), reliable.Confirmed)
}

func txDuplicate(t *T) {
	t.put(env("a"))
	t.settle(ack(t.one()))
	tx := t.begin()
	stored := tx.put(t, env("a"), env("b"))
	require.False(t, stored[0].New)
	require.Equal(t, reliable.Confirmed, stored[0].Status)
	require.True(t, stored[1].New)
	require.False(t, tx.put(t, env("a"))[0].New)
	tx.put(t, env("c"))
	tx.commit(t)
	require.ElementsMatch(t, []reliable.ID{"b", "c"}, ids(t.soon(2)))
}

func txOwnDuplicate(t *T) {
	tx := t.begin()
	require.True(t, tx.put(t, env("a"))[0].New)
	require.False(t, tx.put(t, env("a"))[0].New)
	tx.commit(t)
	require.Equal(t, []reliable.ID{"a"}, ids(t.soon(1)))
	t.none("it was stored once")
}

func txConflict(t *T) {
	t.put(env("a"))
	other := env("a")
	other.Payload = []byte("another")
	tx := t.begin()
	stored, err := tx.Enqueue(t.Context(), reliable.EnqueueRequest{}, env("b"), other)
	require.ErrorIs(t, err, reliable.ErrConflict)
	require.Empty(t, stored)
	tx.rollback(t)
	same(t, env("a"), t.one().Envelope)
	t.absent(env("b"))
}

func txManyRolledBack(t *T) {
	tx := t.begin()
	tx.put(t, numbered(2000)...)
	tx.rollback(t)
	t.none("all were rolled back")
	t.absent(numbered(2000)...)
}

func txSavepointRollback(t *T) {
	tx := t.begin()
	tx.put(t, env("kept"))
	sp := tx.savepoint(t)
	tx.put(t, env("withdrawn"), keyed("withdrawn too", "k"))
	require.NoError(t, sp.Rollback(t.Context()))
	tx.put(t, env("after"))
	tx.commit(t)
	require.ElementsMatch(t, []reliable.ID{"kept", "after"}, ids(t.soon(2)))
	t.none("the rest was withdrawn")
	t.absent(env("withdrawn"), keyed("withdrawn too", "k"))
}

func txSavepointRelease(t *T) {
	tx := t.begin()
	sp := tx.savepoint(t)
	tx.put(t, env("a"))
	require.NoError(t, sp.Release(t.Context()))
	tx.commit(t)
	require.Equal(t, []reliable.ID{"a"}, ids(t.soon(1)))
}

func txSavepointsNest(t *T) {
	tx := t.begin()
	outer := tx.savepoint(t)
	tx.put(t, env("outer"))
	inner := tx.savepoint(t)
	tx.put(t, env("inner"))
	require.NoError(t, inner.Rollback(t.Context()))
	again := tx.savepoint(t)
	tx.put(t, env("again"))
	require.NoError(t, again.Release(t.Context()))
	require.NoError(t, outer.Release(t.Context()))

	doomed := tx.savepoint(t)
	tx.put(t, env("doomed outer"))
	released := tx.savepoint(t)
	tx.put(t, env("doomed inner"))
	require.NoError(t, released.Release(t.Context()))
	require.NoError(t, doomed.Rollback(t.Context()))
	tx.commit(t)
	require.ElementsMatch(t, []reliable.ID{"outer", "again"}, ids(t.soon(2)))
	t.absent(env("inner"), env("doomed outer"), env("doomed inner"))
}

func txConflictInSavepoint(t *T) {
	t.put(env("a"))
	require.Len(t, t.claim(1), 1)
	other := env("a")
	other.Payload = []byte("another")
	tx := t.begin()
	tx.put(t, env("b"))
	sp := tx.savepoint(t)
	_, err := tx.Enqueue(t.Context(), reliable.EnqueueRequest{}, env("c"), other)
	require.ErrorIs(t, err, reliable.ErrConflict)
	require.NoError(t, sp.Rollback(t.Context()))
	tx.put(t, env("d"))
	tx.commit(t)
	require.ElementsMatch(t, []reliable.ID{"b", "d"}, ids(t.soon(2)))
	t.absent(env("c"))
}

func txEnded(t *T) {
	committed, ctx := t.begin(), t.Context()
	committed.put(t, env("a"))
	committed.commit(t)
	rolledBack := t.begin()
	rolledBack.rollback(t)
	for name, tx := range map[string]txn{"committed": committed, "rolled back": rolledBack} {
		_, err := tx.Enqueue(ctx, reliable.EnqueueRequest{}, env("late"))
		require.Error(t, err, "%s: enqueue", name)
		require.Error(t, tx.Commit(ctx), "%s: commit", name)
		require.NotErrorIs(t, tx.Commit(ctx), reliable.ErrUnknown, "%s: it certainly did not commit just now", name)
		_, err = tx.Savepoint(ctx)
		require.Error(t, err, "%s: savepoint", name)
		require.NoError(t, tx.Rollback(ctx), "%s: rollback does nothing", name)
	}
	require.Equal(t, []reliable.ID{"a"}, ids(t.soon(1)))
	t.absent(env("late"))
}

func txCanceled(t *T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tx, err := able[reliable.Transactor](t).Begin(ctx, nil)
	require.NoError(t, err)
	_, err = tx.Enqueue(ctx, reliable.EnqueueRequest{}, env("a"))
	require.NoError(t, err)
	cancel()
	_, err = tx.Enqueue(ctx, reliable.EnqueueRequest{}, env("b"))
	require.Error(t, err)
	require.Error(t, tx.Commit(ctx))
	require.NoError(t, tx.Rollback(t.Context()))
	t.none("it did not commit")
	t.absent(env("a"), env("b"))

	_, err = able[reliable.Transactor](t).Begin(ctx, nil)
	require.Error(t, err)
}

func txBeginRefuses(t *T) {
	for _, db := range []any{42, "postgres://", struct{}{}, t.begin().Native()} {
		_, err := able[reliable.Transactor](t).Begin(t.Context(), db)
		require.ErrorIs(t, err, reliable.ErrInvalid, "of a %T", db)
	}
}

func bindOwnNative(t *T) {
	for _, keep := range []bool{true, false} {
		tx := t.begin()
		bound, err := able[reliable.Transactor](t).Bind(tx.Native())
		require.NoError(t, err)
		if keep {
			putThrough(t, bound, env("kept"))
			tx.commit(t)
		} else {
			putThrough(t, bound, env("rolled back"))
			tx.rollback(t)
		}
	}
	require.Equal(t, []reliable.ID{"kept"}, ids(t.soon(1)))
	t.absent(env("rolled back"))
}

func bindNative(t *T) {
	if t.h.Begin == nil {
		t.Log("not tested: the harness begins no transactions")
		return
	}
	for _, keep := range []bool{true, false} {
		native := t.h.Begin(t.TB, t.store)
		bound, err := able[reliable.Transactor](t).Bind(native.Tx)
		require.NoError(t, err)
		if keep {
			stored := putThrough(t, bound, env("kept"), env("kept"))
			require.True(t, stored[0].New)
			require.False(t, stored[1].New)
			putThrough(t, bound, env("kept"), env("kept too"))
			require.NoError(t, native.Commit(t.Context()))
		} else {
			putThrough(t, bound, env("rolled back"), env("kept"))
			require.NoError(t, native.Rollback(t.Context()))
		}
		_, err = bound.Enqueue(t.Context(), reliable.EnqueueRequest{}, env("late"))
		require.Error(t, err, "the transaction has ended")
	}
	require.ElementsMatch(t, []reliable.ID{"kept", "kept too"}, ids(t.soon(2)))
	t.absent(env("rolled back"), env("late"))
}

func bindNativeSavepoint(t *T) {
	if t.h.Begin == nil {
		t.Log("not tested: the harness begins no transactions")
		return
	}
	native := t.h.Begin(t.TB, t.store)
	if native.Exec == nil {
		t.Log("not tested: the harness runs no statements in its transactions")
		require.NoError(t, native.Rollback(t.Context()))
		return
	}
	bound, err := able[reliable.Transactor](t).Bind(native.Tx)
	require.NoError(t, err)
	putThrough(t, bound, env("kept"))
	require.NoError(t, native.Exec(t.Context(), "SAVEPOINT mine"))
	putThrough(t, bound, env("withdrawn"), keyed("withdrawn too", "k"))
	require.NoError(t, native.Exec(t.Context(), "ROLLBACK TO SAVEPOINT mine"))
	putThrough(t, bound, env("after"))
	require.NoError(t, native.Commit(t.Context()))
	require.ElementsMatch(t, []reliable.ID{"kept", "after"}, ids(t.soon(2)))
	t.absent(env("withdrawn"), keyed("withdrawn too", "k"))
}

func bindRefuses(t *T) {
	refused := []any{nil, 42, "tx", struct{}{}, t.store, t.Context()}
	if t.h.NotTx != nil {
		refused = append(refused, t.h.NotTx(t.store)...)
	}
	for _, tx := range refused {
		_, err := able[reliable.Transactor](t).Bind(tx)
		require.ErrorIs(t, err, reliable.ErrInvalid, "of a %T", tx)
	}
}

func txConcurrentDuplicates(t *T) {
	const callers, count = 4, 20
	var results [callers][]reliable.Stored
	t.together(callers, func(i int) error {
		tx, err := able[reliable.Transactor](t).Begin(t.Context(), nil)
		if err != nil {
			return err
		}
		stored, err := tx.Enqueue(t.Context(), reliable.EnqueueRequest{}, numbered(count)...)
		if err != nil {
			_ = tx.Rollback(t.Context())
			return err
		}
		results[i] = stored
		return tx.Commit(t.Context())
	})
	fresh := make(map[reliable.ID]int)
	for _, stored := range results {
		for _, s := range stored {
			if s.New {
				fresh[s.ID]++
			}
		}
	}
	require.Len(t, fresh, count)
	for id, n := range fresh {
		require.Equal(t, 1, n, "%q is new to one caller only", id)
	}
	require.Len(t, t.claim(10*count), count)
}
