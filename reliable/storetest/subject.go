package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// long is a lease or delay that does not end while a check runs.
	long = 10 * time.Minute
	// patience is how long what must happen may take.
	patience = 90 * time.Second
	// hanging is how long a check may take in all.
	hanging = 5 * time.Minute
	// grain is the rounding that a store's clock may have, at most.
	grain = 20 * time.Millisecond
	topic = "orders"
)

// T is one check at work: its testing.TB and the store under test, with the vocabulary that checks are written in. Its
// methods fail the check where the store returns an error.
type T struct {
	testing.TB
	h     Harness
	store reliable.Store
	ctx   context.Context //nolint:containedctx // stands in for that of testing.TB
}

// Context ends, in time to say where, when a check hangs.
func (t *T) Context() context.Context { return t.ctx }

// within is t with a time of its own until it hangs.
func (t *T) within(d time.Duration) *T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.TB.Context(), d)
	t.Cleanup(cancel)
	other := *t
	other.ctx = ctx
	return &other
}

// pass lets time pass on the store's clock.
func (t *T) pass(d time.Duration) { t.h.Sleep(d) }

// other returns a second handle on the store.
func (t *T) other() reliable.Store { return t.h.Reopen(t.TB, t.store) }

// env is an envelope whose payload follows from its ID.
func env(id reliable.ID) reliable.Envelope {
	return reliable.Envelope{ID: id, Topic: topic, Payload: []byte("payload of " + id)}
}

// keyed is such an envelope with a key.
func keyed(id reliable.ID, key string) reliable.Envelope {
	e := env(id)
	e.Key = key
	return e
}

// numbered are n envelopes whose IDs sort by number.
func numbered(n int) []reliable.Envelope {
	envs := make([]reliable.Envelope, n)
	for i := range envs {
		envs[i] = env(reliable.ID(fmt.Sprintf("msg-%05d", i)))
	}
	return envs
}

// put stores envelopes, unleased.
func (t *T) put(envs ...reliable.Envelope) []reliable.Stored {
	t.Helper()
	stored, err := t.store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envs...)
	require.NoError(t, err, "enqueue")
	require.Len(t, stored, len(envs), "one result for each envelope")
	return stored
}

// putApart stores envelopes one by one, with time between them, so that each is due after the one before.
func (t *T) putApart(envs ...reliable.Envelope) {
	t.Helper()
	for i := range envs {
		if i > 0 {
			t.pass(grain)
		}
		t.put(envs[i])
	}
}

func request(limit int, lease time.Duration) reliable.ClaimRequest {
	return reliable.ClaimRequest{Worker: "storetest", Max: limit, Lease: lease}
}

// claim claims for a long lease.
func (t *T) claim(limit int) []reliable.Attempt {
	t.Helper()
	return t.claimFor(limit, long)
}

func (t *T) claimFor(limit int, lease time.Duration) []reliable.Attempt {
	t.Helper()
	attempts, err := t.store.Claim(t.Context(), request(limit, lease))
	require.NoError(t, err, "claim")
	require.LessOrEqual(t, len(attempts), limit, "no more than asked for")
	return attempts
}

// exactly claims n envelopes for a long lease.
func (t *T) exactly(n int) []reliable.Attempt {
	t.Helper()
	attempts := t.claim(n)
	require.Len(t, attempts, n, "envelopes claimed")
	return attempts
}

// one claims the one envelope there is to claim, for a long lease.
func (t *T) one() reliable.Attempt {
	t.Helper()
	return t.oneFor(long)
}

func (t *T) oneFor(lease time.Duration) reliable.Attempt {
	t.Helper()
	attempts := t.claimFor(10, lease)
	require.Len(t, attempts, 1, "envelopes claimed")
	return attempts[0]
}

// none demands that nothing can be claimed.
func (t *T) none(why string) {
	t.Helper()
	require.Empty(t, ids(t.claim(10)), "%s", why)
}

// soon claims until limit envelopes were claimed in all, within the bound of patience.
func (t *T) soon(limit int) []reliable.Attempt {
	t.Helper()
	var all []reliable.Attempt
	t.until("envelopes can be claimed", func() bool {
		all = append(all, t.claim(limit-len(all))...)
		return len(all) == limit
	})
	return all
}

// until waits for what must happen.
func (t *T) until(what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !happened(); t.pass(t.h.Lease / 20) {
		if time.Now().After(deadline) {
			require.FailNow(t, "it never happens that "+what)
		}
	}
}

// takenOver claims the one envelope there is for a lease that runs out, and then again: the attempts of the old holder
// and of the new one.
func (t *T) takenOver() (old, young reliable.Attempt) {
	t.Helper()
	old = t.oneFor(t.h.Lease)
	t.pass(t.h.Lease)
	return old, t.soon(1)[0]
}

