package storetest

import (
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// What people decide, about envelopes that nobody else has in hand.
var decideChecks = operationNeeded([]Check{
	{Name: "each action applies to its statuses only", run: decideStatuses},
	{Name: "a requeued one starts over", run: decideRequeue},
	{Name: "a requeued one is sent again though its deadline has passed", run: decideRequeueDeadline},
	{Name: "a requeued one can be compensated again", Needs: needs(Compensation), run: decideRequeueCompensation},
	{Name: "a compensated one is final", Needs: needs(Compensation), run: decideCompensate},
	{Name: "a discarded one is final", run: decideDiscard},
	{Name: "what waits, is delayed or parked can be discarded", Needs: needs(Holds), run: decideDiscardPending},
	{Name: "each decision is told with who, why and when", Needs: needs(Inspection), run: decideHistory},
	{Name: "decisions are never trimmed away", Needs: needs(Inspection), run: decideHistoryKept},
	{Name: "what is purged takes its decisions along", Needs: needs(Inspection, Purging), run: decidePurged},
	{Name: "Stats counts what was compensated and discarded", Needs: needs(Inspection), run: decideStats},
	{Name: "a thousand are decided at a time", run: decideMany},
	{Name: "one that occurs twice is decided once", run: decideTwice},
	{Name: "bad decisions are refused", run: decideRefuses},
	{Name: "of two operators one decides each", run: decideConcurrently},
})

func reasonOf(action reliable.Action) string { return "because of an " + action.String() }

func (t *T) decide(action reliable.Action, ids ...reliable.ID) []reliable.DecisionResult {
	t.Helper()
	results, err := t.operator().Decide(t.Context(), reliable.Decision{
		Action: action, IDs: ids, Who: "ann", Why: reasonOf(action),
	})
	require.NoError(t, err, "decide")
	require.Len(t, results, len(ids), "one result for each id")
	for i, id := range ids {
		require.Equal(t, id, results[i].ID, "results are at the index of their id")
	}
	return results
}

// target is where an action leads.
func target(action reliable.Action) reliable.Status {
	switch action {
	case reliable.Requeue:
		return reliable.Pending
	case reliable.Compensate:
		return reliable.Compensated
	}
	return reliable.Discarded
}

// decides demands that each is decided.
func (t *T) decides(action reliable.Action, ids ...reliable.ID) {
	t.Helper()
	for _, r := range t.decide(action, ids...) {
		require.Equal(t, reliable.Decided.String(), r.Verdict.String(), "verdict on %v of %q", action, r.ID)
		require.Equal(t, target(action).String(), r.Status.String(), "status of %q after %v", r.ID, action)
	}
}

// refuses demands a verdict on each, and that its status is left as it was.
func (t *T) refuses(action reliable.Action, verdict reliable.Verdict, status reliable.Status, ids ...reliable.ID) {
	t.Helper()
	for _, r := range t.decide(action, ids...) {
		require.Equal(t, verdict.String(), r.Verdict.String(), "verdict on %v of %q", action, r.ID)
		require.Equal(t, status.String(), r.Status.String(), "status of %q", r.ID)
	}
}

func decideStatuses(t *T) {
	t.sorted()
	actions := []reliable.Action{reliable.Requeue, reliable.Compensate, reliable.Discard}
	applies := map[reliable.Action][]reliable.Status{
		reliable.Requeue:    {reliable.Failed, reliable.Discarded},
		reliable.Compensate: {reliable.Failed},
		reliable.Discard:    {reliable.Pending, reliable.Failed},
	}
	for _, action := range actions {
		for status := reliable.Pending; status <= reliable.Discarded; status++ {
			id := reliable.ID(status.String())
			does := false
			for _, s := range applies[action] {
				does = does || s == status
			}
			if does {
				continue
			}
			t.refuses(action, reliable.WrongStatus, status, id)
			t.hasStatus(env(id), status)
		}
		require.Equal(t, reliable.NotFound, t.decide(action, "gone")[0].Verdict)
	}
	t.decides(reliable.Requeue, "failed", "discarded")
	t.hasStatus(env("failed"), reliable.Pending)
	t.hasStatus(env("discarded"), reliable.Pending)
	t.decides(reliable.Discard, "failed", "pending")
	t.hasStatus(env("failed"), reliable.Discarded)
	t.hasStatus(env("pending"), reliable.Discarded)
	require.ElementsMatch(t, []reliable.ID{"discarded"}, ids(t.claim(10)))
	require.Empty(t, t.decide(reliable.Discard))
}

func decideRequeue(t *T) {
	t.put(env("a"))
	t.settles(retry(t.one(), 0), reliable.Applied)
	last := t.one()
	t.settles(giveUp(last), reliable.Applied)
	t.none("it has failed")
	t.decides(reliable.Requeue, "a")
	t.hasStatus(env("a"), reliable.Pending)
	a := t.one()
	same(t, env("a"), a.Envelope)
	require.Greater(t, a.Fence, last.Fence+1, "the fence grows by the decision, and by the claim")
	require.Equal(t, 1, a.Attempts, "attempts are counted from 0")
	require.Zero(t, a.Failures, "failures are counted from 0")
	require.Zero(t, a.FailingFor)
	t.settles(retry(a, 0), reliable.Applied)
	a = t.one()
	require.Equal(t, 1, a.Failures, "and counted again")
	t.settles(ack(a), reliable.Applied)
	t.hasStatus(env("a"), reliable.Confirmed)
	t.refuses(reliable.Requeue, reliable.WrongStatus, reliable.Confirmed, "a")
}

func decideRequeueDeadline(t *T) {
	e := env("a")
	e.Deadline = grain
	t.put(e)
	a := t.one()
	require.Equal(t, e.Deadline, a.Deadline)
	t.pass(2 * grain)
	t.settles(giveUp(a), reliable.Applied)
	t.decides(reliable.Requeue, "a")
	require.Zero(t, t.one().Deadline, "one that has passed would fail it again before it is sent")
}

func decideRequeueCompensation(t *T) {
	t.failed(env("a"))
	old := t.oneFailed()
	t.compensates(compensation(old, false), reliable.Applied)
	t.decides(reliable.Requeue, "a")
	require.Empty(t, t.claimFailed(request(10, long), topic), "it is pending")
	t.compensates(compensation(old, false), reliable.Stale)
	t.compensates(compensation(old, true), reliable.Stale)
	a := t.one()
	t.settles(giveUp(a), reliable.Applied)
	r := t.oneFailed()
	require.Greater(t, r.Fence, a.Fence)
	t.compensates(compensation(old, true), reliable.Stale)
	t.compensates(compensation(r, true), reliable.Applied)
	t.hasStatus(env("a"), reliable.Compensated)
}

func decideCompensate(t *T) {
	a := t.failed(env("a"))[0]
	t.decides(reliable.Compensate, "a")
	t.hasStatus(env("a"), reliable.Compensated)
	require.Empty(t, t.claimFailed(request(10, long), topic), "it is compensated")
	t.none("it is compensated")
	for _, s := range []reliable.Settlement{retry(a, 0), giveBack(a)} {
		t.settles(s, reliable.Stale, reliable.Repeated)
	}
	t.settles(ack(a), reliable.Overtaken)
	t.settles(ack(a), reliable.Repeated)
	t.hasStatus(env("a"), reliable.Compensated)
	if Inspection.of(t.store) {
		require.True(t, t.record("a").LateAck)
	}
}

func decideDiscard(t *T) {
	t.put(env("a"))
	t.decides(reliable.Discard, "a")
	t.hasStatus(env("a"), reliable.Discarded)
	t.none("it is discarded")
	b := t.failed(env("b"))[0]
	t.decides(reliable.Discard, "b")
	t.hasStatus(env("b"), reliable.Discarded)
	t.settles(ack(b), reliable.Overtaken)
	t.hasStatus(env("b"), reliable.Discarded)
	if Compensation.of(t.store) {
		require.Empty(t, t.claimFailed(request(10, long), topic), "it is discarded")
	}
}

func decideDiscardPending(t *T) {
	delayed := env("delayed")
	delayed.Delay = grain
	t.put(delayed)
	t.decides(reliable.Discard, "delayed")
	t.parked(0, env("parked"), env("stays"))
	t.decides(reliable.Discard, "parked")
	require.Equal(t, []reliable.ID{"stays"}, ids(t.probe(long)), "the probe takes what is left")
	require.False(t, t.unhold(10), "nothing waits behind the hold any more")
	t.put(keyed("head", "k"), keyed("follower", "k"))
	t.decides(reliable.Discard, "follower")
	t.pass(2 * grain)
	head := t.soon(1)[0]
	require.Equal(t, reliable.ID("head"), head.ID)
	t.settles(ack(head), reliable.Applied)
	t.none("all else is discarded")
}

func decideHistory(t *T) {
	t.put(env("a"))
	first := t.one()
	t.settles(giveUp(first), reliable.Applied)
	t.pass(grain)
	t.decides(reliable.Requeue, "a")
	t.pass(grain)
	second := t.one()
	t.settles(giveUp(second), reliable.Applied)
	t.pass(grain)
	results, err := t.operator().Decide(t.Context(), reliable.Decision{
		Action: reliable.Compensate, IDs: []reliable.ID{"a"}, Who: "bob\x00\xff", Why: badReasons[2],
	})
	require.NoError(t, err)
	require.Equal(t, reliable.Decided, results[0].Verdict)

	history := t.record("a").History
	require.Len(t, history, 4, "two attempts and two decisions")
	for i, want := range []reliable.HistoryEntry{
		{Fence: first.Fence, Outcome: reliable.Rejected, Charged: true, By: "storetest", Reason: "too large"},
		{Kind: reliable.OperatorDecided, Action: reliable.Requeue, By: "ann", Reason: reasonOf(reliable.Requeue)},
		{Fence: second.Fence, Outcome: reliable.Rejected, Charged: true, By: "storetest", Reason: "too large"},
		{Kind: reliable.OperatorDecided, Action: reliable.Compensate},
	} {
		got := history[i]
		require.GreaterOrEqual(t, got.Ago, 0*grain)
		require.Less(t, got.Ago, patience)
		if i > 0 {
			require.Less(t, got.Ago, history[i-1].Ago, "oldest first")
		}
		if want.Kind == reliable.OperatorDecided {
			require.Greater(t, got.Fence, history[i-1].Fence, "a decision has a fence of its own")
			got.Fence = 0
		}
		if i == 3 {
			require.Contains(t, got.By, "bob")
			require.LessOrEqual(t, len(got.By), reliable.MaxDecisionText)
			readable(t, got.Reason)
			got.By, got.Reason = "", ""
		}
		got.Ago = 0
		require.Equal(t, want, got, "entry %d, oldest first", i)
	}
}

func decideHistoryKept(t *T) {
	const rounds = 3
	t.put(env("a"))
	for range rounds {
		for range reliable.MaxHistory/2 + 10 {
			t.settle(retry(t.one(), 0))
		}
		t.settle(giveUp(t.one()))
		t.decides(reliable.Requeue, "a")
	}
	history := t.record("a").History
	decisions := 0
	for i, e := range history {
		if e.Kind == reliable.OperatorDecided {
			decisions++
			require.Equal(t, "ann", e.By)
		}
		if i > 0 {
			require.GreaterOrEqual(t, e.Fence, history[i-1].Fence, "oldest first")
		}
	}
	require.Equal(t, rounds, decisions, "decisions in the history")
	require.Len(t, history, rounds+reliable.MaxHistory, "all else is bounded")
}

func decidePurged(t *T) {
	t.failed(env("a"))
	t.decides(reliable.Discard, "a")
	t.pass(grain)
	n, err := able[reliable.Purger](t).Purge(t.Context(), reliable.Discarded, 0, 10)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	t.absent(env("a"))
	require.Empty(t, t.record("a").History)
	t.settles(giveUp(t.one()), reliable.Applied)
	t.decides(reliable.Requeue, "a")
	require.Len(t, t.record("a").History, 2, "one attempt and one decision")
	n, err = able[reliable.Purger](t).Purge(t.Context(), reliable.Discarded, 0, 10)
	require.NoError(t, err)
	require.Zero(t, n, "it is discarded no more")
}

func decideStats(t *T) {
	t.failed(ofTopic("over", "o1"), ofTopic("over", "o2"), ofTopic("over", "o3"))
	t.decides(reliable.Compensate, "o1", "o2")
	t.decides(reliable.Discard, "o3")
	t.sorted()
	stats := t.stats()
	require.Len(t, stats, 2)
	mixed, over := stats[topic], stats["over"]
	for what, pair := range map[string][2]int{
		"pending": {1, mixed.Pending}, "failed": {1, mixed.Failed}, "compensated": {1, mixed.Compensated},
		"discarded": {1, mixed.Discarded}, "of the other topic pending": {0, over.Pending},
		"of the other topic failed": {0, over.Failed}, "of the other topic compensated": {2, over.Compensated},
		"of the other topic discarded": {1, over.Discarded},
	} {
		require.Equal(t, pair[0], pair[1], what)
	}
	t.decides(reliable.Requeue, "discarded")
	require.Zero(t, t.stats()[topic].Discarded)
	require.Equal(t, 2, t.stats()[topic].Pending)
}

func decideMany(t *T) {
	envs := numbered(reliable.MaxDecisions)
	for i := range envs {
		if i%2 == 0 {
			envs[i].Key = number("k", i%7)
		}
	}
	t.put(envs...)
	all := idsOf(envs)
	t.decides(reliable.Discard, all...)
	t.none("all are discarded")
	t.decides(reliable.Requeue, all...)
	const unkeyed = reliable.MaxDecisions / 2
	require.Len(t, t.soon(unkeyed+7), unkeyed+7, "all without a key, and one of each key")
	t.none("the rest waits for its turn")
	_, err := t.operator().Decide(t.Context(), reliable.Decision{
		Action: reliable.Discard, IDs: append(all, "one more"), Who: "ann", Why: "test",
	})
	require.ErrorIs(t, err, reliable.ErrInvalid)
}

func decideTwice(t *T) {
	t.failed(env("a"))
	results := t.decide(reliable.Requeue, "a", "gone", "a")
	for i, want := range []reliable.Verdict{reliable.Decided, reliable.NotFound, reliable.WrongStatus} {
		require.Equal(t, want.String(), results[i].Verdict.String(), "verdict %d", i)
	}
	require.Len(t, t.claim(10), 1)
	if Inspection.of(t.store) {
		require.Len(t, t.record("a").History, 2, "an attempt and a decision")
	}
}

func decideRefuses(t *T) {
	t.failed(env("a"))
	for name, d := range map[string]reliable.Decision{
		"no action":      {Who: "ann", Why: "test"},
		"another action": {Action: 77, Who: "ann", Why: "test"},
		"nobody":         {Action: reliable.Discard, Why: "test"},
		"a blank":        {Action: reliable.Discard, Who: " \t", Why: "test"},
		"no reason":      {Action: reliable.Discard, Who: "ann"},
	} {
		d.IDs = []reliable.ID{"a"}
		_, err := t.operator().Decide(t.Context(), d)
		require.ErrorIs(t, err, reliable.ErrInvalid, name)
	}
	t.hasStatus(env("a"), reliable.Failed)
	_, err := t.operator().Decide(t.canceled(), reliable.Decision{
		Action: reliable.Discard, IDs: []reliable.ID{"a"}, Who: "ann", Why: "test",
	})
	require.Error(t, err)
	t.hasStatus(env("a"), reliable.Failed)
}

func decideConcurrently(t *T) {
	const count = 100
	envs := numbered(count)
	t.put(envs...)
	var ss []reliable.Settlement
	for _, a := range t.soon(count) {
		ss = append(ss, giveUp(a))
	}
	t.settle(ss...)
	store := t.handles()
	actions := []reliable.Action{reliable.Requeue, reliable.Compensate}
	var lock sync.Mutex
	decided := make(map[reliable.ID][]reliable.Action)
	t.together(2, func(i int) error {
		operator, _ := reliable.Ability[reliable.Operator](store(i))
		for first := 0; first < count; first += 20 {
			results, err := operator.Decide(t.Context(), reliable.Decision{
				Action: actions[i], IDs: idsOf(envs[first : first+20]), Who: number("operator ", i), Why: "test",
			})
			if err != nil {
				return err
			}
			lock.Lock()
			for _, r := range results {
				if r.Verdict == reliable.Decided {
					decided[r.ID] = append(decided[r.ID], actions[i])
				} else if r.Verdict != reliable.WrongStatus {
					t.Errorf("%v of %q: %v", actions[i], r.ID, r.Verdict)
				}
			}
			lock.Unlock()
		}
		return nil
	})
	for _, e := range envs {
		require.Len(t, decided[e.ID], 1, "decisions about %q", e.ID)
		t.hasStatus(e, target(decided[e.ID][0]))
	}
}
