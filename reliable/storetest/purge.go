package storetest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

var purgeChecks = []Check{
	{Name: "what is not final is never deleted", Needs: needs(Purging), run: purgeNotFinal},
	{Name: "only what is old enough is deleted", Needs: needs(Purging), run: purgeOld},
	{Name: "no more than the limit is deleted", Needs: needs(Purging), run: purgeBounded},
	{Name: "only the status asked for is deleted", Needs: needs(Purging, Compensation), run: purgeStatus},
	{Name: "all that belongs to a deleted envelope is gone", Needs: needs(Purging), run: purgeAll},
	{Name: "a keyed envelope that was deleted holds nobody up", Needs: needs(Purging), run: purgeKeyed},
	{Name: "bad requests are refused", Needs: needs(Purging), run: purgeBadRequests},
}

func (t *T) purge(status reliable.Status, olderThan time.Duration, limit int) int {
	t.Helper()
	n, err := able[reliable.Purger](t).Purge(t.Context(), status, olderThan, limit)
	require.NoError(t, err, "purge")
	return n
}

func purgeNotFinal(t *T) {
	t.put(env("pending"), env("failed"), env("untouched"))
	for _, a := range t.soon(3) {
		switch a.ID {
		case "failed":
			t.settle(giveUp(a))
		case "untouched":
			t.settle(giveBack(a))
		}
	}
	t.pass(grain)
	for _, status := range []reliable.Status{reliable.Pending, reliable.Failed, 77} {
		n, err := able[reliable.Purger](t).Purge(t.Context(), status, 0, 10)
		require.ErrorIs(t, err, reliable.ErrInvalid, "of %v", status)
		require.Zero(t, n)
	}
	for _, status := range []reliable.Status{reliable.Confirmed, reliable.Compensated, reliable.Discarded} {
		require.Zero(t, t.purge(status, 0, 10))
	}
	t.hasStatus(env("pending"), reliable.Pending)
	t.hasStatus(env("failed"), reliable.Failed)
	t.hasStatus(env("untouched"), reliable.Pending)
}

func purgeOld(t *T) {
	t.put(env("old"), env("young"))
	attempts := t.exactly(2)
	old, young := attempts[0], attempts[1]
	t.settle(ack(old))
	age := 4 * t.h.Lease
	t.pass(age + grain)
	t.settle(ack(young))
	require.Zero(t, t.purge(reliable.Confirmed, long, 10), "none is that old")
	require.Equal(t, 1, t.purge(reliable.Confirmed, age, 10), "age counts from when it was settled")
	t.hasStatus(young.Envelope, reliable.Confirmed)
	t.absent(old.Envelope)
}

func purgeBounded(t *T) {
	t.put(numbered(5)...)
	t.settle(acks(t.exactly(5))...)
	t.pass(grain)
	var deleted []int
	for range 4 {
		deleted = append(deleted, t.purge(reliable.Confirmed, 0, 2))
	}
	require.Equal(t, []int{2, 2, 1, 0}, deleted)
	t.absent(numbered(5)...)
}

func purgeStatus(t *T) {
	t.failed(env("compensated"))
	t.compensates(compensation(t.oneFailed(), true), reliable.Applied)
	t.put(env("confirmed"))
	t.settle(ack(t.one()))
	t.pass(grain)
	require.Equal(t, 1, t.purge(reliable.Compensated, 0, 10))
	t.hasStatus(env("confirmed"), reliable.Confirmed)
	t.absent(env("compensated"))
	require.Equal(t, 1, t.purge(reliable.Confirmed, 0, 10))
	t.absent(env("confirmed"))
}

func purgeAll(t *T) {
	t.put(env("a"))
	t.settle(retry(t.one(), 0))
	t.settle(ack(t.one()))
	t.pass(grain)
	require.Equal(t, 1, t.purge(reliable.Confirmed, 0, 10))
	other := env("a")
	other.Payload = []byte("another, under the same id")
	t.absent(other)
	a := t.one()
	same(t, other, a.Envelope)
	require.EqualValues(t, 1, a.Fence)
	require.Zero(t, a.Failures)
	t.settles(retry(a, 0), reliable.Applied)
	require.Equal(t, 1, t.one().Failures, "the charge of this envelope's first attempt, not of its namesake's")
	if !Inspection.of(t.store) {
		return
	}
	require.Len(t, t.record("a").History, 1)
}

func purgeKeyed(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"))
	t.settle(ack(t.one()))
	t.pass(grain)
	require.Equal(t, 1, t.purge(reliable.Confirmed, 0, 10))
	b := t.soon(1)[0]
	t.settle(ack(b))
	t.pass(grain)
	require.Equal(t, 1, t.purge(reliable.Confirmed, 0, 10))
	t.put(keyed("c", "k"))
	require.Equal(t, reliable.ID("c"), t.soon(1)[0].ID)
}

func purgeBadRequests(t *T) {
	for _, limit := range []int{0, -1} {
		_, err := able[reliable.Purger](t).Purge(t.Context(), reliable.Confirmed, 0, limit)
		require.ErrorIs(t, err, reliable.ErrInvalid, "limit %d", limit)
	}
	_, err := able[reliable.Purger](t).Purge(t.Context(), reliable.Confirmed, -time.Second, 1)
	require.ErrorIs(t, err, reliable.ErrInvalid, "negative age")
}
