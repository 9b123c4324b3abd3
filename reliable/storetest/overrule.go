package storetest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// What people decide about envelopes that a relay or a handler has in hand, or that others of their key wait for.
var overruleChecks = operationNeeded([]Check{
	{Name: "what is discarded in flight stays discarded, whatever comes", run: overruleInFlight},
	{Name: "what is requeued obeys nobody of before", run: overruleRequeued},
	{Name: "a late ack of a requeued one confirms it", run: overruleLateAck},
	{Name: "a late ack of a requeued one that waits confirms it", run: overruleLateAckWaiting},
	{Name: "a late ack of a discarded one is recorded, and does not stand in its way later", run: overruleLateAckDiscarded},
	{Name: "a late ack during compensation does not stand in its way after a requeue", Needs: needs(Compensation), run: overruleLateAckCompensating},
	{Name: "one that a handler holds is busy", Needs: needs(Compensation), run: overruleBusy},
	{Name: "one whose handler is gone is not busy", Needs: needs(Compensation), run: overruleHandlerGone},
	{Name: "a discarded head lets its key go on", run: overruleDiscardedHead},
	{Name: "a head that failed and is compensated or discarded lets its key go on", run: overruleFailedHead},
	{Name: "a head discarded together with one that was released lets the rest of its key go on", run: overruleHeadAmongReleased},
	{Name: "a requeued head goes in front", run: overruleRequeuedHead},
	{Name: "one whose key went on without it is requeued into the line", run: overruleRequeuedBehind},
	{Name: "requeued together they keep their order", run: overruleRequeuedInOrder},
	{Name: "discarded while waiting it is passed over", run: overruleDiscardedWaiting},
	{Name: "hundreds discarded while waiting hold nobody up", run: overruleDiscardedLine},
	{Name: "hundreds discarded before they were ever claimed hold nobody up", run: overruleDiscardedFresh},
	{Name: "an id that was discarded while waiting and purged can be used for another key", Needs: needs(Purging), run: overruleReused},
	{Name: "discarding those who wait races with those who go and no key is stuck", run: overruleRaces},
})

func overruleInFlight(t *T) {
	t.put(env("a"), env("b"), env("c"), env("d"))
	attempts := t.exactly(4)
	t.decides(reliable.Discard, "a", "b", "c", "d")
	for i, s := range []reliable.Settlement{
		retry(attempts[0], 0), giveUp(attempts[1]), giveBack(attempts[2]), unknown(attempts[3]),
	} {
		t.settles(s, reliable.Stale)
		t.settles(ack(attempts[i]), reliable.Overtaken)
		t.settles(ack(attempts[i]), reliable.Repeated)
	}
	for _, a := range attempts {
		t.hasStatus(env(a.ID), reliable.Discarded)
		if Inspection.of(t.store) {
			require.True(t, t.record(a.ID).LateAck)
			require.Len(t, t.record(a.ID).History, 1, "the decision; stale means that nothing was recorded")
		}
	}
	t.none("they are discarded")
	t.decides(reliable.Requeue, "a", "b", "c", "d")
	for _, a := range t.exactly(4) {
		require.True(t, a.MayHaveBeenSent, "%q was on its way when it was discarded", a.ID)
	}
}

func overruleRequeued(t *T) {
	t.put(env("a"))
	old, young := t.takenOver()
	t.settles(giveUp(young), reliable.Applied)
	t.decides(reliable.Requeue, "a")
	charge := retry(old, long)
	charge.Charge = false
	t.settles(charge, reliable.Stale)
	t.settles(giveBack(old), reliable.Stale)
	t.settles(giveUp(young), reliable.Repeated)
	t.settles(giveBack(young), reliable.Stale)
	a := t.one()
	require.Zero(t, a.Failures)
	t.settles(giveBack(young), reliable.Stale)
	t.settles(giveUp(young), reliable.Repeated)
	t.settles(retry(old, long), reliable.Late) // a refusal is a fact, and counts once
	t.none("the newest holder has it")
	t.settles(retry(a, 0), reliable.Applied)
	require.Equal(t, 2, t.one().Failures)
}

func overruleLateAck(t *T) {
	t.put(env("a"))
	a := t.one()
	t.settles(giveUp(a), reliable.Applied)
	t.decides(reliable.Requeue, "a")
	t.settles(ack(a), reliable.Late)
	t.settles(ack(a), reliable.Repeated)
	t.hasStatus(env("a"), reliable.Confirmed)
	t.none("it is confirmed")

	t.put(env("b"))
	b := t.one()
	t.settles(giveUp(b), reliable.Applied)
	t.decides(reliable.Requeue, "b")
	again := t.one()
	t.settles(ack(b), reliable.Late)
	t.settles(retry(again, 0), reliable.Stale)
	t.hasStatus(env("b"), reliable.Confirmed)
	t.none("it is confirmed")
}

