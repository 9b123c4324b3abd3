package storetest

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

var claimChecks = []Check{
	{Name: "an empty store has nothing to claim", run: func(t *T) { t.none("the store is empty") }},
	{Name: "the oldest due come first", run: claimOldestFirst},
	{Name: "no more than Max come", run: claimMax},
	{Name: "no more than MaxBytes come, the first whatever its size", run: claimMaxBytes},
	{Name: "a lease keeps others away", run: claimLeaseKeepsAway},
	{Name: "a lease that ran out passes on, and says so", run: claimLeaseRunsOut},
	{Name: "what was tried again is due after what waited longer", run: claimDueOrderAfterRetry},
	{Name: "eight claimers never hold one envelope twice", run: claimNeverTwoHolders},
	{Name: "expired leases have one new holder each", run: claimExpiredOneHolder},
	{Name: "ages are told", run: claimAges},
	{Name: "a second handle sees what the first stored", run: claimSecondHandle},
	{Name: "a canceled context claims nothing", run: claimCanceled},
	{Name: "bad requests are refused", run: claimBadRequests},
}

func claimOldestFirst(t *T) {
	soon := env("a soon")
	soon.Delay = 2 * t.h.Lease
	t.put(soon)
	envs := []reliable.Envelope{env("z"), env("y"), env("x"), env("w")}
	t.putApart(envs...)
	t.pass(2 * t.h.Lease)
	t.put(env("b last"))
	t.pass(grain)
	require.Equal(t, []reliable.ID{"z", "y"}, ids(t.claim(2)), "the oldest of more than were asked for")
	require.Equal(t, []reliable.ID{"x", "w", "a soon", "b last"}, ids(t.claim(10)))
}

func claimMax(t *T) {
	t.put(numbered(10)...)
	require.Len(t, t.claim(3), 3)
	require.Len(t, t.claim(1), 1)
	require.Len(t, t.claim(100), 6)
}

func claimMaxBytes(t *T) {
	var envs []reliable.Envelope
	for _, e := range numbered(6) {
		e.Payload = make([]byte, 1000)
		envs = append(envs, e)
	}
	t.putApart(envs...)
	bounded := func(limit int) []reliable.Attempt {
		attempts, err := t.store.Claim(t.Context(), reliable.ClaimRequest{Max: 10, MaxBytes: limit, Lease: long})
		require.NoError(t, err)
		return attempts
	}
	size := envs[0].Size()
	require.Equal(t, idsOf(envs[:1]), ids(bounded(10)), "the first one whatever its size")
	require.Equal(t, idsOf(envs[1:4]), ids(bounded(3*size)), "three fill it to the byte")
	require.Equal(t, idsOf(envs[4:5]), ids(bounded(2*size-1)), "a second one would not fit")
	require.Equal(t, idsOf(envs[5:]), ids(bounded(0)), "0 means no limit")
}

func claimLeaseKeepsAway(t *T) {
	t.put(numbered(5)...)
	require.Len(t, t.claim(3), 3)
	others, err := t.other().Claim(t.Context(), request(10, long))
	require.NoError(t, err)
	require.Len(t, others, 2)
	t.none("all are leased")
}

func claimLeaseRunsOut(t *T) {
	t.put(env("a"))
	before := time.Now()
	old := t.oneFor(t.h.Lease)
	young := t.soon(1)[0]
	require.GreaterOrEqual(t, time.Since(before)+grain, t.h.Lease, "the lease had not run out")
	require.Greater(t, young.Fence, old.Fence, "the fence grows with every claim")
	require.Equal(t, 2, young.Attempts)
	require.True(t, young.MayHaveBeenSent, "the old holder may have sent it")
	require.Zero(t, young.Failures, "an expired lease is no failure of the envelope")
	same(t, env("a"), young.Envelope)
}

func claimDueOrderAfterRetry(t *T) {
	t.putApart(env("a"), env("b"))
	a := t.exactly(1)[0]
	require.Equal(t, reliable.ID("a"), a.ID)
	t.pass(grain)
	t.settle(retry(a, 0))
	t.pass(grain)
	require.Equal(t, []reliable.ID{"b", "a"}, ids(t.claim(10)))
}

