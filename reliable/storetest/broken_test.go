package storetest_test

import (
	"context"
	"sync"
	"time"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
)

// broken is a store in which something is wrong. Each function that is set stands in for the method of its name and
// gets the sound one; Enqueue's stands in for that of its transactions too.
type broken struct {
	*memstore.Store
	lock sync.Mutex // what stands in for a method may remember something

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
	failHeld    func(ctx context.Context, topic string, req failHeldRequest) (int, error)
	claimFailed func(ctx context.Context, req claimRequest, topics []string) ([]record, error)
	compensate  func(ctx context.Context, c reliable.Compensation) (reliable.SettleResult, error)
	inside      func(ctx context.Context, tx *memstore.Tx, c reliable.Compensation) (reliable.SettleResult, error)
	list        func(ctx context.Context, req listRequest) (reliable.Page, error)
	decide      func(ctx context.Context, d ruling) ([]verdict, error)
	elect       func(ctx context.Context, chore, worker string, lease time.Duration) (bool, error)
	pace        func(ctx context.Context, name string, pace reliable.Pace, n int) (int, time.Duration, error)
	wake        func(ctx context.Context) error
	awaitWake   func(ctx context.Context) error
	check       func(ctx context.Context) error
	limits      func() reliable.Limits
	bind        func(tx any) (reliable.Enqueuer, error)
	begin       func(ctx context.Context, db any) (reliable.Tx, error)
	commit      func(ctx context.Context, tx *memstore.Tx) error
	rollback    func(ctx context.Context, tx *memstore.Tx) error
	savepoint   func(ctx context.Context, tx *memstore.Tx) (reliable.Savepoint, error)
	reopen      func() reliable.Store

	receive        func(ctx context.Context, tx any, group string, id reliable.ID) (bool, error)
	storeProcessed func(ctx context.Context, confirms []reliable.Processed) error
	processedBy    func(ctx context.Context, ids []reliable.ID) (map[reliable.ID][]string, error)
	purgeOldest    func(ctx context.Context, olderThan time.Duration, limit int) (int, error)
	markerWitness  func(horizon time.Duration) (reliable.Witness, error)

	withhold  func(ctx context.Context, patience time.Duration, ws []withheld) error
	undecided func(ctx context.Context, source string, req claimRequest) ([]withheld, error)
	resolve   func(ctx context.Context, req enqueueRequest, rs []resolution) ([]reliable.Resolved, error)
}

type (
	envelope        = reliable.Envelope
	attempt         = reliable.Attempt
	stored          = reliable.Stored
	settlement      = reliable.Settlement
	record          = reliable.Record
	enqueueRequest  = reliable.EnqueueRequest
	claimRequest    = reliable.ClaimRequest
	failHeldRequest = reliable.FailHeldRequest
	listRequest     = reliable.ListRequest
	ruling          = reliable.Decision
	verdict         = reliable.DecisionResult
)

func (b *broken) enqueueIn(
	ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
) ([]stored, error) {
	if b.enqueue != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.enqueue(ctx, in, req, envs)
	}
	return in.Enqueue(ctx, req, envs...)
}

func (b *broken) Enqueue(ctx context.Context, req enqueueRequest, envs ...envelope) ([]stored, error) {
	return b.enqueueIn(ctx, b.Store, req, envs)
}

func (b *broken) Claim(ctx context.Context, req claimRequest) ([]attempt, error) {
	if b.claim != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.claim(ctx, req)
	}
	return b.Store.Claim(ctx, req)
}

func (b *broken) Settle(ctx context.Context, ss ...settlement) ([]reliable.SettleResult, error) {
	if b.settle != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.settle(ctx, ss)
	}
	return b.Store.Settle(ctx, ss...)
}

func (b *broken) Lookup(ctx context.Context, ids ...reliable.ID) ([]record, error) {
	if b.lookup != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.lookup(ctx, ids)
	}
	return b.Store.Lookup(ctx, ids...)
}

func (b *broken) Stats(ctx context.Context) ([]reliable.TopicStats, error) {
	if b.stats != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.stats(ctx)
	}
	return b.Store.Stats(ctx)
}

func (b *broken) Purge(ctx context.Context, s reliable.Status, olderThan time.Duration, limit int) (int, error) {
	if b.purge != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.purge(ctx, s, olderThan, limit)
	}
	return b.Store.Purge(ctx, s, olderThan, limit)
}

func (b *broken) Hold(ctx context.Context, topic string, delay time.Duration) (reliable.Hold, error) {
	if b.hold != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.hold(ctx, topic, delay)
	}
	return b.Store.Hold(ctx, topic, delay)
}

func (b *broken) Holds(ctx context.Context) ([]reliable.Hold, error) {
	if b.holds != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.holds(ctx)
	}
	return b.Store.Holds(ctx)
}

func (b *broken) Probe(ctx context.Context, topic string, req claimRequest) ([]attempt, error) {
	if b.probe != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.probe(ctx, topic, req)
	}
	return b.Store.Probe(ctx, topic, req)
}

func (b *broken) Unhold(ctx context.Context, topic string, limit int) (bool, error) {
	if b.unhold != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.unhold(ctx, topic, limit)
	}
	return b.Store.Unhold(ctx, topic, limit)
}

func (b *broken) FailHeld(ctx context.Context, topic string, req failHeldRequest) (int, error) {
	if b.failHeld != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.failHeld(ctx, topic, req)
	}
	return b.Store.FailHeld(ctx, topic, req)
}

func (b *broken) ClaimFailed(ctx context.Context, req claimRequest, topics ...string) ([]record, error) {
	if b.claimFailed != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.claimFailed(ctx, req, topics)
	}
	return b.Store.ClaimFailed(ctx, req, topics...)
}

func (b *broken) SettleCompensation(
	ctx context.Context, c reliable.Compensation,
) (reliable.SettleResult, error) {
	if b.compensate != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.compensate(ctx, c)
	}
	return b.Store.SettleCompensation(ctx, c)
}

func (b *broken) List(ctx context.Context, req listRequest) (reliable.Page, error) {
	if b.list != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.list(ctx, req)
	}
	return b.Store.List(ctx, req)
}

func (b *broken) Decide(ctx context.Context, d ruling) ([]verdict, error) {
	if b.decide != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.decide(ctx, d)
	}
	return b.Store.Decide(ctx, d)
}

func (b *broken) Elect(ctx context.Context, chore, worker string, lease time.Duration) (bool, error) {
	if b.elect != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.elect(ctx, chore, worker, lease)
	}
	return b.Store.Elect(ctx, chore, worker, lease)
}

func (b *broken) Pace(ctx context.Context, name string, pace reliable.Pace, n int) (int, time.Duration, error) {
	if b.pace != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.pace(ctx, name, pace, n)
	}
	return b.Store.Pace(ctx, name, pace, n)
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

func (x brokenTx) SettleCompensation(
	ctx context.Context, c reliable.Compensation,
) (reliable.SettleResult, error) {
	if x.b.inside != nil {
		x.b.lock.Lock()
		defer x.b.lock.Unlock()
		return x.b.inside(ctx, x.Tx, c)
	}
	return x.Tx.SettleCompensation(ctx, c)
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
