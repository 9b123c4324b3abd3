package storetest

import (
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// A handler's effect and the status that says so commit together.
var insideChecks = insideNeeded([]Check{
	{Name: "a compensation in a transaction takes effect with the commit", run: insideCommit},
	{Name: "a compensation in a transaction that is rolled back leaves nothing", run: insideRollback},
	{Name: "a compensation in a savepoint that is rolled back leaves nothing", run: insideSavepoint},
	{Name: "a compensation in a transaction is fenced", run: insideFenced},
	{Name: "a compensation in a transaction lets its key go on", run: insideReleases},
	{Name: "a compensation in a transaction lets those go on who came since it began", run: insideReleasesNew},
	{Name: "a run that failed can be told in a transaction", run: insideFailed},
	{Name: "an ended transaction compensates nothing", run: insideEnded},
})

func insideNeeded(checks []Check) []Check {
	for i := range checks {
		checks[i].Needs = append(checks[i].Needs, Compensation, Transactions)
	}
	return checks
}

// settler is what a transaction of the store must be able to do.
func (x txn) settler(t *T) reliable.CompensationSettler {
	t.Helper()
	settler, ok := reliable.Ability[reliable.CompensationSettler](x.Tx)
	require.True(t, ok, "a transaction of a Compensator that is a Transactor is a CompensationSettler")
	return settler
}

func (x txn) compensates(t *T, c reliable.Compensation, want reliable.SettleResult) {
	t.Helper()
	result, err := x.settler(t).SettleCompensation(t.Context(), c)
	require.NoError(t, err, "settle compensation in a transaction")
	require.Equal(t, want.String(), result.String(), "result of the compensation")
}

func insideCommit(t *T) {
	t.failed(env("a"))
	r := t.oneFailed()
	tx := t.begin()
	tx.put(t, env("effect"))
	tx.compensates(t, compensation(r, true), reliable.Applied)
	tx.compensates(t, compensation(r, true), reliable.Repeated)
	if !t.h.OneWriter {
		t.hasNotYet("a", reliable.Failed)
	}
	tx.commit(t)
	t.hasStatus(env("a"), reliable.Compensated)
	t.hasStatus(env("effect"), reliable.Pending)
	require.Empty(t, t.claimFailed(request(10, long), topic))
	t.compensates(compensation(r, true), reliable.Repeated)
}

// hasNotYet looks an envelope up where storing it again might wait for a transaction that is open.
func (t *T) hasNotYet(id reliable.ID, want reliable.Status) {
	t.Helper()
	if Inspection.of(t.store) {
		require.Equal(t, want.String(), t.record(id).Status.String(), "status of %q before the commit", id)
	}
}

func insideRollback(t *T) {
	t.failed(keyed("a", "k"))
	t.put(keyed("b", "k"))
	r := t.oneFailed()
	tx := t.begin()
	tx.put(t, env("effect"))
	tx.compensates(t, compensation(r, true), reliable.Applied)
	tx.rollback(t)
	t.hasStatus(keyed("a", "k"), reliable.Failed)
	t.none("the key waits still")
	t.absent(env("effect"))
	require.Empty(t, t.claimFailed(request(10, long), topic), "the handler still has it")
	t.compensates(compensation(r, true), reliable.Applied)
}

func insideSavepoint(t *T) {
	t.failed(env("a"))
	r := t.oneFailed()
	tx := t.begin()
	sp := tx.savepoint(t)
	tx.compensates(t, compensation(r, true), reliable.Applied)
	require.NoError(t, sp.Rollback(t.Context()))
	tx.put(t, env("kept"))
	tx.commit(t)
	t.hasStatus(env("a"), reliable.Failed)
	t.hasStatus(env("kept"), reliable.Pending)

	tx = t.begin()
	sp = tx.savepoint(t)
	tx.compensates(t, compensation(r, true), reliable.Applied)
	require.NoError(t, sp.Release(t.Context()))
	tx.commit(t)
	t.hasStatus(env("a"), reliable.Compensated)
}

func insideFenced(t *T) {
	t.failed(env("a"))
	old := t.claimFailed(request(10, t.h.Lease), topic)
	require.Len(t, old, 1)
	t.pass(t.h.Lease)
	var young []reliable.Record
	t.until("the lease runs out", func() bool {
		young = t.claimFailed(request(10, long), topic)
		return len(young) == 1
	})
	for _, fence := range []int64{old[0].Fence, young[0].Fence + 1} {
		c := compensation(young[0], true)
		c.Fence = fence
		tx := t.begin()
		tx.compensates(t, c, reliable.Stale)
		tx.rollback(t)
	}
	gone := compensation(young[0], true)
	gone.ID = "gone"
	tx := t.begin()
	tx.compensates(t, gone, reliable.Stale)
	tx.rollback(t)
	t.hasStatus(env("a"), reliable.Failed)
	tx = t.begin()
	tx.compensates(t, compensation(young[0], true), reliable.Applied)
	tx.commit(t)
	t.hasStatus(env("a"), reliable.Compensated)
}

func insideReleases(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"), keyed("c", "k"))
	t.settles(giveUp(t.one()), reliable.Applied)
	r := t.oneFailed()
	tx := t.begin()
	tx.compensates(t, compensation(r, true), reliable.Applied)
	tx.commit(t)
	t.inTurn("b", "c")
	t.put(keyed("d", "k"))
	t.inTurn("d")
}

func insideReleasesNew(t *T) {
	if t.h.OneWriter {
		t.Log("not tested: the store has one writer")
		return
	}
	t.put(keyed("a", "k"))
	t.settles(giveUp(t.one()), reliable.Applied)
	r := t.oneFailed()
	tx := t.begin()
	// From its first look on, what it sees may stand still.
	require.False(t, tx.put(t, keyed("a", "k"))[0].New)
	t.put(keyed("b", "k"))
	t.none("the head has failed") // and b is known to wait for it
	t.put(keyed("c", "k"))        // and c is not
	tx.compensates(t, compensation(r, true), reliable.Applied)
	tx.commit(t)
	t.inTurn("b", "c")
}

func insideFailed(t *T) {
	t.failed(env("a"))
	r := t.oneFailed()
	tx := t.begin()
	tx.compensates(t, compensation(r, false), reliable.Applied)
	tx.commit(t)
	again := t.oneFailed()
	require.Greater(t, again.Fence, r.Fence)
	require.NotEmpty(t, again.History)
	last := again.History[len(again.History)-1]
	require.Equal(t, reliable.CompensationFailed, last.Kind)
	require.Equal(t, "storetest", last.By)
	require.Equal(t, compensation(r, false).Reason, last.Reason)
	bad := compensation(again, false)
	bad.Delay = -1
	tx = t.begin()
	_, err := tx.settler(t).SettleCompensation(t.Context(), bad)
	require.ErrorIs(t, err, reliable.ErrInvalid)
	tx.rollback(t)
}

func insideEnded(t *T) {
	t.failed(env("a"))
	r := t.oneFailed()
	committed := t.begin()
	committed.commit(t)
	rolledBack := t.begin()
	rolledBack.rollback(t)
	for name, tx := range map[string]txn{"committed": committed, "rolled back": rolledBack} {
		_, err := tx.settler(t).SettleCompensation(t.Context(), compensation(r, true))
		require.Error(t, err, name)
	}
	t.hasStatus(env("a"), reliable.Failed)
}