func claimNeverTwoHolders(t *T) {
	const claimers, count = 8, 2000
	t.put(numbered(count)...)
	store := t.handles()
	var lock sync.Mutex
	holders := make(map[reliable.ID]int)
	twice := false
	deadline := time.Now().Add(patience)
	t.together(claimers, func(i int) error {
		for {
			attempts, err := store(i).Claim(t.Context(), request(70, long))
			if err != nil {
				return err
			}
			lock.Lock()
			for _, a := range attempts {
				holders[a.ID]++
				twice = twice || holders[a.ID] > 1
			}
			over := twice || len(holders) == count
			lock.Unlock()
			if over || time.Now().After(deadline) {
				return nil
			}
			if len(attempts) == 0 { // the rest is being claimed by others just now
				t.pass(grain / 4)
			}
		}
	})
	for id, n := range holders {
		require.Equal(t, 1, n, "holders of %q", id)
	}
	require.Len(t, holders, count, "all were claimed")
	t.none("all are leased")
}

func claimExpiredOneHolder(t *T) {
	const count = 40
	t.put(numbered(count)...)
	require.Len(t, t.claimFor(count, t.h.Lease), count)
	store := t.handles()
	var lock sync.Mutex
	holders := make(map[reliable.ID]int)
	deadline := time.Now().Add(patience)
	t.together(4, func(i int) error {
		for {
			attempts, err := store(i).Claim(t.Context(), request(7, long))
			if err != nil {
				return err
			}
			lock.Lock()
			for _, a := range attempts {
				holders[a.ID]++
			}
			all := len(holders) == count
			lock.Unlock()
			if all || time.Now().After(deadline) {
				return nil
			}
			t.pass(t.h.Lease / 20)
		}
	})
	require.Len(t, holders, count, "all were claimed")
	for id, n := range holders {
		require.Equal(t, 1, n, "holders of %q", id)
	}
}

func claimAges(t *T) {
	t.put(env("a"))
	t.pass(t.h.Lease)
	a := t.one()
	require.GreaterOrEqual(t, a.Age+grain, t.h.Lease, "age of an envelope")
	require.Less(t, a.Age, t.h.Lease+patience)
	require.Zero(t, a.FailingFor, "it has not failed yet")

	t.settle(retry(a, 0))
	t.pass(t.h.Lease)
	a = t.one()
	require.GreaterOrEqual(t, a.FailingFor+grain, t.h.Lease, "time since the first charge")
	require.Less(t, a.FailingFor, t.h.Lease+patience)
	require.GreaterOrEqual(t, a.Age+grain, 2*t.h.Lease)

	since := a.FailingFor
	t.settle(retry(a, 0))
	t.pass(grain)
	require.Greater(t, t.one().FailingFor, since, "it counts from the first charge, not the last")
}

func claimSecondHandle(t *T) {
	t.put(env("a"))
	other := t.other()
	attempts, err := other.Claim(t.Context(), request(10, long))
	require.NoError(t, err)
	require.Equal(t, []reliable.ID{"a"}, ids(attempts))
	results, err := other.Settle(t.Context(), ack(attempts[0]))
	require.NoError(t, err)
	require.Equal(t, []reliable.SettleResult{reliable.Applied}, results)
	t.hasStatus(env("a"), reliable.Confirmed)
}

func claimCanceled(t *T) {
	t.put(env("a"))
	_, err := t.store.Claim(t.canceled(), request(10, long))
	require.Error(t, err)
	require.EqualValues(t, 1, t.one().Fence, "nothing was leased")
}

func claimBadRequests(t *T) {
	t.put(env("a"))
	good := request(1, long)
	for name, change := range map[string]func(*reliable.ClaimRequest){
		"Max 0":           func(r *reliable.ClaimRequest) { r.Max = 0 },
		"negative Max":    func(r *reliable.ClaimRequest) { r.Max = -1 },
		"negative bytes":  func(r *reliable.ClaimRequest) { r.MaxBytes = -1 },
		"no lease":        func(r *reliable.ClaimRequest) { r.Lease = 0 },
		"negative lease":  func(r *reliable.ClaimRequest) { r.Lease = -time.Second },
		"too long a name": func(r *reliable.ClaimRequest) { r.Worker = strings.Repeat("w", 129) },
	} {
		bad := good
		change(&bad)
		attempts, err := t.store.Claim(t.Context(), bad)
		require.ErrorIs(t, err, reliable.ErrInvalid, name)
		require.Empty(t, attempts, name)
	}
	require.True(t, slices.Equal([]reliable.ID{"a"}, ids(t.claim(1))))
}
