package storetest

import (
	"errors"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// Facts are not fenced, decisions are.
var lateChecks = []Check{
	{Name: "an ack after the lease ran out wins", run: lateAckUnclaimed},
	{Name: "a late ack wins over a newer lease", run: lateAckNewerLease},
	{Name: "a late ack wins over a newer decision to try again", run: lateAckPending},
	{Name: "a late ack wins over Failed", run: lateAckFailed},
	{Name: "a late ack repeated changes nothing", run: lateAckRepeated},
	{Name: "a late refusal counts once per fence", run: lateCharge},
	{Name: "a late refusal counts on a failed envelope", run: lateChargeFailed},
	{Name: "a late refusal of a confirmed envelope is stale", run: lateChargeConfirmed},
	{Name: "a stale decision to try again is ignored", run: lateRetry},
	{Name: "a stale decision to fail is ignored", run: lateFail},
	{Name: "a stale give-back is ignored", run: lateGiveBack},
	{Name: "a decision after the lease ran out applies while nobody else claimed", run: lateDecisionUnclaimed},
	{Name: "an ack racing with a newer decision always wins", run: lateAckRaces},
}

func lateAckUnclaimed(t *T) {
	t.put(env("a"))
	a := t.oneFor(t.h.Lease)
	t.pass(t.h.Lease + grain)
	t.settles(ack(a), reliable.Applied, reliable.Late)
	t.hasStatus(env("a"), reliable.Confirmed)
	t.none("it is confirmed")
}

func lateAckNewerLease(t *T) {
	t.put(env("a"))
	old, young := t.takenOver()
	t.settles(ack(old), reliable.Late)
	t.hasStatus(env("a"), reliable.Confirmed)
	t.settles(retry(young, 0), reliable.Stale)
	t.hasStatus(env("a"), reliable.Confirmed)
	t.settles(ack(young), reliable.Stale, reliable.Repeated)
	t.none("it is confirmed")
}

func lateAckPending(t *T) {
	t.put(env("a"))
	old, young := t.takenOver()
	t.settles(retry(young, 0), reliable.Applied)
	t.settles(ack(old), reliable.Late)
	t.hasStatus(env("a"), reliable.Confirmed)
	t.none("it is confirmed")
}

func lateAckFailed(t *T) {
	t.put(env("a"), env("b"))
	attempts := t.claimFor(2, t.h.Lease)
	t.pass(t.h.Lease)
	for _, a := range t.soon(2) {
		t.settles(giveUp(a), reliable.Applied)
	}
	for _, a := range attempts {
		t.hasStatus(a.Envelope, reliable.Failed)
		t.settles(ack(a), reliable.Late)
		t.hasStatus(a.Envelope, reliable.Confirmed)
	}
	t.none("both are confirmed")
}

func lateAckRepeated(t *T) {
	t.put(env("a"))
	old, young := t.takenOver()
	t.settles(ack(old), reliable.Late)
	t.settles(ack(old), reliable.Repeated, reliable.Stale)
	t.settles(giveUp(young), reliable.Stale)
	t.hasStatus(env("a"), reliable.Confirmed)
}

func lateCharge(t *T) {
	t.put(env("a"))
	old, young := t.takenOver()
	s := retry(old, 0)
	t.settles(s, reliable.Late)
	t.settles(s, reliable.Repeated)
	t.none("the new holder still has it")
	t.settles(retry(young, 0), reliable.Applied)
	t.settles(s, reliable.Repeated)
	t.pass(grain)
	a := t.one()
	require.Equal(t, 2, a.Failures, "one refusal of each fence")
	require.Positive(t, a.FailingFor)
	if !Inspection.of(t.store) {
		return
	}
	require.Len(t, t.record("a").History, 2, "one entry for each fence")
}

func lateChargeFailed(t *T) {
	t.put(env("a"))
	old, young := t.takenOver()
	t.settles(giveUp(young), reliable.Applied)
	t.settles(retry(old, 0), reliable.Late)
	t.settles(retry(old, 0), reliable.Repeated)
	t.hasStatus(env("a"), reliable.Failed)
	if !Inspection.of(t.store) {
		return
	}
	require.Equal(t, 2, t.record("a").Failures)
}

func lateChargeConfirmed(t *T) {
	t.put(env("a"))
	old, young := t.takenOver()
	t.settles(ack(young), reliable.Applied)
	t.settles(retry(old, 0), reliable.Stale)
	t.hasStatus(env("a"), reliable.Confirmed)
	if !Inspection.of(t.store) {
		return
	}
	require.Empty(t, t.record("a").History, "stale means that nothing was recorded")
}

func lateRetry(t *T) {
	t.put(env("a"))
	old, young := t.takenOver()
	s := retry(old, 0)
	s.Charge = false
	t.settles(s, reliable.Stale)
	t.none("the new holder still has it")
	t.settles(giveBack(young), reliable.Applied)
	a := t.one()
	require.Zero(t, a.Failures)
	if !Inspection.of(t.store) {
		return
	}
	require.Empty(t, t.record("a").History, "stale means that nothing was recorded")
}

func lateFail(t *T) {
	t.put(env("a"))
	old, young := t.takenOver()
	s := giveUp(old)
	s.Charge = false
	t.settles(s, reliable.Stale)
	t.hasStatus(env("a"), reliable.Pending)
	t.settles(giveUp(old), reliable.Late) // the refusal in it is a fact, to fail is a decision
	t.hasStatus(env("a"), reliable.Pending)
	t.settles(ack(young), reliable.Applied)
}

func lateGiveBack(t *T) {
	t.put(env("a"))
	old, young := t.takenOver()
	t.settles(giveBack(old), reliable.Stale)
	t.none("the new holder still has it")
	t.settles(retry(young, 0), reliable.Applied)
	require.Equal(t, 3, t.one().Attempts)
}

func lateDecisionUnclaimed(t *T) {
	t.put(env("a"))
	a := t.oneFor(t.h.Lease)
	t.pass(t.h.Lease + grain)
	t.settles(retry(a, long), reliable.Applied)
	t.none("the newest holder said that it is to wait")
}

func lateAckRaces(t *T) {
	const count = 60
	envs := numbered(count)
	t.put(envs...)
	old := t.claimFor(count, t.h.Lease)
	require.Len(t, old, count)
	t.pass(t.h.Lease)
	var decisions []reliable.Settlement
	for i, a := range t.soon(count) {
		if i%2 == 0 {
			decisions = append(decisions, retry(a, 0))
		} else {
			decisions = append(decisions, giveUp(a))
		}
	}
	facts := acks(old)
	store := t.handles()
	t.together(6, func(i int) error {
		ss := facts
		if i%2 == 1 {
			ss = decisions
		}
		part := len(ss) / 3
		ss = ss[i/2*part : (i/2+1)*part]
		results, err := store(i).Settle(t.Context(), ss...)
		if err == nil && len(results) != len(ss) {
			err = errors.New("not one result for each settlement")
		}
		return err
	})
	for _, e := range envs {
		t.hasStatus(e, reliable.Confirmed)
	}
	t.none("all are confirmed")
}
