package storetest

import (
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// A held topic is probed by one envelope at a time.
var probeChecks = holdsNeeded([]Check{
	{Name: "a probe comes only when it is due", run: probeWhenDue},
	{Name: "a probe takes one, for its lease", run: probeOne},
	{Name: "of concurrent probers one probes", run: probeConcurrently},
	{Name: "a probe finds nothing where nothing waits", run: probeNothing},
	{Name: "a probe rotates to those that failed least", run: probeRotates},
	{Name: "the probe of a dead prober comes back", run: probeOfDeadProber},
})

func probeWhenDue(t *T) {
	t.parked(2*t.h.Lease, env("a"))
	before := time.Now()
	t.hold(2 * t.h.Lease)
	require.Empty(t, t.probe(long), "the probe is not due")
	t.until("the probe is due", func() bool { return len(t.probe(long)) == 1 })
	require.GreaterOrEqual(t, time.Since(before)+grain, 2*t.h.Lease, "probed too early")
}

func probeOne(t *T) {
	first := t.parked(0, env("a"), env("b"), env("c"))
	probes, err := t.holder().Probe(t.Context(), topic, request(10, long))
	require.NoError(t, err)
	require.Len(t, probes, 1, "one, however many were asked for")
	require.Equal(t, reliable.ID("a"), probes[0].ID, "the oldest")
	require.Greater(t, probes[0].Fence, first[0].Fence)
	require.Equal(t, 1, probes[0].Attempts)
	same(t, env("a"), probes[0].Envelope)
	require.Empty(t, t.probe(long), "the next probe is due at the end of the lease")
	h, _ := t.held()
	require.Greater(t, h.NextProbe, long-patience)
	t.none("the probe is leased, the others are parked")
	t.settles(ack(probes[0]), reliable.Applied)
	require.False(t, t.unhold(10))
	require.ElementsMatch(t, []reliable.ID{"b", "c"}, ids(t.soon(2)))
}

func probeConcurrently(t *T) {
	const probers = 8
	t.parked(0, numbered(20)...)
	store := t.handles()
	var probes atomic.Int32
	t.together(probers, func(i int) error {
		holder, _ := reliable.Ability[reliable.Holder](store(i))
		attempts, err := holder.Probe(t.Context(), topic, request(1, long))
		probes.Add(int32(len(attempts)))
		return err
	})
	require.EqualValues(t, 1, probes.Load(), "one process probes at a time")
}

func probeNothing(t *T) {
	t.put(env("a"))
	require.Empty(t, t.probe(long), "the topic is not held")
	t.hold(0)
	a := t.soon(1)[0]
	require.Empty(t, t.probe(long), "nothing waits")
	t.settles(park(giveBack(a)), reliable.Applied)
	t.until("what waits is probed", func() bool {
		t.hold(0)
		return len(t.probe(long)) == 1
	})
}

func probeRotates(t *T) {
	t.parked(0, env("a"), env("b"), env("c"))
	seen := make(map[reliable.ID]int)
	for range 6 {
		probes := t.probe(long)
		require.Len(t, probes, 1)
		seen[probes[0].ID]++
		t.settles(park(retry(probes[0], 0)), reliable.Applied)
		t.hold(0)
	}
	require.Equal(t, map[reliable.ID]int{"a": 2, "b": 2, "c": 2}, seen, "probes of each")
}

func probeOfDeadProber(t *T) {
	t.parked(0, env("a"))
	require.Len(t, t.probe(t.h.Lease), 1)
	t.pass(t.h.Lease)
	var a reliable.Attempt
	t.until("the envelope comes back", func() bool {
		attempts := append(t.claim(1), t.probe(long)...)
		if len(attempts) == 1 {
			a = attempts[0]
		}
		return len(attempts) == 1
	})
	require.Equal(t, reliable.ID("a"), a.ID)
	require.True(t, a.MayHaveBeenSent, "the dead prober may have sent it")
	t.settles(ack(a), reliable.Applied)
	require.False(t, t.unhold(10))
}
