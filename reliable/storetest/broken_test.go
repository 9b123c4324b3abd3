package storetest_test

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
)

// broken is a store in which something is wrong. Each function that is set stands in for the method of its name and gets
// the sound one; Enqueue's stands in for that of its transactions too.
type broken struct {
	*memstore.Store

	enqueue     func(ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope) ([]stored, error)
	claim       func(ctx context.Context, req claimRequest) ([]attempt, error)
	settle      func(ctx context.Context, ss []settlement) ([]reliable.SettleResult, error)
	lookup      func(ctx context.Context, ids []reliable.ID) ([]record, error)
	stats       func(ctx context.Context) ([]reliable.TopicStats, error)
	purge       func(ctx context.Context, status reliable.Status, olderThan time.Duration, limit int) (int, error)
	hold        func(ctx context.Context, topic string, delay time.Duration) (reliable.Hold, error)
	holds       func(ctx context.Context) ([]reliable.Hold, error)
	probe       func(ctx context.Context, topic string, req claimRequest) ([]attempt, error)
	unhold      func(ctx context.Context, topic string, limit int) (bool, error)
	failHeld    func(ctx context.Context, topic string, waited time.Duration, reason string, limit int) (int, error)
	claimFailed func(ctx context.Context, req claimRequest, topics []string) ([]record, error)
	compensate  func(ctx context.Context, c reliable.Compensation) (reliable.SettleResult, error)
	elect       func(ctx context.Context, chore, worker string, lease time.Duration) (bool, error)
	wake        func(ctx context.Context) error
	awaitWake   func(ctx context.Context) error
	check       func(ctx context.Context) error
	limits      func() reliable.Limits
	bind        func(tx any) (reliable.Enqueuer, error)
	begin       func(ctx context.Context, db any) (reliable.Tx, error)
	commit      func(ctx context.Context, tx *memstore.Tx) error
	rollback    func(ctx context.Context, tx *memstore.Tx) error
	savepoint   func(ctx context.Context, tx *memstore.Tx) (reliable.Savepoint, error)
}

type (
	envelope       = reliable.Envelope
	attempt        = reliable.Attempt
	stored         = reliable.Stored
	settlement     = reliable.Settlement
	record         = reliable.Record
	enqueueRequest = reliable.EnqueueRequest
	claimRequest   = reliable.ClaimRequest
)

func (b *broken) enqueueIn(
	ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
) ([]stored, error) {
	if b.enqueue != nil {
		return b.enqueue(ctx, in, req, envs)
	}
	return in.Enqueue(ctx, req, envs...)
}

func (b *broken) Enqueue(ctx context.Context, req enqueueRequest, envs ...envelope) ([]stored, error) {
	return b.enqueueIn(ctx, b.Store, req, envs)
}

func (b *broken) Claim(ctx context.Context, req claimRequest) ([]attempt, error) {
	if b.claim != nil {
		return b.claim(ctx, req)
	}
	return b.Store.Claim(ctx, req)
}

func (b *broken) Settle(ctx context.Context, ss ...settlement) ([]reliable.SettleResult, error) {
	if b.settle != nil {
		return b.settle(ctx, ss)
	}
	return b.Store.Settle(ctx, ss...)
}

func (b *broken) Lookup(ctx context.Context, ids ...reliable.ID) ([]record, error) {
	if b.lookup != nil {
		return b.lookup(ctx, ids)
	}
	return b.Store.Lookup(ctx, ids...)
}

func (b *broken) Stats(ctx context.Context) ([]reliable.TopicStats, error) {
	if b.stats != nil {
		return b.stats(ctx)
	}
	return b.Store.Stats(ctx)
}

func (b *broken) Purge(ctx context.Context, s reliable.Status, olderThan time.Duration, limit int) (int, error) {
	if b.purge != nil {
		return b.purge(ctx, s, olderThan, limit)
	}
	return b.Store.Purge(ctx, s, olderThan, limit)
}

func (b *broken) Hold(ctx context.Context, topic string, delay time.Duration) (reliable.Hold, error) {
	if b.hold != nil {
		return b.hold(ctx, topic, delay)
	}
	return b.Store.Hold(ctx, topic, delay)
}

func (b *broken) Holds(ctx context.Context) ([]reliable.Hold, error) {
	if b.holds != nil {
		return b.holds(ctx)
	}
	return b.Store.Holds(ctx)
}

func (b *broken) Probe(ctx context.Context, topic string, req claimRequest) ([]attempt, error) {
	if b.probe != nil {
		return b.probe(ctx, topic, req)
	}
	return b.Store.Probe(ctx, topic, req)
}

func (b *broken) Unhold(ctx context.Context, topic string, limit int) (bool, error) {
	if b.unhold != nil {
		return b.unhold(ctx, topic, limit)
	}
	return b.Store.Unhold(ctx, topic, limit)
}