func overruleLateAckWaiting(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"), keyed("c", "k"))
	a := t.one()
	s := giveUp(a)
	s.Release = true
	t.settles(s, reliable.Applied)
	b := t.soon(1)[0]
	t.decides(reliable.Requeue, "a") // it waits for b now
	t.settles(ack(a), reliable.Late)
	t.hasStatus(keyed("a", "k"), reliable.Confirmed)
	t.none("b is on its way")
	t.settles(ack(b), reliable.Applied)
	c := t.soon(1)[0]
	require.Equal(t, reliable.ID("c"), c.ID)
	t.settles(ack(c), reliable.Applied)
	t.put(keyed("d", "k"))
	require.Equal(t, []reliable.ID{"d"}, ids(t.soon(1)), "nothing of the key is left behind")
}

func overruleLateAckDiscarded(t *T) {
	t.put(env("a"))
	a := t.one()
	t.decides(reliable.Discard, "a")
	t.settles(ack(a), reliable.Overtaken)
	t.hasStatus(env("a"), reliable.Discarded)
	t.sentAgain("a")
}

func overruleLateAckCompensating(t *T) {
	a := t.failed(env("a"))[0]
	r := t.oneFailed()
	t.settles(ack(a), reliable.Overtaken)
	t.compensates(compensation(r, false), reliable.Applied)
	t.sentAgain("a")
}

// sentAgain demands that an envelope of which a late ack is known can be requeued, sent and confirmed.
func (t *T) sentAgain(id reliable.ID) {
	t.Helper()
	t.decides(reliable.Requeue, id)
	again := t.one()
	require.True(t, again.MayHaveBeenSent, "the broker had acked it")
	t.hasStatus(env(id), reliable.Pending)
	t.settles(ack(again), reliable.Applied)
	t.hasStatus(env(id), reliable.Confirmed)
	if Inspection.of(t.store) {
		require.False(t, t.record(id).LateAck, "this ack was in time")
	}
}

func overruleBusy(t *T) {
	t.failed(env("a"))
	r := t.oneFailed()
	for _, action := range []reliable.Action{reliable.Requeue, reliable.Compensate, reliable.Discard} {
		t.refuses(action, reliable.Busy, reliable.Failed, "a")
	}
	if Inspection.of(t.store) {
		require.Len(t, t.record("a").History, 1, "nothing was decided")
	}
	t.compensates(compensation(r, true), reliable.Applied)
	t.hasStatus(env("a"), reliable.Compensated)

	t.failed(env("b"))
	b := t.oneFailed()
	c := compensation(b, false)
	c.Delay = long
	t.compensates(c, reliable.Applied)
	t.decides(reliable.Discard, "b") // its next run is due later, nobody holds it
}

func overruleHandlerGone(t *T) {
	t.failed(env("a"), env("b"), env("c"))
	held := t.claimFailed(request(10, t.h.Lease), topic)
	require.Len(t, held, 3)
	t.pass(t.h.Lease + grain)
	t.decides(reliable.Requeue, "a")
	t.decides(reliable.Compensate, "b")
	t.decides(reliable.Discard, "c")
	for _, r := range held {
		t.compensates(compensation(r, true), reliable.Stale)
		t.compensates(compensation(r, false), reliable.Stale)
	}
	t.hasStatus(env("a"), reliable.Pending)
	t.hasStatus(env("b"), reliable.Compensated)
	t.hasStatus(env("c"), reliable.Discarded)
	require.Equal(t, []reliable.ID{"a"}, ids(t.claim(10)))
}

func overruleDiscardedHead(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"), keyed("c", "k"))
	a := t.one()
	t.decides(reliable.Discard, "a") // it is on its way
	b := t.soon(1)[0]
	require.Equal(t, reliable.ID("b"), b.ID)
	t.settles(ack(a), reliable.Overtaken)
	t.none("b is on its way")
	t.settles(retry(b, long), reliable.Applied)
	t.decides(reliable.Discard, "b") // it is due later
	c := t.soon(1)[0]
	require.Equal(t, reliable.ID("c"), c.ID)
	t.settles(ack(c), reliable.Applied)
	t.put(keyed("d", "k"))
	require.Equal(t, []reliable.ID{"d"}, ids(t.soon(1)))
}

