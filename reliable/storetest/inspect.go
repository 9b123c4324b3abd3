package storetest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

var inspectChecks = []Check{
	{Name: "Stats counts what is pending and failed by topic", Needs: needs(Inspection), run: inspectStats},
	{Name: "Stats counts what is delayed, leased and waiting too", Needs: needs(Inspection), run: inspectStatsPending},
	{Name: "Stats counts what is parked", Needs: needs(Inspection, Holds), run: inspectStatsHeld},
	{Name: "Lookup tells what is stored of the ids that exist", Needs: needs(Inspection), run: inspectLookup},
	{Name: "Lookup tells when an envelope is due", Needs: needs(Inspection), run: inspectDueIn},
	{Name: "Lookup tells what waits behind a head", Needs: needs(Inspection), run: inspectWaiting},
	{Name: "Lookup tells what is parked", Needs: needs(Inspection, Holds), run: inspectHeld},
	{Name: "Lookup is bounded", Needs: needs(Inspection), run: inspectBounded},
}

func (t *T) stats() map[string]reliable.TopicStats {
	t.Helper()
	list, err := able[reliable.Inspector](t).Stats(t.Context())
	require.NoError(t, err, "stats")
	stats := make(map[string]reliable.TopicStats)
	for _, s := range list {
		require.NotContains(t, stats, s.Topic, "one entry a topic")
		stats[s.Topic] = s
	}
	return stats
}

func inspectStats(t *T) {
	require.Empty(t, t.stats())
	in := func(topic string, id reliable.ID) reliable.Envelope {
		e := env(id)
		e.Topic = topic
		return e
	}
	t.put(in("mixed", "m1"), in("mixed", "m2"), in("failed", "f1"), in("failed", "f2"), in("done", "d1"))
	t.pass(t.h.Lease)
	t.put(in("mixed", "m3"), in("Mixed", "young"))
	for _, a := range t.soon(7) {
		switch {
		case a.Topic == "failed" || a.ID == "m2":
			t.settle(giveUp(a))
		case a.Topic == "done":
			t.settle(ack(a))
		}
	}
	stats := t.stats()
	require.Len(t, stats, 3, "topics in which something is pending or failed")
	mixed, failed, young := stats["mixed"], stats["failed"], stats["Mixed"]
	require.Equal(t, 2, mixed.Pending)
	require.Equal(t, 1, mixed.Failed)
	require.GreaterOrEqual(t, mixed.OldestPending+grain, t.h.Lease)
	require.GreaterOrEqual(t, mixed.OldestFailed+grain, t.h.Lease)
	require.Less(t, mixed.OldestPending, t.h.Lease+patience)
	require.Zero(t, failed.Pending)
	require.Zero(t, failed.OldestPending)
	require.Equal(t, 2, failed.Failed)
	require.Equal(t, 1, young.Pending)
	require.Zero(t, young.Failed)
	require.Zero(t, young.OldestFailed)
	require.Less(t, young.OldestPending, mixed.OldestPending)
}

func inspectStatsPending(t *T) {
	delayed := env("delayed")
	delayed.Delay = long
	t.put(keyed("head", "k"), keyed("follower 1", "k"), keyed("follower 2", "k"), delayed, env("leased"))
	require.Len(t, t.soon(2), 2)
	require.Equal(t, 5, t.stats()[topic].Pending)
}

func inspectStatsHeld(t *T) {
	t.parked(long, numbered(3)...)
	stats := t.stats()
	require.Equal(t, 3, stats[topic].Pending)
	require.Zero(t, stats[topic].Failed)
}

func inspectLookup(t *T) {
	a := keyed("a", "k")
	a.Metadata = map[string]string{"n": "1"}
	a.Deadline = time.Hour
	t.put(a, env("b"), env("c"))
	for _, x := range t.soon(3) {
		switch x.ID {
		case "a":
			t.settle(retry(x, long))
		case "b":
			t.settle(ack(x))
		case "c":
			t.settle(giveUp(x))
		}
	}
	records, err := able[reliable.Inspector](t).Lookup(t.Context(), "gone", "a", "A", "a ", "c", "b", "a")
	require.NoError(t, err)
	require.ElementsMatch(t, []reliable.ID{"a", "b", "c"}, recordIDs(records), "each that exists, once")
	for _, r := range records {
		switch r.ID {
		case "a":
			same(t, a, r.Envelope)
			require.Equal(t, reliable.Pending, r.Status)
			require.Equal(t, 1, r.Failures)
			require.Equal(t, 1, r.Attempts)
			require.EqualValues(t, 1, r.Fence)
			require.Len(t, r.History, 1)
		case "b":
			require.Equal(t, reliable.Confirmed, r.Status)
			require.Empty(t, r.History)
		case "c":
			require.Equal(t, reliable.Failed, r.Status)
			require.Len(t, r.History, 1)
		}
		require.False(t, r.LateAck)
		require.False(t, r.Held)
	}
	records, err = able[reliable.Inspector](t).Lookup(t.Context())
	require.NoError(t, err)
	require.Empty(t, records)
}

func inspectDueIn(t *T) {
	delayed := env("delayed")
	delayed.Delay = long
	t.put(env("overdue"), delayed)
	t.pass(2 * grain)
	require.Negative(t, t.record("overdue").DueIn, "it could have been claimed")
	require.Greater(t, t.record("delayed").DueIn, long-patience)
	require.LessOrEqual(t, t.record("delayed").DueIn, long+grain)
	require.Empty(t, t.record("overdue").LeasedBy)
	x := t.one()
	require.Greater(t, t.record("overdue").DueIn, long-patience, "due at the end of its lease")
	require.Equal(t, "storetest", t.record("overdue").LeasedBy)
	t.settle(retry(x, long))
	require.Empty(t, t.record("overdue").LeasedBy, "its lease has ended")
}

func inspectWaiting(t *T) {
	t.put(keyed("head", "k"), keyed("follower", "k"))
	head := t.one()
	require.False(t, t.record("head").Waiting)
	require.True(t, t.record("follower").Waiting)
	require.Equal(t, reliable.ID("head"), t.record("follower").Behind)
	require.Empty(t, t.record("head").Behind)
	require.Empty(t, t.record("follower").LeasedBy)
	t.settle(ack(head))
	require.Equal(t, reliable.ID("follower"), t.soon(1)[0].ID)
	require.False(t, t.record("follower").Waiting)
	require.Empty(t, t.record("follower").Behind)
	require.False(t, t.record("head").Waiting)
}

func inspectHeld(t *T) {
	t.parked(0, env("a"), env("b"))
	require.True(t, t.record("a").Held)
	require.False(t, t.record("a").Waiting)
	probe := t.probe(long)
	require.Equal(t, []reliable.ID{"a"}, ids(probe))
	require.False(t, t.record("a").Held, "it is being probed")
	require.True(t, t.record("b").Held)
	t.settle(ack(probe[0]))
	t.unhold(10)
	require.False(t, t.record("b").Held)
}

func inspectBounded(t *T) {
	t.put(numbered(1000)...)
	records, err := able[reliable.Inspector](t).Lookup(t.Context(), idsOf(numbered(1000))...)
	require.NoError(t, err)
	require.Len(t, records, 1000)
	_, err = able[reliable.Inspector](t).Lookup(t.Context(), idsOf(numbered(1001))...)
	require.ErrorIs(t, err, reliable.ErrInvalid)
}
