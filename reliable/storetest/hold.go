package storetest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// While a topic is held its envelopes wait outside the range that claims look at.
var holdChecks = holdsNeeded([]Check{
	{Name: "a hold counts its refusals and tells its next probe", run: holdCounts},
	{Name: "concurrent refusals are all counted", run: holdCountsConcurrently},
	{Name: "what is parked is not claimed", run: holdParks},
	{Name: "without a hold a parked envelope waits for its delay", run: holdParkWithoutHold},
	{Name: "parking charges, and gives back, as asked", run: holdParkCharges},
	{Name: "a stale holder parks nothing", run: holdParkStale},
	{Name: "a parked envelope has been failing since it was parked", run: holdFailingFor},
	{Name: "other topics are not held", run: holdOtherTopics},
	{Name: "a parked head keeps its followers waiting", run: holdParkedHead},
	{Name: "a late ack confirms what is parked", run: holdLateAck},
	{Name: "bad requests are refused", run: holdBadRequests},
})

func holdsNeeded(checks []Check) []Check {
	for i := range checks {
		checks[i].Needs = append(checks[i].Needs, Holds)
	}
	return checks
}

func (t *T) holder() reliable.Holder {
	t.Helper()
	return able[reliable.Holder](t)
}

// hold counts one refusal of the topic.
func (t *T) hold(delay time.Duration) reliable.Hold {
	t.Helper()
	h, err := t.holder().Hold(t.Context(), topic, delay)
	require.NoError(t, err, "hold")
	return h
}

// held returns the hold of the topic.
func (t *T) held() (reliable.Hold, bool) {
	t.Helper()
	holds, err := t.holder().Holds(t.Context())
	require.NoError(t, err, "holds")
	for _, h := range holds {
		if h.Topic == topic {
			return h, true
		}
	}
	return reliable.Hold{}, false
}

// parked stores envelopes, holds their topic with a probe after delay, and parks them.
func (t *T) parked(delay time.Duration, envs ...reliable.Envelope) []reliable.Attempt {
	t.Helper()
	t.putApart(envs...)
	attempts := t.exactly(len(envs))
	t.hold(delay)
	for _, a := range attempts {
		t.settles(park(giveBack(a)), reliable.Applied)
	}
	return attempts
}

func (t *T) probe(lease time.Duration) []reliable.Attempt {
	t.Helper()
	attempts, err := t.holder().Probe(t.Context(), topic, request(1, lease))
	require.NoError(t, err, "probe")
	require.LessOrEqual(t, len(attempts), 1, "one at a time")
	return attempts
}

func (t *T) unhold(limit int) (left bool) {
	t.Helper()
	left, err := t.holder().Unhold(t.Context(), topic, limit)
	require.NoError(t, err, "unhold")
	return left
}

func holdCounts(t *T) {
	_, there := t.held()
	require.False(t, there)
	first := t.hold(long)
	require.Equal(t, topic, first.Topic)
	require.Equal(t, 1, first.Refusals, "the opening one included")
	require.Less(t, first.HeldFor, patience)
	require.LessOrEqual(t, first.NextProbe, long+grain)
	require.Greater(t, first.NextProbe, long-patience)

	t.pass(t.h.Lease)
	second := t.hold(2 * long)
	require.Equal(t, 2, second.Refusals)
	require.GreaterOrEqual(t, second.HeldFor+grain, t.h.Lease, "held since it was opened")
	require.Greater(t, second.NextProbe, 2*long-patience)

	h, there := t.held()
	require.True(t, there)
	require.Equal(t, 2, h.Refusals)
	require.GreaterOrEqual(t, h.HeldFor+grain, t.h.Lease)
	require.Greater(t, h.NextProbe, 2*long-patience)

	require.Zero(t, t.hold(0).NextProbe, "due now")
	require.False(t, t.unhold(10))
	_, there = t.held()
	require.False(t, there)
	require.Equal(t, 1, t.hold(long).Refusals, "a new hold counts anew")
}

func holdCountsConcurrently(t *T) {
	const callers = 8
	store := t.handles()
	t.together(callers, func(i int) error {
		holder, _ := reliable.Ability[reliable.Holder](store(i))
		_, err := holder.Hold(t.Context(), topic, long)
		return err
	})
	h, _ := t.held()
	require.Equal(t, callers, h.Refusals)
}

func holdParks(t *T) {
	attempts := t.parked(long, env("a"), env("b"))
	t.none("both wait behind the hold")
	t.hasStatus(env("a"), reliable.Pending)
	t.settles(park(giveBack(attempts[0])), reliable.Repeated, reliable.Stale)
	require.False(t, t.unhold(10))
	again := t.soon(2)
	require.Equal(t, 1, again[0].Attempts, "both were given back")
}