func (t *T) settle(ss ...reliable.Settlement) []reliable.SettleResult {
	t.Helper()
	results, err := t.store.Settle(t.Context(), ss...)
	require.NoError(t, err, "settle")
	require.Len(t, results, len(ss), "one result for each settlement")
	return results
}

// settles demands a result of one settlement.
func (t *T) settles(s reliable.Settlement, want ...reliable.SettleResult) {
	t.Helper()
	require.Contains(t, names(want...), t.settle(s)[0].String(), "result of the settlement")
}

func names(results ...reliable.SettleResult) []string {
	texts := make([]string, len(results))
	for i, r := range results {
		texts[i] = r.String()
	}
	return texts
}

func settlement(a reliable.Attempt, outcome reliable.Outcome, to reliable.Status) reliable.Settlement {
	return reliable.Settlement{
		ID: a.ID, Fence: a.Fence, Topic: a.Topic, Key: a.Key, Sent: true, Outcome: outcome, To: to,
	}
}

func ack(a reliable.Attempt) reliable.Settlement {
	return settlement(a, reliable.Acked, reliable.Confirmed)
}

// retry is a charged refusal that is to be tried again after delay.
func retry(a reliable.Attempt, delay time.Duration) reliable.Settlement {
	s := settlement(a, reliable.Nacked, reliable.Pending)
	s.Charge, s.Delay, s.Reason = true, delay, "queue full"
	return s
}

func unknown(a reliable.Attempt) reliable.Settlement {
	s := settlement(a, reliable.Unknown, reliable.Pending)
	s.Reason = "connection lost"
	return s
}

func giveBack(a reliable.Attempt) reliable.Settlement {
	s := settlement(a, reliable.Unknown, reliable.Pending)
	s.Sent = false
	return s
}

func giveUp(a reliable.Attempt) reliable.Settlement {
	s := settlement(a, reliable.Rejected, reliable.Failed)
	s.Charge, s.Reason = true, "too large"
	return s
}

func park(s reliable.Settlement) reliable.Settlement {
	s.Park = true
	return s
}

func acks(attempts []reliable.Attempt) []reliable.Settlement {
	ss := make([]reliable.Settlement, len(attempts))
	for i := range attempts {
		ss[i] = ack(attempts[i])
	}
	return ss
}

// status asks by the only way that every store has: it stores the same envelope again.
func (t *T) status(e reliable.Envelope) reliable.Status {
	t.Helper()
	stored := t.put(e)
	require.False(t, stored[0].New, "envelope %q must be there already", e.ID)
	return stored[0].Status
}

func (t *T) hasStatus(e reliable.Envelope, want reliable.Status) {
	t.Helper()
	require.Equal(t, want.String(), t.status(e).String(), "status of %q", e.ID)
}

// absent demands that none of the envelopes is stored, and stores them.
func (t *T) absent(envs ...reliable.Envelope) {
	t.Helper()
	for _, s := range t.put(envs...) {
		require.True(t, s.New, "envelope %q must not have been stored", s.ID)
	}
}

func ids(attempts []reliable.Attempt) []reliable.ID {
	list := make([]reliable.ID, len(attempts))
	for i := range attempts {
		list[i] = attempts[i].ID
	}
	return list
}

func idsOf(envs []reliable.Envelope) []reliable.ID {
	list := make([]reliable.ID, len(envs))
	for i := range envs {
		list[i] = envs[i].ID
	}
	return list
}

// able returns an ability of the store.
func able[A any](t *T) A {
	t.Helper()
	ability, ok := reliable.Ability[A](t.store)
	require.True(t, ok, "the store lacks the ability that the check needs")
	return ability
}

// record looks one envelope up.
func (t *T) record(id reliable.ID) reliable.Record {
	t.Helper()
	records, err := able[reliable.Inspector](t).Lookup(t.Context(), id)
	require.NoError(t, err, "look up")
	require.Len(t, records, 1, "records of %q", id)
	return records[0]
}

// together runs f n times at once and demands that none fails.
func (t *T) together(n int, f func(i int) error) {
	t.Helper()
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			if err := f(i); err != nil {
				errs[i] = fmt.Errorf("goroutine %d: %w", i, err)
			}
		})
	}
	group.Wait()
	require.NoError(t, errors.Join(errs...))
}

// canceled is a context that has ended.
func (t *T) canceled() context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// handles returns the store and a second handle on it, in turn.
func (t *T) handles() func(i int) reliable.Store {
	both := [2]reliable.Store{t.store, t.other()}
	return func(i int) reliable.Store { return both[i%2] }
}

func number(prefix string, i int) string { return prefix + strconv.Itoa(i) }
