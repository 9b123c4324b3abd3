package storetest

import (
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

var settleChecks = []Check{
	{Name: "an ack confirms", run: settleAck},
	{Name: "an ack repeated changes nothing", run: settleAckRepeated},
	{Name: "only an ack confirms", run: settleOnlyAckConfirms},
	{Name: "a refusal is charged and tried again after its delay", run: settleRetry},
	{Name: "a refusal repeated is charged once and not delayed again", run: settleRetryRepeated},
	{Name: "refusals of two attempts are charged twice", run: settleTwoCharges},
	{Name: "without Charge nothing is charged", run: settleUncharged},
	{Name: "an unknown outcome marks the envelope for good", run: settleUnknown},
	{Name: "what was given back does not count as an attempt", run: settleGiveBack},
	{Name: "giving back twice counts once", run: settleGiveBackRepeated},
	{Name: "a given back attempt may be delayed", run: settleGiveBackDelayed},
	{Name: "what failed is not claimed", run: settleFailed},
	{Name: "a confirmed envelope never goes back", run: settleConfirmedIsFinal},
	{Name: "an id that is not stored is stale", run: settleMissing},
	{Name: "nothing to settle is no error", run: settleNothing},
	{Name: "a mixed batch has each result at its index", run: settleMixedBatch},
	{Name: "the same settlement twice in one batch counts once", run: settleTwiceInBatch},
	{Name: "a batch with a bad settlement records nothing", run: settleAllOrNone},
	{Name: "two thousand are settled in one batch", run: settleManyAtOnce},
	{Name: "batches that meet in opposite orders are all recorded", run: settleOppositeOrders},
	{Name: "a canceled context records nothing", run: settleCanceled},
}

func settleAck(t *T) {
	t.put(numbered(3)...)
	attempts := t.exactly(3)
	t.settles(ack(attempts[0]), reliable.Applied)
	require.Equal(t, names(reliable.Applied, reliable.Applied), names(t.settle(acks(attempts[1:])...)...))
	for _, a := range attempts {
		t.hasStatus(a.Envelope, reliable.Confirmed)
	}
	t.none("all are confirmed")
}

func settleAckRepeated(t *T) {
	t.put(env("a"))
	a := t.one()
	t.settles(ack(a), reliable.Applied)
	t.settles(ack(a), reliable.Repeated)
	t.hasStatus(env("a"), reliable.Confirmed)
}

func settleOnlyAckConfirms(t *T) {
	t.put(env("a"))
	a := t.one()
	for _, outcome := range []reliable.Outcome{reliable.Unknown, reliable.Nacked, reliable.Returned, reliable.Rejected} {
		_, err := t.store.Settle(t.Context(), settlement(a, outcome, reliable.Confirmed))
		require.ErrorIs(t, err, reliable.ErrInvalid, "%v cannot confirm", outcome)
	}
	notSent := ack(a)
	notSent.Sent = false
	_, err := t.store.Settle(t.Context(), notSent)
	require.ErrorIs(t, err, reliable.ErrInvalid, "what was never sent cannot be confirmed")
	t.hasStatus(env("a"), reliable.Pending)
	t.settles(ack(a), reliable.Applied)
}

func settleRetry(t *T) {
	t.put(env("a"), env("b"))
	attempts := t.exactly(2)
	before := time.Now()
	results := t.settle(retry(attempts[0], 2*t.h.Lease), retry(attempts[1], long))
	require.Equal(t, names(reliable.Applied, reliable.Applied), names(results...))
	t.none("the delay has not passed")
	again := t.soon(1)[0]
	require.GreaterOrEqual(t, time.Since(before)+grain, 2*t.h.Lease, "tried again too early")
	require.Equal(t, attempts[0].ID, again.ID)
	require.Equal(t, 2, again.Attempts)
	require.Equal(t, 1, again.Failures)
	require.Greater(t, again.Fence, attempts[0].Fence)
	require.False(t, again.MayHaveBeenSent, "the broker said that it does not have it")
	require.Positive(t, again.FailingFor)
}

func settleRetryRepeated(t *T) {
	t.put(env("a"))
	a := t.one()
	s := retry(a, 2*t.h.Lease)
	t.settles(s, reliable.Applied)
	t.pass(t.h.Lease)
	t.settles(s, reliable.Repeated)
	if Inspection.of(t.store) {
		require.LessOrEqual(t, t.record("a").DueIn, t.h.Lease+grain, "the repetition delayed it again")
	}
	again := t.soon(1)[0]
	require.Equal(t, 1, again.Failures, "one refusal, charged once")
	t.settles(s, reliable.Repeated, reliable.Stale)
	t.settle(giveBack(again))
	require.Equal(t, 1, t.one().Failures, "one refusal, charged once")
}

func settleTwoCharges(t *T) {
	t.put(env("a"))
	for failures := range 4 {
		a := t.one()
		require.Equal(t, failures, a.Failures)
		require.Equal(t, failures+1, a.Attempts)
		t.settles(retry(a, 0), reliable.Applied)
	}
}

func settleUncharged(t *T) {
	t.put(env("a"))
	s := retry(t.one(), 0)
	s.Charge = false
	t.settles(s, reliable.Applied)
	a := t.one()
	require.Zero(t, a.Failures)
	require.Zero(t, a.FailingFor)
	require.Equal(t, 2, a.Attempts)
}

func settleUnknown(t *T) {
	t.put(env("a"))
	t.settles(unknown(t.one()), reliable.Applied)
	a := t.one()
	require.True(t, a.MayHaveBeenSent)
	require.Zero(t, a.Failures, "an unknown outcome is not charged by itself")
	t.settles(retry(a, 0), reliable.Applied)
	require.True(t, t.one().MayHaveBeenSent, "a later refusal does not say anything about the earlier attempt")
}

func settleGiveBack(t *T) {
	t.put(env("a"))
	first := t.one()
	t.settles(giveBack(first), reliable.Applied)
	second := t.one()
	require.Equal(t, 1, second.Attempts, "the first was no attempt")
	require.Greater(t, second.Fence, first.Fence, "the fence grows with every claim")
	require.False(t, second.MayHaveBeenSent, "it was certainly never sent")
	require.Zero(t, second.Failures)
	t.settles(retry(second, 0), reliable.Applied)
	third := t.one()
	require.Equal(t, 2, third.Attempts)
	t.settles(giveBack(third), reliable.Applied)
	require.Equal(t, 2, t.one().Attempts)
}

func settleGiveBackRepeated(t *T) {
	t.put(env("a"))
	t.settle(retry(t.one(), 0))
	a := t.one()
	require.Equal(t, 2, a.Attempts)
	t.settles(giveBack(a), reliable.Applied)
	t.settles(giveBack(a), reliable.Repeated, reliable.Stale)
	require.Equal(t, 2, t.one().Attempts, "one attempt was given back")
	t.settles(giveBack(a), reliable.Repeated, reliable.Stale)
	t.none("a stale holder cannot give back what another holds")
}

func settleGiveBackDelayed(t *T) {
	t.put(env("a"))
	s := giveBack(t.one())
	s.Delay = long
	t.settles(s, reliable.Applied)
	t.none("it was given back with a delay")
}

func settleFailed(t *T) {
	t.put(env("a"), env("b"))
	attempts := t.exactly(2)
	t.settles(giveUp(attempts[0]), reliable.Applied)
	t.settles(giveUp(attempts[0]), reliable.Repeated)
	released := giveUp(attempts[1])
	released.Release = true
	t.settles(released, reliable.Applied)
	t.hasStatus(env("a"), reliable.Failed)
	t.hasStatus(env("b"), reliable.Failed)
	t.none("both have failed")
}

func settleConfirmedIsFinal(t *T) {
	t.put(env("a"))
	old, young := t.takenOver()
	t.settles(ack(young), reliable.Applied)
	for _, a := range []reliable.Attempt{old, young} {
		for _, s := range []reliable.Settlement{retry(a, 0), giveUp(a), unknown(a), giveBack(a)} {
			t.settles(s, reliable.Stale, reliable.Repeated)
			t.hasStatus(env("a"), reliable.Confirmed)
		}
	}
	t.settles(ack(old), reliable.Stale, reliable.Repeated)
	t.hasStatus(env("a"), reliable.Confirmed)
	t.none("it is confirmed")
}

func settleMissing(t *T) {
	gone := reliable.Attempt{Envelope: env("gone"), Fence: 1}
	for _, s := range []reliable.Settlement{ack(gone), retry(gone, 0), giveUp(gone), giveBack(gone)} {
		t.settles(s, reliable.Stale)
	}
	t.absent(env("gone"))
}

func settleNothing(t *T) { require.Empty(t, t.settle()) }

func settleMixedBatch(t *T) {
	envs := numbered(7)
	t.put(envs...)
	byID := make(map[reliable.ID]reliable.Attempt)
	for _, a := range t.claim(7) {
		byID[a.ID] = a
	}
	at := func(i int) reliable.Attempt { return byID[envs[i].ID] }
	stale := retry(at(5), 0)
	stale.Fence, stale.Charge = 0, false
	results := t.settle(
		ack(at(0)),
		retry(at(1), 0),
		ack(reliable.Attempt{Envelope: env("gone"), Fence: 1}),
		giveUp(at(2)),
		giveBack(at(3)),
		stale,
		unknown(at(4)),
		ack(at(6)),
	)
	require.Equal(t, names(
		reliable.Applied, reliable.Applied, reliable.Stale, reliable.Applied, reliable.Applied, reliable.Stale,
		reliable.Applied, reliable.Applied,
	), names(results...))
	for i, want := range []reliable.Status{
		reliable.Confirmed, reliable.Pending, reliable.Failed, reliable.Pending, reliable.Pending, reliable.Pending,
		reliable.Confirmed,
	} {
		t.hasStatus(envs[i], want)
	}
	for _, a := range t.claim(10) {
		byID[a.ID] = a
	}
	require.Equal(t, 1, at(1).Failures)
	require.Equal(t, 1, at(3).Attempts, "given back")
	require.True(t, at(4).MayHaveBeenSent)
	require.EqualValues(t, 1, at(5).Fence, "still leased to its holder")
}

func settleTwiceInBatch(t *T) {
	t.put(env("a"), env("b"))
	attempts := t.exactly(2)
	s := retry(attempts[1], 0)
	results := t.settle(ack(attempts[0]), ack(attempts[0]), s, s)
	require.Equal(t,
		names(reliable.Applied, reliable.Repeated, reliable.Applied, reliable.Repeated), names(results...))
	require.Equal(t, 1, t.one().Failures)
}

func settleAllOrNone(t *T) {
	t.put(numbered(3)...)
	attempts := t.exactly(3)
	for name, change := range map[string]func(*reliable.Settlement){
		"To Compensated": func(s *reliable.Settlement) { s.To = reliable.Compensated },
		"To Discarded":   func(s *reliable.Settlement) { s.To = reliable.Discarded },
		"To nothing":     func(s *reliable.Settlement) { s.To = 77 },
		"negative Delay": func(s *reliable.Settlement) { s.Delay = -time.Second },
	} {
		bad := retry(attempts[2], 0)
		change(&bad)
		_, err := t.store.Settle(t.Context(), ack(attempts[0]), retry(attempts[1], 0), bad)
		require.ErrorIs(t, err, reliable.ErrInvalid, name)
	}
	for _, a := range attempts {
		t.hasStatus(a.Envelope, reliable.Pending)
	}
	t.none("all are still leased")
	for _, a := range attempts {
		t.settles(ack(a), reliable.Applied)
	}
}

func settleManyAtOnce(t *T) {
	const count = 2000
	t.put(numbered(count)...)
	var attempts []reliable.Attempt
	for len(attempts) < count {
		more := t.claim(count - len(attempts))
		require.NotEmpty(t, more)
		attempts = append(attempts, more...)
	}
	ss := acks(attempts)
	for i := range ss {
		if i%10 == 0 {
			ss[i] = retry(attempts[i], long)
		}
	}
	for i, r := range t.settle(ss...) {
		require.Equal(t, reliable.Applied, r, "settlement %d", i)
	}
	for i, r := range t.settle(ss...) {
		require.Equal(t, reliable.Repeated, r, "settlement %d, repeated", i)
	}
	pending := 0
	for _, s := range t.put(numbered(count)...) {
		if s.Status == reliable.Pending {
			pending++
		} else {
			require.Equal(t, reliable.Confirmed, s.Status)
		}
	}
	require.Equal(t, count/10, pending)
}

func settleOppositeOrders(t *T) {
	const callers, count = 4, 60
	var envs []reliable.Envelope
	for i, e := range numbered(count) {
		if i%3 == 0 {
			e.Key = number("key-", i)
		}
		envs = append(envs, e)
	}
	t.put(envs...)
	forwards := acks(t.soon(count))
	for i := range forwards {
		if i%2 == 0 {
			forwards[i].Outcome, forwards[i].To = reliable.Nacked, reliable.Pending
			forwards[i].Charge, forwards[i].Delay = true, long
		}
	}
	backwards := slices.Clone(forwards)
	slices.Reverse(backwards)
	var results [callers][]reliable.SettleResult
	store := t.handles()
	t.together(callers, func(i int) (err error) {
		ss := forwards
		if i >= callers/2 {
			ss = backwards
		}
		results[i], err = store(i).Settle(t.Context(), ss...)
		return err
	})
	applied := make(map[reliable.ID]int)
	for i := range results {
		require.Len(t, results[i], count)
		for j, r := range results[i] {
			ss := forwards
			if i >= callers/2 {
				ss = backwards
			}
			if r == reliable.Applied {
				applied[ss[j].ID]++
			} else {
				require.Equal(t, reliable.Repeated.String(), r.String())
			}
		}
	}
	for _, e := range envs {
		require.Equal(t, 1, applied[e.ID], "callers that were the first to settle %q", e.ID)
	}
}

func settleCanceled(t *T) {
	t.put(env("a"))
	a := t.one()
	_, err := t.store.Settle(t.canceled(), ack(a))
	require.Error(t, err)
	t.hasStatus(env("a"), reliable.Pending)
	t.settles(ack(a), reliable.Applied)
}
