package storetest

import (
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// A hold ends by releasing what waits behind it, or by giving it up.
var unholdChecks = holdsNeeded([]Check{
	{Name: "Unhold releases in batches, the oldest first", run: unholdInBatches},
	{Name: "Unhold of what is not held is no error", run: unholdNothing},
	{Name: "nothing parked while Unhold runs is left behind", run: unholdRaces},
	{Name: "FailHeld fails only what waited long enough", run: failHeldWaited},
	{Name: "FailHeld is bounded", run: failHeldBounded},
	{Name: "FailHeld keeps its reason", run: failHeldReason},
	{Name: "a failed head behind a hold lets its followers go only with Release", run: failHeldHead},
})

func unholdInBatches(t *T) {
	envs := numbered(5)
	t.parked(long, envs...)
	require.True(t, t.unhold(2), "three are left")
	_, there := t.held()
	require.True(t, there, "the hold stays until none is left")
	require.ElementsMatch(t, idsOf(envs[:2]), ids(t.claim(10)), "the oldest")
	t.unhold(2)
	require.ElementsMatch(t, idsOf(envs[2:4]), ids(t.claim(10)))
	t.until("none is left", func() bool { return !t.unhold(2) })
	_, there = t.held()
	require.False(t, there)
	require.Equal(t, idsOf(envs[4:]), ids(t.claim(10)))
}

func unholdNothing(t *T) {
	require.False(t, t.unhold(10))
	t.hold(long)
	require.False(t, t.unhold(10))
	_, there := t.held()
	require.False(t, there, "nothing waited behind it")
}

func unholdRaces(t *T) {
	const rounds, batch = 4, 12
	for round := range rounds {
		var envs []reliable.Envelope
		for i := range batch {
			envs = append(envs, env(reliable.ID(number("m", round*batch+i))))
		}
		t.put(envs...)
		attempts := t.soon(batch)
		t.hold(long)
		store := t.handles()
		t.together(4, func(i int) error {
			if i == 0 {
				holder, _ := reliable.Ability[reliable.Holder](store(i))
				for {
					left, err := holder.Unhold(t.Context(), topic, 3)
					if err != nil || !left {
						return err
					}
				}
			}
			for _, a := range attempts[(i-1)*batch/3 : i*batch/3] {
				if _, err := store(i).Settle(t.Context(), park(giveBack(a))); err != nil {
					return err
				}
			}
			return nil
		})
		_, there := t.held()
		require.False(t, there, "none was left, so the hold is gone")
		for _, a := range t.soon(batch) {
			t.settles(ack(a), reliable.Applied)
		}
	}
}

func failHeldWaited(t *T) {
	t.putApart(env("long"), env("short"))
	attempts := t.exactly(2)
	t.hold(long)
	t.settles(park(giveBack(attempts[0])), reliable.Applied)
	waited := 4 * t.h.Lease
	t.pass(waited + grain)
	t.settles(park(giveBack(attempts[1])), reliable.Applied)
	require.Equal(t, 1, t.failHeld(reliable.FailHeldRequest{Waited: waited, Limit: 10}))
	t.hasStatus(env("long"), reliable.Failed)
	t.hasStatus(env("short"), reliable.Pending)
	t.none("one has failed, one waits")
	require.False(t, t.unhold(10))
	require.Equal(t, []reliable.ID{"short"}, ids(t.soon(1)))

	require.Zero(t, t.failHeld(reliable.FailHeldRequest{Limit: 10}), "the topic is not held any more")
}

func failHeldBounded(t *T) {
	envs := numbered(5)
	t.parked(long, envs...)
	var failed []int
	for range 4 {
		failed = append(failed, t.failHeld(reliable.FailHeldRequest{Limit: 2}))
	}
	require.Equal(t, []int{2, 2, 1, 0}, failed)
	for _, e := range envs {
		t.hasStatus(e, reliable.Failed)
	}
	require.False(t, t.unhold(10))
	t.none("all have failed")
}

func failHeldReason(t *T) {
	if !Inspection.of(t.store) {
		t.Log("not tested: the store is no reliable.Inspector")
		return
	}
	t.parked(long, env("a"))
	require.Equal(t, 1, t.failHeld(reliable.FailHeldRequest{Reason: badReasons[0], Limit: 10}))
	record := t.record("a")
	require.Equal(t, reliable.Failed, record.Status)
	require.False(t, record.Held)
	require.NotEmpty(t, record.History)
	readable(t, record.History[len(record.History)-1].Reason)
}

func failHeldHead(t *T) {
	t.put(keyed("head", "k"), keyed("follower", "k"), keyed("last", "k"))
	head := t.one()
	t.hold(long)
	t.settles(park(giveBack(head)), reliable.Applied)
	require.Equal(t, 1, t.failHeld(reliable.FailHeldRequest{Limit: 10}))
	t.none("the key waits for the head's compensation")
	t.settles(ack(head), reliable.Late)
	follower := t.soon(1)[0]
	require.Equal(t, reliable.ID("follower"), follower.ID)

	t.put(env("unkeyed"))
	unkeyed := t.soon(1)[0]
	t.settles(park(giveBack(follower)), reliable.Applied)
	t.settles(park(giveBack(unkeyed)), reliable.Applied)
	require.Equal(t, 2, t.failHeld(reliable.FailHeldRequest{Limit: 10, Release: true}))
	t.hasStatus(follower.Envelope, reliable.Failed)
	last := t.soon(1)[0]
	require.Equal(t, reliable.ID("last"), last.ID, "it does not wait behind the hold")
	t.settles(ack(follower), reliable.Late)
	t.none("the last of the key is on its way")
	t.settles(ack(last), reliable.Applied)
}

func (t *T) failHeld(req reliable.FailHeldRequest) int {
	t.Helper()
	n, err := t.holder().FailHeld(t.Context(), topic, req)
	require.NoError(t, err, "fail held")
	return n
}