func overruleFailedHead(t *T) {
	for _, action := range []reliable.Action{reliable.Compensate, reliable.Discard} {
		key := action.String()
		first, second := keyed(reliable.ID(key+" 1"), key), keyed(reliable.ID(key+" 2"), key)
		t.put(first, second)
		t.settles(giveUp(t.soon(1)[0]), reliable.Applied)
		t.none("the head has failed")
		t.decides(action, first.ID)
		require.Equal(t, []reliable.ID{second.ID}, ids(t.soon(1)), "after %v", action)
		t.decides(reliable.Discard, second.ID)
	}
	t.put(keyed("a", "released"), keyed("b", "released"), keyed("c", "released"))
	s := giveUp(t.one())
	s.Release = true
	t.settles(s, reliable.Applied)
	require.Equal(t, []reliable.ID{"b"}, ids(t.soon(1)))
	t.decides(reliable.Compensate, "a")
	t.none("the key had gone on already, and b is on its way")
}

func overruleRequeuedHead(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"))
	t.settles(giveUp(t.one()), reliable.Applied)
	t.put(keyed("c", "k"))
	t.none("the head has failed")
	t.decides(reliable.Requeue, "a")
	t.inTurn("a", "b", "c")
}

// inTurn demands that these come, one at a time, and acks each.
func (t *T) inTurn(want ...reliable.ID) {
	t.Helper()
	for _, id := range want {
		a := t.soon(1)[0]
		require.Equal(t, id, a.ID)
		t.none("one of a key is on its way at a time")
		t.settles(ack(a), reliable.Applied)
	}
	t.none("all have come")
}

func overruleRequeuedBehind(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"), keyed("c", "k"))
	s := giveUp(t.one())
	s.Release = true
	t.settles(s, reliable.Applied)
	b := t.soon(1)[0]
	require.Equal(t, reliable.ID("b"), b.ID)
	t.decides(reliable.Requeue, "a")
	t.none("b is on its way")
	t.settles(ack(b), reliable.Applied)
	var rest []reliable.ID
	for range 2 {
		a := t.soon(1)[0]
		t.none("one of a key is on its way at a time")
		t.settles(ack(a), reliable.Applied)
		rest = append(rest, a.ID)
	}
	require.ElementsMatch(t, []reliable.ID{"a", "c"}, rest)
	t.none("all have come")

	// A key that has nobody left.
	t.put(keyed("d", "alone"))
	t.decides(reliable.Discard, "d")
	t.put(keyed("e", "alone"))
	e := t.soon(1)[0]
	t.decides(reliable.Requeue, "d")
	t.none("e is on its way")
	t.settles(ack(e), reliable.Applied)
	t.inTurn("d")
	t.put(keyed("f", "alone"))
	t.decides(reliable.Discard, "f")
	t.decides(reliable.Requeue, "f")
	t.decides(reliable.Discard, "f")
	t.decides(reliable.Requeue, "f")
	t.inTurn("f")
	t.put(keyed("g", "alone"))
	t.inTurn("g")
}

func overruleRequeuedInOrder(t *T) {
	const count = 5
	var want []reliable.ID
	for i := range count {
		e := keyed(reliable.ID(number("n", i)), "k")
		t.put(e)
		s := giveUp(t.soon(1)[0])
		s.Release = true
		t.settles(s, reliable.Applied)
		want = append(want, e.ID)
		t.pass(grain)
	}
	shuffled := slices.Clone(want)
	slices.Reverse(shuffled)
	t.decides(reliable.Requeue, shuffled...)
	t.inTurn(want...)
}

func overruleDiscardedWaiting(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"), keyed("c", "k"), keyed("d", "k"))
	a := t.one()
	t.decides(reliable.Discard, "b")
	t.settles(retry(a, 0), reliable.Applied)
	a = t.soon(1)[0]
	require.Equal(t, reliable.ID("a"), a.ID, "the head stays the head")
	t.decides(reliable.Discard, "d")
	t.settles(ack(a), reliable.Applied)
	t.inTurn("c")
	t.put(keyed("e", "k"))
	t.inTurn("e")
}

// line stores a head and many behind it, the last of which is not discarded with the others.
func (t *T) line(waiting int) (others []reliable.ID, last reliable.ID) {
	t.Helper()
	envs := make([]reliable.Envelope, waiting)
	for i := range envs {
		envs[i] = keyed(reliable.ID(fmt.Sprintf("waits-%05d", i)), "k")
	}
	t.put(envs...)
	all := idsOf(envs)
	return all[:waiting-1], all[waiting-1]
}