func (b *broken) FailHeld(
	ctx context.Context, topic string, waited time.Duration, reason string, limit int,
) (int, error) {
	if b.failHeld != nil {
		return b.failHeld(ctx, topic, waited, reason, limit)
	}
	return b.Store.FailHeld(ctx, topic, waited, reason, limit)
}

func (b *broken) ClaimFailed(ctx context.Context, req claimRequest, topics ...string) ([]record, error) {
	if b.claimFailed != nil {
		return b.claimFailed(ctx, req, topics)
	}
	return b.Store.ClaimFailed(ctx, req, topics...)
}

func (b *broken) SettleCompensation(
	ctx context.Context, c reliable.Compensation,
) (reliable.SettleResult, error) {
	if b.compensate != nil {
		return b.compensate(ctx, c)
	}
	return b.Store.SettleCompensation(ctx, c)
}

func (b *broken) Elect(ctx context.Context, chore, worker string, lease time.Duration) (bool, error) {
	if b.elect != nil {
		return b.elect(ctx, chore, worker, lease)
	}
	return b.Store.Elect(ctx, chore, worker, lease)
}

func (b *broken) Wake(ctx context.Context) error {
	if b.wake != nil {
		return b.wake(ctx)
	}
	return b.Store.Wake(ctx)
}

func (b *broken) AwaitWake(ctx context.Context) error {
	if b.awaitWake != nil {
		return b.awaitWake(ctx)
	}
	return b.Store.AwaitWake(ctx)
}

func (b *broken) Check(ctx context.Context) error {
	if b.check != nil {
		return b.check(ctx)
	}
	return b.Store.Check(ctx)
}

func (b *broken) Limits() reliable.Limits {
	if b.limits != nil {
		return b.limits()
	}
	return b.Store.Limits()
}

func (b *broken) Bind(tx any) (reliable.Enqueuer, error) {
	if b.bind != nil {
		return b.bind(tx)
	}
	bound, err := b.Store.Bind(tx)
	if err != nil {
		return nil, err
	}
	return brokenTx{bound.(*memstore.Tx), b}, nil
}

func (b *broken) Begin(ctx context.Context, db any) (reliable.Tx, error) {
	if b.begin != nil {
		return b.begin(ctx, db)
	}
	return b.begun(b.Store.Begin(ctx, db))
}

func (b *broken) begun(tx reliable.Tx, err error) (reliable.Tx, error) {
	if err != nil {
		return nil, err
	}
	return brokenTx{tx.(*memstore.Tx), b}, nil
}

// brokenTx is a transaction of a broken store.
type brokenTx struct {
	*memstore.Tx
	b *broken
}

func (x brokenTx) Enqueue(ctx context.Context, req enqueueRequest, envs ...envelope) ([]stored, error) {
	return x.b.enqueueIn(ctx, x.Tx, req, envs)
}

func (x brokenTx) Commit(ctx context.Context) error {
	if x.b.commit != nil {
		return x.b.commit(ctx, x.Tx)
	}
	return x.Tx.Commit(ctx)
}

func (x brokenTx) Rollback(ctx context.Context) error {
	if x.b.rollback != nil {
		return x.b.rollback(ctx, x.Tx)
	}
	return x.Tx.Rollback(ctx)
}

func (x brokenTx) Savepoint(ctx context.Context) (reliable.Savepoint, error) {
	if x.b.savepoint != nil {
		return x.b.savepoint(ctx, x.Tx)
	}
	return x.Tx.Savepoint(ctx)
}

// The helpers below break one step of a method and leave the rest sound.

// beforeEnqueue changes what is stored.
func (b *broken) beforeEnqueue(change func(req *enqueueRequest, e *envelope)) {
	b.enqueue = func(
		ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
	) ([]stored, error) {
		changed := append([]envelope(nil), envs...)
		for i := range changed {
			change(&req, &changed[i])
		}
		return in.Enqueue(ctx, req, changed...)
	}
}

// afterEnqueue changes what is said of what was stored.
func (b *broken) afterEnqueue(change func(e envelope, s *stored)) {
	b.enqueue = func(
		ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
	) ([]stored, error) {
		all, err := in.Enqueue(ctx, req, envs...)
		for i := range all {
			change(envs[i], &all[i])
		}
		return all, err
	}
}

// beforeClaim changes what is asked for, probes included.
func (b *broken) beforeClaim(change func(req *claimRequest)) {
	b.claim = func(ctx context.Context, req claimRequest) ([]attempt, error) {
		change(&req)
		return b.Store.Claim(ctx, req)
	}
	b.probe = func(ctx context.Context, topic string, req claimRequest) ([]attempt, error) {
		change(&req)
		return b.Store.Probe(ctx, topic, req)
	}
	b.claimFailed = func(ctx context.Context, req claimRequest, topics []string) ([]record, error) {
		change(&req)
		return b.Store.ClaimFailed(ctx, req, topics...)
	}
}