func holdParkWithoutHold(t *T) {
	t.put(env("at once"), env("later"))
	for _, a := range t.claim(2) {
		s := park(giveBack(a))
		if a.ID == "later" {
			s.Delay = long
		}
		t.settles(s, reliable.Applied)
	}
	require.Equal(t, []reliable.ID{"at once"}, ids(t.claim(10)))
}

func holdParkCharges(t *T) {
	t.putApart(env("charged"), env("given back"))
	attempts := t.exactly(2)
	t.hold(long)
	results := t.settle(park(retry(attempts[0], 0)), park(giveBack(attempts[1])))
	require.Equal(t, names(reliable.Applied, reliable.Applied), names(results...))
	t.none("both wait behind the hold")
	t.unhold(10)
	for _, a := range t.soon(2) {
		if a.ID == "charged" {
			require.Equal(t, 1, a.Failures)
			require.Equal(t, 2, a.Attempts)
		} else {
			require.Zero(t, a.Failures)
			require.Equal(t, 1, a.Attempts)
		}
	}
}

func holdParkStale(t *T) {
	t.put(env("a"))
	old, young := t.takenOver()
	t.hold(long)
	t.settles(park(giveBack(old)), reliable.Stale)
	t.settles(ack(young), reliable.Applied)
	require.Empty(t, t.probe(long))
}

func holdFailingFor(t *T) {
	t.parked(long, env("a"))
	t.pass(t.h.Lease)
	t.unhold(10)
	a := t.soon(1)[0]
	require.Zero(t, a.Failures)
	require.GreaterOrEqual(t, a.FailingFor+grain, t.h.Lease, "it has waited behind the hold")
}

func holdOtherTopics(t *T) {
	other := env("other")
	other.Topic = "Orders"
	t.put(other)
	a := t.one()
	t.parked(long, env("a"))
	t.settles(park(giveBack(a)), reliable.Applied)
	require.Equal(t, []reliable.ID{"other"}, ids(t.claim(10)), "another topic is not held")
	attempts, err := t.holder().Probe(t.Context(), "Orders", request(1, long))
	require.NoError(t, err)
	require.Empty(t, attempts)
	left, err := t.holder().Unhold(t.Context(), "Orders", 10)
	require.NoError(t, err)
	require.False(t, left)
	_, there := t.held()
	require.True(t, there, "that was another topic")
	t.none("the topic is held")
}

func holdParkedHead(t *T) {
	t.put(keyed("head", "k"), keyed("follower", "k"))
	a := t.one()
	t.hold(0)
	t.settles(park(giveBack(a)), reliable.Applied)
	t.none("the head is parked, and its follower waits for it")
	probes := t.probe(long)
	require.Equal(t, []reliable.ID{"head"}, ids(probes))
	t.none("the head is on its way")
	t.settles(ack(probes[0]), reliable.Applied)
	require.Equal(t, reliable.ID("follower"), t.soon(1)[0].ID)
	require.False(t, t.unhold(10))
}

func holdLateAck(t *T) {
	attempts := t.parked(0, env("a"), env("b"))
	for _, a := range attempts {
		t.settles(ack(a), reliable.Late, reliable.Applied)
		t.hasStatus(a.Envelope, reliable.Confirmed)
	}
	require.Empty(t, t.probe(long), "nothing waits any more")
	require.False(t, t.unhold(10))
	t.none("both are confirmed")
}

func holdBadRequests(t *T) {
	t.parked(0, env("a"))
	_, err := t.holder().Probe(t.Context(), topic, request(0, long))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	_, err = t.holder().Probe(t.Context(), topic, request(1, 0))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	_, err = t.holder().Hold(t.Context(), topic, -time.Second)
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, limit := range []int{0, -1} {
		_, err = t.holder().Unhold(t.Context(), topic, limit)
		require.ErrorIs(t, err, reliable.ErrInvalid)
		_, err = t.holder().FailHeld(t.Context(), topic, reliable.FailHeldRequest{Limit: limit})
		require.ErrorIs(t, err, reliable.ErrInvalid)
	}
	_, err = t.holder().FailHeld(t.Context(), topic, reliable.FailHeldRequest{Waited: -time.Second, Limit: 1})
	require.ErrorIs(t, err, reliable.ErrInvalid)
	require.Len(t, t.probe(long), 1, "nothing has happened")
}
