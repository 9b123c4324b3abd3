package storetest

import (
	"slices"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

var compensationChecks = compensationNeeded([]Check{
	{Name: "a failed envelope is handed out with what is known of it", run: compensationClaim},
	{Name: "only what failed, of the topics asked for, is handed out", run: compensationTopics},
	{Name: "the oldest come first, no more than asked for", run: compensationOrder},
	{Name: "a lease keeps others away", run: compensationLeased},
	{Name: "a lease that ran out passes on, and the old holder is stale", run: compensationLeaseRunsOut},
	{Name: "done makes it Compensated for good", run: compensationDone},
	{Name: "not done is due again after its delay, with its reason", run: compensationRetried},
	{Name: "concurrent claimers never hold one envelope twice", run: compensationOneHolder},
	{Name: "a late ack before it began confirms", run: compensationAckBefore},
	{Name: "a late ack after it began is recorded, not applied", run: compensationAckAfter},
	{Name: "a late ack of what was compensated is recorded, not applied", run: compensationAckDone},
	{Name: "done lets the followers of the key go", run: compensationReleases},
	{Name: "an envelope that is not claimed cannot be compensated", run: compensationUnclaimed},
	{Name: "bad requests are refused", run: compensationBadRequests},
})

func compensationNeeded(checks []Check) []Check {
	for i := range checks {
		checks[i].Needs = append(checks[i].Needs, Compensation)
	}
	return checks
}

func (t *T) compensator() reliable.Compensator {
	t.Helper()
	return able[reliable.Compensator](t)
}

// failed stores envelopes and fails them, one after the other.
func (t *T) failed(envs ...reliable.Envelope) []reliable.Attempt {
	t.Helper()
	t.put(envs...)
	attempts := t.soon(len(envs))
	for i, e := range envs {
		at := slices.IndexFunc(attempts, func(a reliable.Attempt) bool { return a.ID == e.ID })
		require.GreaterOrEqual(t, at, 0, "%q was claimed", e.ID)
		if i > 0 {
			t.pass(grain)
		}
		t.settles(giveUp(attempts[at]), reliable.Applied)
	}
	return attempts
}

func (t *T) claimFailed(req reliable.ClaimRequest, topics ...string) []reliable.Record {
	t.Helper()
	records, err := t.compensator().ClaimFailed(t.Context(), req, topics...)
	require.NoError(t, err, "claim failed")
	return records
}

// oneFailed claims the one failed envelope there is, for a long lease.
func (t *T) oneFailed() reliable.Record {
	t.Helper()
	records := t.claimFailed(request(10, long), topic)
	require.Len(t, records, 1, "failed envelopes claimed")
	return records[0]
}

func compensation(r reliable.Record, done bool) reliable.Compensation {
	c := reliable.Compensation{ID: r.ID, Fence: r.Fence, Topic: r.Topic, Key: r.Key, Done: done}
	if !done {
		c.Reason = "queue full: the refund service is down"
	}
	return c
}

func (t *T) compensates(c reliable.Compensation, want ...reliable.SettleResult) {
	t.Helper()
	result, err := t.compensator().SettleCompensation(t.Context(), c)
	require.NoError(t, err, "settle compensation")
	require.Contains(t, names(want...), result.String(), "result of the compensation")
}

func recordIDs(records []reliable.Record) []reliable.ID {
	list := make([]reliable.ID, len(records))
	for i := range records {
		list[i] = records[i].ID
	}
	return list
}

func compensationClaim(t *T) {
	e := keyed("a", "k")
	e.Metadata = map[string]string{"n": "1"}
	t.put(e)
	t.settle(unknown(t.one()))
	last := t.soon(1)[0]
	t.settle(giveUp(last))
	records := t.claimFailed(request(10, long), topic)
	require.Len(t, records, 1)
	r := records[0]
	same(t, e, r.Envelope)
	require.Equal(t, reliable.Failed, r.Status)
	require.Greater(t, r.Fence, last.Fence, "the fence grows with every claim")
	require.Equal(t, 1, r.Failures)
	require.True(t, r.MayHaveBeenSent)
	require.Len(t, r.History, 2, "what went wrong")
	require.Equal(t, reliable.Unknown, r.History[0].Outcome)
	require.Equal(t, reliable.Rejected, r.History[1].Outcome)
	require.Equal(t, "too large", r.History[1].Reason)
	require.False(t, r.LateAck)
}

func compensationTopics(t *T) {
	inOther, inThird := env("other"), env("third")
	inOther.Topic, inThird.Topic = "Orders", "invoices"
	t.failed(env("a"), inOther, inThird)
	t.put(env("pending"), env("confirmed"))
	for _, a := range t.soon(2) {
		if a.ID == "confirmed" {
			t.settle(ack(a))
		} else {
			t.settle(giveBack(a))
		}
	}
	require.Empty(t, t.claimFailed(request(10, long), "order"))
	require.Equal(t, []reliable.ID{"a"}, recordIDs(t.claimFailed(request(10, long), topic)))
	both := t.claimFailed(request(10, long), "Orders", "invoices", topic)
	require.ElementsMatch(t, []reliable.ID{"other", "third"}, recordIDs(both))
}

func compensationOrder(t *T) {
	t.failed(env("c"), env("b"), env("a"))
	require.Equal(t, []reliable.ID{"c", "b"}, recordIDs(t.claimFailed(request(2, long), topic)))
	require.Equal(t, []reliable.ID{"a"}, recordIDs(t.claimFailed(request(2, long), topic)))
}

func compensationLeased(t *T) {
	t.failed(env("a"))
	require.Len(t, t.claimFailed(request(10, long), topic), 1)
	require.Empty(t, t.claimFailed(request(10, long), topic), "it is leased")
	t.hasStatus(env("a"), reliable.Failed)
	t.none("it has failed")
}

func compensationLeaseRunsOut(t *T) {
	t.failed(env("a"))
	old := t.claimFailed(request(10, t.h.Lease), topic)
	require.Len(t, old, 1)
	t.pass(t.h.Lease)
	var young []reliable.Record
	t.until("the lease runs out", func() bool {
		young = t.claimFailed(request(10, long), topic)
		return len(young) == 1
	})
	require.Greater(t, young[0].Fence, old[0].Fence)
	t.compensates(compensation(old[0], true), reliable.Stale)
	t.compensates(compensation(old[0], false), reliable.Stale)
	t.hasStatus(env("a"), reliable.Failed)
	require.Empty(t, t.claimFailed(request(10, long), topic), "the new holder still has it")
	t.compensates(compensation(young[0], true), reliable.Applied)
	t.hasStatus(env("a"), reliable.Compensated)
}

func compensationDone(t *T) {
	attempt := t.failed(env("a"))[0]
	r := t.oneFailed()
	t.compensates(compensation(r, true), reliable.Applied)
	t.hasStatus(env("a"), reliable.Compensated)
	t.compensates(compensation(r, true), reliable.Repeated)
	t.compensates(compensation(r, false), reliable.Stale)
	for _, s := range []reliable.Settlement{retry(attempt, 0), giveUp(attempt), giveBack(attempt)} {
		t.settles(s, reliable.Stale, reliable.Repeated)
	}
	t.hasStatus(env("a"), reliable.Compensated)
	require.Empty(t, t.claimFailed(request(10, long), topic))
	t.none("it is compensated")
}

func compensationRetried(t *T) {
	t.failed(env("a"))
	r := t.oneFailed()
	t.compensates(compensation(r, false), reliable.Applied)
	t.compensates(compensation(r, false), reliable.Repeated)
	again := t.claimFailed(request(10, long), topic)
	require.Len(t, again, 1, "no delay")
	require.Greater(t, again[0].Fence, r.Fence)
	require.NotEmpty(t, again[0].History)
	require.Equal(t, compensation(r, false).Reason, again[0].History[len(again[0].History)-1].Reason)
	c := compensation(again[0], false)
	c.Delay = long
	t.compensates(c, reliable.Applied)
	require.Empty(t, t.claimFailed(request(10, long), topic), "the delay has not passed")
	t.hasStatus(env("a"), reliable.Failed)
}

func compensationOneHolder(t *T) {
	const count = 60
	envs := numbered(count)
	t.put(envs...)
	var ss []reliable.Settlement
	for _, a := range t.soon(count) {
		ss = append(ss, giveUp(a))
	}
	t.settle(ss...)
	store := t.handles()
	var lock sync.Mutex
	holders := make(map[reliable.ID]int)
	t.together(4, func(i int) error {
		compensator, _ := reliable.Ability[reliable.Compensator](store(i))
		for range 12 {
			records, err := compensator.ClaimFailed(t.Context(), request(7, long), topic)
			if err != nil {
				return err
			}
			lock.Lock()
			for _, r := range records {
				holders[r.ID]++
			}
			lock.Unlock()
		}
		return nil
	})
	t.until("the rest can be claimed", func() bool {
		for _, r := range t.claimFailed(request(count, long), topic) {
			holders[r.ID]++
		}
		return len(holders) == count
	})
	for id, n := range holders {
		require.Equal(t, 1, n, "holders of %q", id)
	}
}

func compensationAckBefore(t *T) {
	attempt := t.failed(env("a"))[0]
	t.settles(ack(attempt), reliable.Late)
	t.hasStatus(env("a"), reliable.Confirmed)
	require.Empty(t, t.claimFailed(request(10, long), topic), "it is confirmed")
}

func compensationAckAfter(t *T) {
	attempt := t.failed(keyed("a", "k"))[0]
	t.put(keyed("follower", "k"))
	r := t.oneFailed()
	t.settles(ack(attempt), reliable.Overtaken)
	t.settles(ack(attempt), reliable.Repeated)
	t.hasStatus(keyed("a", "k"), reliable.Failed)
	t.none("the key waits for the compensation")
	if Inspection.of(t.store) {
		require.True(t, t.record("a").LateAck)
	}
	t.compensates(compensation(r, false), reliable.Applied)
	again := t.claimFailed(request(10, long), topic)
	require.Len(t, again, 1)
	require.True(t, again[0].LateAck, "the handler is told")
	t.compensates(compensation(again[0], true), reliable.Applied)
	t.hasStatus(keyed("a", "k"), reliable.Compensated)
}

func compensationAckDone(t *T) {
	attempt := t.failed(env("a"))[0]
	t.compensates(compensation(t.oneFailed(), true), reliable.Applied)
	t.settles(ack(attempt), reliable.Overtaken)
	t.hasStatus(env("a"), reliable.Compensated)
	if Inspection.of(t.store) {
		require.True(t, t.record("a").LateAck)
	}
}

func compensationReleases(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"), keyed("c", "k"))
	t.settle(giveUp(t.one()))
	t.none("the head has failed")
	r := t.oneFailed()
	t.none("its compensation is not done")
	t.compensates(compensation(r, true), reliable.Applied)
	require.Equal(t, []reliable.ID{"b"}, ids(t.soon(1)))
	t.compensates(compensation(r, true), reliable.Repeated)
	t.none("b is on its way")
}

func compensationUnclaimed(t *T) {
	attempt := t.failed(env("a"))[0]
	c := reliable.Compensation{ID: "a", Fence: attempt.Fence, Topic: topic, Done: true}
	t.compensates(c, reliable.Stale)
	t.hasStatus(env("a"), reliable.Failed)
	c.ID = "gone"
	t.compensates(c, reliable.Stale)
	require.Len(t, t.claimFailed(request(10, long), topic), 1)
}

func compensationBadRequests(t *T) {
	t.failed(env("a"))
	for name, req := range map[string]reliable.ClaimRequest{
		"Max 0": request(0, long), "no lease": request(1, 0), "negative lease": request(1, -1),
	} {
		_, err := t.compensator().ClaimFailed(t.Context(), req, topic)
		require.ErrorIs(t, err, reliable.ErrInvalid, name)
	}
	require.Len(t, t.claimFailed(request(1, long), topic), 1)
}