// afterClaim changes what was claimed or probed.
func (b *broken) afterClaim(change func(all []attempt) []attempt) {
	b.claim = func(ctx context.Context, req claimRequest) ([]attempt, error) {
		all, err := b.Store.Claim(ctx, req)
		return change(all), err
	}
	b.probe = func(ctx context.Context, topic string, req claimRequest) ([]attempt, error) {
		all, err := b.Store.Probe(ctx, topic, req)
		return change(all), err
	}
}

// eachClaimed changes each attempt that was claimed or probed.
func (b *broken) eachClaimed(change func(a *attempt)) {
	b.afterClaim(func(all []attempt) []attempt {
		for i := range all {
			change(&all[i])
		}
		return all
	})
}

// beforeSettle changes each settlement.
func (b *broken) beforeSettle(change func(s *settlement)) {
	b.settle = func(ctx context.Context, ss []settlement) ([]reliable.SettleResult, error) {
		changed := append([]settlement(nil), ss...)
		for i := range changed {
			change(&changed[i])
		}
		return b.Store.Settle(ctx, changed...)
	}
}

// insteadOfSettle records nothing of the settlements for which it has a result.
func (b *broken) insteadOfSettle(result func(s settlement) (reliable.SettleResult, bool)) {
	b.settle = func(ctx context.Context, ss []settlement) ([]reliable.SettleResult, error) {
		results := make([]reliable.SettleResult, len(ss))
		var kept []settlement
		var at []int
		for i, s := range ss {
			if r, instead := result(s); instead {
				results[i] = r
				continue
			}
			kept = append(kept, s)
			at = append(at, i)
		}
		sound, err := b.Store.Settle(ctx, kept...)
		if err != nil {
			return nil, err
		}
		for i, r := range sound {
			results[at[i]] = r
		}
		return results, nil
	}
}

// afterSettle changes each result.
func (b *broken) afterSettle(change func(s settlement, r *reliable.SettleResult)) {
	b.settle = func(ctx context.Context, ss []settlement) ([]reliable.SettleResult, error) {
		results, err := b.Store.Settle(ctx, ss...)
		for i := range results {
			change(ss[i], &results[i])
		}
		return results, err
	}
}

// eachRecord changes each record that was looked up or claimed for compensation.
func (b *broken) eachRecord(change func(r *record)) {
	apply := func(all []record, err error) ([]record, error) {
		for i := range all {
			change(&all[i])
		}
		return all, err
	}
	b.lookup = func(ctx context.Context, ids []reliable.ID) ([]record, error) {
		return apply(b.Store.Lookup(ctx, ids...))
	}
	b.claimFailed = func(ctx context.Context, req claimRequest, topics []string) ([]record, error) {
		return apply(b.Store.ClaimFailed(ctx, req, topics...))
	}
}

// row is what the sound store knows of an id.
func (b *broken) row(id reliable.ID) (record, bool) {
	all, err := b.Store.Lookup(context.Background(), id)
	if err != nil || len(all) == 0 {
		return record{}, false
	}
	return all[0], true
}

// recorder takes the failures of a check, so that the test can demand them.
type recorder struct {
	testing.TB

	mu       sync.Mutex
	failures []string
	cleanups []func()
}

func (r *recorder) add(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, text)
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.failures) > 0
}

func (r *recorder) Helper()                         {}
func (r *recorder) Log(...any)                      {}
func (r *recorder) Logf(string, ...any)             {}
func (r *recorder) Error(args ...any)               { r.add(fmt.Sprint(args...)) }
func (r *recorder) Errorf(form string, args ...any) { r.add(fmt.Sprintf(form, args...)) }
func (r *recorder) Fail()                           { r.add("failed") }
func (r *recorder) FailNow()                        { r.add("failed"); runtime.Goexit() }
func (r *recorder) Fatal(args ...any)               { r.add(fmt.Sprint(args...)); runtime.Goexit() }
func (r *recorder) Fatalf(form string, args ...any) {
	r.add(fmt.Sprintf(form, args...))
	runtime.Goexit()
}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

// run runs check, which may end its goroutine, and what it left to clean up. A check that panics is a defect of the suite.
func (r *recorder) run(check func()) {
	r.TB.Helper()
	var panicked any
	var stack []byte
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if panicked = recover(); panicked != nil {
				stack = debug.Stack()
			}
		}()
		check()
	}()
	<-done
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
	if panicked != nil {
		r.TB.Errorf("the check panics: %v\n%s", panicked, stack)
	}
}