func overruleDiscardedLine(t *T) {
	t.put(keyed("head", "k"))
	others, last := t.line(900)
	head := t.soon(1)[0]
	require.Equal(t, reliable.ID("head"), head.ID)
	t.decides(reliable.Discard, others...)
	t.settles(ack(head), reliable.Applied)
	require.Equal(t, []reliable.ID{last}, ids(t.claim(10)), "the first that is left goes at once")
}

func overruleDiscardedFresh(t *T) {
	others, last := t.line(900)
	t.decides(reliable.Discard, others...)
	claims := 0
	t.until("the first that is left goes", func() bool {
		claims++
		return slices.Equal(ids(t.claim(10)), []reliable.ID{last})
	})
	require.LessOrEqual(t, claims, 5, "claims until then")
}

func overruleReused(t *T) {
	t.put(keyed("head", "k"), keyed("again", "k"))
	head := t.one()
	t.decides(reliable.Discard, "again")
	t.pass(grain)
	n, err := able[reliable.Purger](t).Purge(t.Context(), reliable.Discarded, 0, 10)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.True(t, t.put(keyed("again", "another"))[0].New)
	t.put(keyed("behind", "another"), keyed("last", "k"))
	again := t.soon(1)[0]
	require.Equal(t, reliable.ID("again"), again.ID)
	t.settles(ack(head), reliable.Applied)
	last := t.soon(1)[0]
	require.Equal(t, reliable.ID("last"), last.ID, "the key goes on, whatever became of an id that waited in it once")
	t.none("one of each key is on its way")
	t.settles(ack(again), reliable.Applied)
	require.Equal(t, []reliable.ID{"behind"}, ids(t.soon(1)))
	t.settles(ack(last), reliable.Applied)
	t.put(keyed("more", "k"))
	require.Equal(t, []reliable.ID{"more"}, ids(t.soon(1)))
}

func overruleRaces(t *T) {
	const keys, each = 10, 8
	var envs []reliable.Envelope
	for k := range keys {
		for i := range each {
			envs = append(envs, keyed(reliable.ID(fmt.Sprintf("%d-%d", k, i)), number("key ", k)))
		}
	}
	t.put(envs...)
	for k := range keys { // one is discarded before all races, whichever way these go
		t.decides(reliable.Discard, reliable.ID(fmt.Sprintf("%d-%d", k, each-1)))
	}
	store := t.handles()
	t.together(3, func(i int) error {
		if i == 0 {
			operator, _ := reliable.Ability[reliable.Operator](store(1))
			for n := each - 3; n > 0; n -= 2 { // every other one, from the last
				for k := range keys {
					_, err := operator.Decide(t.Context(), reliable.Decision{
						Action: reliable.Discard, IDs: []reliable.ID{reliable.ID(fmt.Sprintf("%d-%d", k, n))},
						Who: "ann", Why: "test",
					})
					if err != nil {
						return fmt.Errorf("decide: %w", err)
					}
				}
			}
			return nil
		}
		for range each * 2 {
			attempts, err := store(i).Claim(t.Context(), request(keys, long))
			if err != nil {
				return fmt.Errorf("claim: %w", err)
			}
			if len(attempts) == 0 {
				continue
			}
			results, err := store(i).Settle(t.Context(), acks(attempts)...)
			if err != nil {
				return fmt.Errorf("settle: %w", err)
			}
			if len(results) != len(attempts) {
				return errors.New("not one result for each settlement")
			}
		}
		return nil
	})
	left := func() (pending int) {
		for _, e := range envs {
			if t.status(e) == reliable.Pending {
				pending++
			}
		}
		return pending
	}
	t.until("all have gone", func() bool {
		for {
			attempts := t.claim(keys)
			if len(attempts) == 0 {
				break
			}
			t.settle(acks(attempts)...)
		}
		return left() == 0
	})
}

// overruleHeadAmongReleased decides about a head that failed, and one before it that let its key go on, in one call, for
// several keys.
func overruleHeadAmongReleased(t *T) {
	const keys = 8
	var failed []reliable.ID
	var last []reliable.Envelope
	for k := range keys {
		key := number("key-", k)
		released, head := keyed(reliable.ID(key+"-0"), key), keyed(reliable.ID(key+"-1"), key)
		last = append(last, keyed(reliable.ID(key+"-2"), key))
		t.put(released)
		t.put(head)
		t.put(last[k])
		failed = append(failed, released.ID, head.ID)
	}
	for _, release := range []bool{true, false} {
		for _, a := range t.soon(keys) {
			s := giveUp(a)
			s.Release = release
			t.settles(s, reliable.Applied)
		}
	}
	t.decides(reliable.Discard, failed...)
	require.ElementsMatch(t, idsOf(last), ids(t.soon(keys)), "what comes behind them")
}
