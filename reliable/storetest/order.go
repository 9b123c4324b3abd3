package storetest

import (
	"fmt"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// Envelopes of one topic and key come one at a time, in the order in which they were stored.
var orderChecks = []Check{
	{Name: "one of a key is on its way at a time, in the order of storing", run: orderOneAtATime},
	{Name: "a batch is ordered as it was given", run: orderWithinBatch},
	{Name: "an expired lease passes the head on, not its follower", run: orderHeadLeaseRunsOut},
	{Name: "a head that is tried again blocks its followers", run: orderRetriedHeadBlocks},
	{Name: "a head that was given back blocks its followers", run: orderGivenBackHeadBlocks},
	{Name: "a failed head blocks its followers", run: orderFailedHeadBlocks},
	{Name: "a head that failed with Release lets its followers go", run: orderFailedHeadReleases},
	{Name: "a late ack of a failed head lets its followers go", run: orderLateAckReleases},
	{Name: "a late ack of a released head lets no second follower go", run: orderLateAckReleasesOnce},
	{Name: "an ack repeated lets no second follower go", run: orderRepeatedAckReleasesOnce},
	{Name: "a delayed head blocks its followers", run: orderDelayedHead},
	{Name: "a delayed follower waits for its own time too", run: orderDelayedFollower},
	{Name: "a follower stored after its head settled comes", run: orderFollowerAfterwards},
	{Name: "followers stored while their head settles all come", run: orderFollowersMeanwhile},
	{Name: "a duplicate of a follower is no second follower", run: orderDuplicates},
	{Name: "the same key on another topic does not wait", run: orderOtherTopic},
	{Name: "keys are compared byte by byte", run: orderBytewiseKeys},
	{Name: "other keys and unkeyed envelopes do not wait", run: orderOthersDoNotWait},
	{Name: "a batch of acks lets one follower of each key go", run: orderBatchOfAcks},
	{Name: "concurrent claimers never hold two of a key, nor out of order", run: orderConcurrentClaimers},
	{
		Name:  "overlapping transactions never give two heads",
		Needs: needs(Transactions), run: orderOverlappingTransactions,
	},
	{
		Name:  "a follower whose transaction commits after its head settled comes",
		Needs: needs(Transactions), run: orderCommitAfterSettle,
	},
	{
		Name:  "a follower whose transaction rolled back leaves no gap",
		Needs: needs(Transactions), run: orderRolledBackFollower,
	},
}

func orderOneAtATime(t *T) {
	for i := range 4 {
		t.put(keyed(reliable.ID(number("m", i)), "k"))
	}
	for i := range 4 {
		head := t.one()
		require.Equal(t, reliable.ID(number("m", i)), head.ID)
		t.none("the head is on its way")
		t.settles(ack(head), reliable.Applied)
	}
	t.none("all are confirmed")
}

func orderWithinBatch(t *T) {
	order := []reliable.ID{"z", "a", "m", "b", "y"}
	var envs []reliable.Envelope
	for _, id := range order {
		envs = append(envs, keyed(id, "k"))
	}
	t.put(envs...)
	for _, id := range order {
		head := t.one()
		require.Equal(t, id, head.ID)
		t.settle(ack(head))
	}
}

func orderHeadLeaseRunsOut(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"))
	old, young := t.takenOver()
	require.Equal(t, reliable.ID("a"), old.ID)
	require.Equal(t, reliable.ID("a"), young.ID)
	t.none("the head is on its way")
	t.settles(ack(old), reliable.Late)
	b := t.one()
	require.Equal(t, reliable.ID("b"), b.ID)
	t.settles(ack(young), reliable.Stale, reliable.Repeated)
	t.settles(ack(b), reliable.Applied)
}

func orderRetriedHeadBlocks(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"))
	a := t.one()
	t.settle(retry(a, long))
	t.none("the head waits for its next attempt, and its follower for it")
}

func orderGivenBackHeadBlocks(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"))
	for range 3 {
		a := t.one()
		require.Equal(t, reliable.ID("a"), a.ID)
		t.settle(giveBack(a))
	}
	require.Equal(t, reliable.ID("a"), t.one().ID)
}

func orderFailedHeadBlocks(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"))
	t.settles(giveUp(t.one()), reliable.Applied)
	t.put(keyed("c", "k"))
	t.none("the key waits for the head's compensation")
	t.hasStatus(keyed("b", "k"), reliable.Pending)
}

func orderFailedHeadReleases(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"), keyed("c", "k"))
	s := giveUp(t.one())
	s.Release = true
	t.settles(s, reliable.Applied)
	b := t.soon(1)[0]
	require.Equal(t, reliable.ID("b"), b.ID)
	t.settles(s, reliable.Repeated)
	t.none("b is on its way")
	t.settles(ack(b), reliable.Applied)
	require.Equal(t, reliable.ID("c"), t.one().ID)
}

func orderLateAckReleases(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"))
	old, young := t.takenOver()
	t.settles(giveUp(young), reliable.Applied)
	t.none("the head has failed")
	t.settles(ack(old), reliable.Late)
	require.Equal(t, reliable.ID("b"), t.soon(1)[0].ID)
}

func orderLateAckReleasesOnce(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"), keyed("c", "k"))
	old, young := t.takenOver()
	s := giveUp(young)
	s.Release = true
	t.settles(s, reliable.Applied)
	b := t.soon(1)[0]
	t.settles(ack(old), reliable.Late)
	t.hasStatus(keyed("a", "k"), reliable.Confirmed)
	t.none("b is on its way")
	t.settle(ack(b))
	require.Equal(t, reliable.ID("c"), t.one().ID)
}

func orderRepeatedAckReleasesOnce(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"), keyed("c", "k"))
	a := t.one()
	t.settles(ack(a), reliable.Applied)
	t.settles(ack(a), reliable.Repeated)
	require.Equal(t, reliable.ID("b"), t.one().ID)
	t.settles(ack(a), reliable.Repeated)
	t.none("b is on its way")
}

func orderDelayedHead(t *T) {
	head := keyed("a", "k")
	head.Delay = 2 * t.h.Lease
	before := time.Now()
	t.put(head)
	t.put(keyed("b", "k"))
	t.none("the head is not due, and its follower waits for it")
	a := t.soon(1)[0]
	require.Equal(t, reliable.ID("a"), a.ID)
	require.GreaterOrEqual(t, time.Since(before)+grain, head.Delay, "claimed before it was due")
	t.settle(ack(a))
	require.Equal(t, reliable.ID("b"), t.one().ID)
}

func orderDelayedFollower(t *T) {
	follower := keyed("b", "k")
	follower.Delay = 2 * t.h.Lease
	t.put(keyed("a", "k"))
	before := time.Now()
	t.put(follower)
	t.settle(ack(t.one()))
	t.none("the follower's delay has not passed")
	require.Equal(t, reliable.ID("b"), t.soon(1)[0].ID)
	require.GreaterOrEqual(t, time.Since(before)+grain, follower.Delay, "claimed before it was due")

	much := keyed("c", "other")
	much.Delay = long
	t.put(keyed("x", "other"), much, keyed("d", "other"))
	t.settle(ack(t.one()))
	t.none("the new head is delayed, and its follower waits for it")
}

func orderFollowerAfterwards(t *T) {
	for i := range 3 {
		id := reliable.ID(number("m", i))
		t.put(keyed(id, "k"))
		head := t.soon(1)[0]
		require.Equal(t, id, head.ID)
		t.settles(ack(head), reliable.Applied)
	}
}

func orderFollowersMeanwhile(t *T) {
	const rounds = 15
	store := t.handles()
	t.put(keyed("m0", "k"))
	for i := range rounds {
		head := t.soon(1)[0]
		require.Equal(t, reliable.ID(number("m", i)), head.ID)
		t.together(2, func(j int) error {
			if j == 0 {
				_, err := store(0).Settle(t.Context(), ack(head))
				return err
			}
			next := keyed(reliable.ID(number("m", i+1)), "k")
			_, err := store(1).Enqueue(t.Context(), reliable.EnqueueRequest{}, next)
			return err
		})
	}
	require.Equal(t, reliable.ID(number("m", rounds)), t.soon(1)[0].ID)
}

func orderDuplicates(t *T) {
	t.put(keyed("a", "k"), keyed("b", "k"))
	t.put(keyed("a", "k"), keyed("b", "k"))
	a := t.one()
	require.Equal(t, reliable.ID("a"), a.ID)
	t.put(keyed("a", "k"))
	t.none("the head is on its way")
	t.settle(ack(a))
	t.put(keyed("a", "k"))
	b := t.soon(1)[0]
	require.Equal(t, reliable.ID("b"), b.ID)
	t.settle(ack(b))
	t.none("both are confirmed")
	t.put(keyed("c", "k"))
	require.Equal(t, reliable.ID("c"), t.soon(1)[0].ID)
}

func orderOtherTopic(t *T) {
	other := keyed("b", "k")
	other.Topic = "Orders"
	third := keyed("c", "sk")
	third.Topic = "order"
	t.put(keyed("a", "k"), other, third, keyed("waits", "k"))
	require.ElementsMatch(t, []reliable.ID{"a", "b", "c"}, ids(t.claim(10)))
}

func orderBytewiseKeys(t *T) {
	keys := []string{"k", "K", "k ", " k", "ḱ", "k\u0301", "0", "00"}
	var envs []reliable.Envelope
	for i, key := range keys {
		envs = append(envs, keyed(reliable.ID(number("m", i)), key))
	}
	t.put(envs...)
	require.ElementsMatch(t, idsOf(envs), ids(t.claim(20)))
}

func orderOthersDoNotWait(t *T) {
	t.put(keyed("a1", "a"), keyed("a2", "a"), keyed("b1", "b"), env("u1"), env("u2"))
	attempts := t.exactly(4)
	require.ElementsMatch(t, []reliable.ID{"a1", "b1", "u1", "u2"}, ids(attempts))
	for _, a := range attempts {
		if a.ID == "a1" {
			t.settle(giveUp(a))
		} else {
			t.settle(ack(a))
		}
	}
	t.put(keyed("b2", "b"), env("u3"))
	require.ElementsMatch(t, []reliable.ID{"b2", "u3"}, ids(t.soon(2)))
}

func orderBatchOfAcks(t *T) {
	const keys, depth = 20, 3
	var envs []reliable.Envelope
	for i := range depth {
		for k := range keys {
			envs = append(envs, keyed(reliable.ID(fmt.Sprintf("%02d-%02d", i, k)), number("key-", k)))
		}
	}
	t.put(append(envs, numbered(10)...)...)
	for i := range depth {
		want := keys
		if i == 0 {
			want += 10
		}
		attempts := t.soon(want)
		for _, a := range attempts {
			if a.Key != "" {
				require.Equal(t, fmt.Sprintf("%02d", i), string(a.ID[:2]), "in the order of storing")
			}
		}
		t.none("each key has one on its way")
		for _, r := range t.settle(acks(attempts)...) {
			require.Equal(t, reliable.Applied, r)
		}
	}
	t.none("all are confirmed")
}

func orderConcurrentClaimers(t *T) {
	const keys, depth, claimers = 6, 12, 4
	var envs []reliable.Envelope
	for i := range depth {
		for k := range keys {
			envs = append(envs, keyed(reliable.ID(fmt.Sprintf("%02d-%d", i, k)), number("key-", k)))
		}
	}
	t.put(envs...)

	var lock sync.Mutex
	next := make(map[string]int)
	onItsWay := make(map[string]bool)
	var wrong []string
	done := 0
	store := t.handles()
	deadline := time.Now().Add(patience)
	t.together(claimers, func(i int) error {
		for {
			attempts, err := store(i).Claim(t.Context(), request(2, long))
			if err != nil {
				return err
			}
			lock.Lock()
			for _, a := range attempts {
				if want := fmt.Sprintf("%02d-%s", next[a.Key], a.Key[len("key-"):]); string(a.ID) != want {
					wrong = append(wrong, fmt.Sprintf("%s instead of %s", a.ID, want))
				}
				if onItsWay[a.Key] {
					wrong = append(wrong, fmt.Sprintf("%s while another of its key is on its way", a.ID))
				}
				onItsWay[a.Key] = true
				next[a.Key]++
			}
			lock.Unlock()
			if len(attempts) > 0 {
				t.pass(grain / 4) // for the others to claim what they must not
				lock.Lock()
				for _, a := range attempts {
					onItsWay[a.Key] = false
				}
				done += len(attempts)
				lock.Unlock()
				if _, err := store(i).Settle(t.Context(), acks(attempts)...); err != nil {
					return err
				}
			}
			lock.Lock()
			over := done == keys*depth
			lock.Unlock()
			if over || time.Now().After(deadline) {
				return nil
			}
			if len(attempts) == 0 {
				t.pass(grain / 4)
			}
		}
	})
	require.Empty(t, wrong)
	require.Equal(t, keys*depth, done, "all were delivered")
}

func orderOverlappingTransactions(t *T) {
	if t.h.OneWriter {
		t.Log("not tested: the store has one writer")
		return
	}
	first, second := t.begin(), t.begin()
	first.put(t, keyed("a", "k"))
	second.put(t, keyed("b", "k"))
	second.commit(t)
	b := t.soon(1)[0]
	require.Equal(t, reliable.ID("b"), b.ID)
	first.commit(t)
	t.put(keyed("c", "k"))
	t.none("b is on its way")
	t.settles(ack(b), reliable.Applied)
	for _, id := range []reliable.ID{"a", "c"} {
		head := t.soon(1)[0]
		require.Equal(t, id, head.ID)
		t.none("the head is on its way")
		t.settles(ack(head), reliable.Applied)
	}
}

func orderCommitAfterSettle(t *T) {
	if t.h.OneWriter {
		t.Log("not tested: the store has one writer")
		return
	}
	t.put(keyed("a", "k"))
	a := t.soon(1)[0]
	tx := t.begin()
	tx.put(t, keyed("b", "k"))
	t.settles(ack(a), reliable.Applied)
	t.none("b is not committed")
	tx.commit(t)
	require.Equal(t, reliable.ID("b"), t.soon(1)[0].ID)
}

func orderRolledBackFollower(t *T) {
	t.put(keyed("a", "k"))
	tx := t.begin()
	tx.put(t, keyed("b", "k"))
	tx.rollback(t)
	t.put(keyed("c", "k"))
	for _, id := range []reliable.ID{"a", "c"} {
		head := t.soon(1)[0]
		require.Equal(t, id, head.ID)
		t.settle(ack(head))
	}
	tx = t.begin()
	tx.put(t, keyed("d", "k"))
	tx.rollback(t)
	t.put(keyed("e", "k"))
	require.Equal(t, reliable.ID("e"), t.soon(1)[0].ID)
}
