package tagging_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

const (
	modelConfirmTimeout = 400 * time.Millisecond
	modelLease          = 1500 * time.Millisecond
	modelStoreTimeout   = 500 * time.Millisecond
	modelWindow         = 4
	modelMemory         = 8
	modelBudget         = 3
	modelFailing        = 2 * time.Second
	modelDrain          = 2 * time.Second
	// modelHealing is within what pending must reach 0 once nothing fails any more.
	modelHealing = 90 * time.Second
)

var errStore = errors.New("the store says no")

// world runs a history and remembers what it saw from the outside.
type world struct {
	h       *history
	store   *memstore.Store
	broker  *membroker.Broker
	fleet   []*process
	all     []*process
	healed  atomic.Bool
	away    atomic.Int64 // outages of the store under way
	clients sync.WaitGroup
	others  sync.WaitGroup // ends of outages, and of processes

	mu       sync.Mutex
	calls    map[memstore.Op]int
	ops      map[int]*operation
	keys     map[string]chan struct{}
	leases   map[leaseOf]time.Time // when it was asked for
	statuses map[reliable.ID]reliable.Status
	problems []string
}

type leaseOf struct {
	id    reliable.ID
	fence int64
}

// operation is one call of a client: what it asked for and what it was told.
type operation struct {
	envs     []reliable.Envelope
	business string // the row that is there if and only if the transaction committed; "" without one
	err      error
	panicked bool
}

func (w *world) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.problems) < 20 {
		w.problems = append(w.problems, fmt.Sprintf(format, args...))
	}
}

// runHistory runs in a bubble and returns what went wrong, nothing if all is well.
func runHistory(h *history) []string {
	w := &world{
		h: h, calls: make(map[memstore.Op]int), ops: make(map[int]*operation), keys: make(map[string]chan struct{}),
		leases: make(map[leaseOf]time.Time), statuses: make(map[reliable.ID]reliable.Status),
	}
	w.store = memstore.New(memstore.WithFault(w.storeFault))
	opts := []membroker.Option{
		membroker.WithConfirmTimeout(modelConfirmTimeout), membroker.WithWindow(4 * modelWindow), // the outbox has its own
		membroker.WithScript(func(a membroker.Attempt) membroker.Verdict { return h.broker(a, w.healed.Load()) }),
	}
	if h.reorder {
		r := rand.New(rand.NewPCG(h.seed, 1))
		var mu sync.Mutex
		opts = append(opts, membroker.WithReorder(func(n int) int {
			mu.Lock()
			defer mu.Unlock()
			return r.IntN(n)
		}))
	}
	w.broker = membroker.New(opts...)
	for i := range h.processes {
		w.fleet = append(w.fleet, nil)
		w.launch(i)
	}
	for _, s := range h.steps {
		time.Sleep(s.after) // virtual: this is when it happens, not how long something takes
		w.step(s)
		w.watch()
	}
	w.heal()
	w.check()
	if err := w.broker.Close(); err != nil {
		w.fail("closing the broker: %v", err)
	}
	return w.problems
}

func (w *world) storeFault(op memstore.Op, ids []reliable.ID) memstore.Fault {
	if w.healed.Load() {
		return memstore.Fault{}
	}
	if w.away.Load() > 0 {
		return memstore.Fault{Before: errStore}
	}
	w.mu.Lock()
	w.calls[op]++
	n := w.calls[op]
	w.mu.Unlock()
	return w.h.store(op, ids, n)
}

// launch starts the i-th process.
func (w *world) launch(i int) {
	opts := []tagging.Option{
		tagging.WithLease(modelLease), tagging.WithStoreTimeout(modelStoreTimeout), tagging.WithPollInterval(200 * time.Millisecond),
		tagging.WithWindow(modelWindow), tagging.WithMemory(modelMemory, 1<<20), tagging.WithDrainTimeout(modelDrain),
		tagging.WithFailureBudget(modelBudget, modelFailing), tagging.WithBackoff(50*time.Millisecond, 400*time.Millisecond),
		tagging.WithUnknownBackoff(20*time.Millisecond, 200*time.Millisecond), tagging.WithoutRetention(),
		tagging.WithFailedHandler("topic-0", func(context.Context, *reliable.Record) error {
			if !w.healed.Load() && w.h.chance("compensate", time.Now()) < 0.3 {
				return errors.New("not now")
			}
			return nil
		}),
	}
	if w.h.keysGoOn {
		opts = append(opts, tagging.WithKeysGoingOnAfterFailure())
	}
	p, err := newProcess(w.store, w.broker, opts...)
	if err != nil {
		w.fail("launching process %d: %v", i, err)
		return
	}
	p.line.seen = w.leased
	w.fleet[i] = p
	w.all = append(w.all, p)
	if !w.h.sweeping || i < w.h.processes-1 {
		p.start()
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.done = cancel, make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			_, _ = p.SweepOnce(ctx)
			select {
			case <-time.After(300 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		p.done <- nil
	}()
}

func (w *world) leased(_ string, attempts []reliable.Attempt, asked time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range attempts {
		w.leases[leaseOf{attempts[i].ID, attempts[i].Fence}] = asked
	}
}

// later undoes something after a while, on virtual time.
func (w *world) later(d time.Duration, undo func()) {
	w.others.Go(func() {
		time.Sleep(d)
		undo()
	})
}

func (w *world) step(s step) {
	p := w.fleet[s.process]
	switch s.what {
	case crash:
		p.crash()
		w.others.Go(func() { _ = <-p.done })
		w.launch(s.process)
	case restart:
		w.others.Go(func() { _ = p.stop(); _ = p.conn.Close() })
		w.launch(s.process)
	case cutConnection:
		p.conn.Cut()
	case brokerCrash:
		w.broker.Crash()
	case brokerOutage:
		w.broker.Down()
		w.later(s.length, w.broker.Up)
	case brokerBlocked:
		w.broker.Block()
		w.later(s.length, w.broker.Unblock)
	case topicFull:
		w.broker.Full(true, topicName(s.topic))
		w.later(s.length, func() { w.broker.Full(false, topicName(s.topic)) })
	case topicGone:
		w.broker.Undeclare(topicName(s.topic))
		w.later(s.length, func() { w.broker.Declare(topicName(s.topic)) })
	case storeOutage:
		w.away.Add(1)
		w.later(s.length, func() { w.away.Add(-1) })
	default:
		w.client(p, s)
	}
}

func topicName(n int) string { return fmt.Sprintf("topic-%d", n) }

// client runs the call of a client beside everything else.
func (w *world) client(p *process, s step) {
	op := &operation{}
	if s.what == sendAgain {
		w.mu.Lock()
		var known []int
		for n := range w.ops {
			known = append(known, n)
		}
		slices.Sort(known)
		if len(known) == 0 {
			w.mu.Unlock()
			return
		}
		op.envs = w.ops[known[s.count*len(known)/5]].envs
		w.mu.Unlock()
	} else {
		op.envs = envelopesOf(s)
	}
	switch s.what {
	case inTx, inTxRollback, inTxPanic, inTxNested, send, sendRollback:
		op.business = fmt.Sprintf("business-%d", s.n)
	}
	w.mu.Lock()
	w.ops[s.n] = op
	key := w.keys[op.envs[0].Topic+op.envs[0].Key]
	if key == nil {
		key = make(chan struct{}, 1) // a mutex would stop virtual time
		w.keys[op.envs[0].Topic+op.envs[0].Key] = key
	}
	w.mu.Unlock()

	w.clients.Go(func() {
		if op.envs[0].Key != "" { // the order is promised for what does not overlap
			key <- struct{}{}
			defer func() { <-key }()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		err, panicked := w.call(ctx, p, s, op)
		w.mu.Lock()
		defer w.mu.Unlock()
		op.err, op.panicked = err, panicked
	})
}

func envelopesOf(s step) []reliable.Envelope {
	prefix := "message"
	switch s.what {
	case rejected:
		prefix = "rejected"
	case poison:
		prefix = "poison"
	}
	envs := make([]reliable.Envelope, s.count)
	for i := range envs {
		envs[i] = reliable.Envelope{
			ID: reliable.ID(fmt.Sprintf("%s-%d-%d", prefix, s.n, i)), Topic: topicName(s.topic), Payload: fmt.Appendf(nil, "%d-%d", s.n, i),
		}
		if s.key > 0 {
			envs[i].Key = fmt.Sprintf("key-%d", s.key)
		}
		switch s.what {
		case delayed:
			envs[i].Delay = s.length
		case deadlined:
			envs[i].Deadline = s.length
		}
	}
	return envs
}

var errRollback = errors.New("the business says no")

func (w *world) call(ctx context.Context, p *process, s step, op *operation) (err error, panicked bool) {
	switch s.what {
	case inTx, inTxRollback, inTxPanic, inTxNested:
		defer func() { panicked = recover() != nil }()
		return tagging.InTx(ctx, p, nil, func(tx *memstore.Tx, out *tagging.Scope) error {
			return w.transact(tx, out, s, op)
		}), false
	case send, sendRollback:
		return w.send(ctx, p, s, op), false
	}
	receipt, err := p.Publish(ctx, op.envs...)
	if err != nil || s.what != publishAndWait {
		return err, false
	}
	statuses, err := receipt.Wait(ctx)
	if err != nil {
		return nil, false // stored, and not settled in time
	}
	records := w.store.Records()
	for i, id := range receipt.IDs() {
		for j := range records {
			if records[j].ID == id && !follows(statuses[i], records[j].Status) {
				w.fail("a receipt said %v of %q, which is stored as %v", statuses[i], id, records[j].Status)
			}
		}
		if statuses[i] == reliable.Pending {
			w.fail("a receipt was done while %q was pending", id)
		}
	}
	return nil, false
}

// transact is the business inside InTx. A nested scope that is rolled back holds the last message, which must not be seen.
func (w *world) transact(tx *memstore.Tx, out *tagging.Scope, s step, op *operation) error {
	if err := tx.Put(op.business, s.n); err != nil {
		return err
	}
	if s.what == inTxNested {
		err := out.Nested(func(nested *tagging.Scope) error {
			withdrawn := op.envs[0]
			withdrawn.ID += "-withdrawn"
			return errors.Join(nested.Send(withdrawn), errRollback)
		})
		if !errors.Is(err, errRollback) {
			return err
		}
	}
	if err := out.Send(op.envs...); err != nil {
		return err
	}
	switch s.what {
	case inTxRollback:
		return errRollback
	case inTxPanic:
		panic("the business is lost")
	}
	return nil
}

func (w *world) send(ctx context.Context, p *process, s step, op *operation) error {
	tx, err := p.line.Begin(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	native := tx.Native().(*memstore.Tx) //nolint:forcetypeassert // the store's own
	if err := native.Put(op.business, s.n); err != nil {
		return err
	}
	if _, err := p.Send(ctx, native, op.envs...); err != nil {
		return err
	}
	if s.what == sendRollback {
		return errRollback
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	if s.count%2 == 0 {
		_ = p.Wake(ctx)
	}
	return nil
}

// watch looks at every status, and that none goes back.
func (w *world) watch() {
	for _, record := range w.store.Records() {
		before, known := w.statuses[record.ID]
		if known && !follows(before, record.Status) {
			w.fail("%q went from %v to %v", record.ID, before, record.Status)
		}
		w.statuses[record.ID] = record.Status
	}
}

// follows reports whether a status may be seen after another one.
func follows(before, after reliable.Status) bool {
	switch before {
	case reliable.Pending:
		return true
	case reliable.Failed:
		return after == reliable.Failed || after == reliable.Confirmed || after == reliable.Compensated
	default:
		return after == before
	}
}

// heal ends all trouble, and waits until nothing is pending.
func (w *world) heal() {
	w.clients.Wait()
	w.healed.Store(true)
	w.broker.Up()
	w.broker.Unblock()
	for i := range modelTopics {
		w.broker.Declare(topicName(i))
		w.broker.Full(false, topicName(i))
	}
	w.others.Wait()
	w.broker.Up()
	w.broker.Unblock()
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		w.watch()
		pending := w.pending()
		if len(pending) == 0 {
			break
		}
		if time.Since(began) > modelHealing {
			w.fail("still pending %v after everything was well: %s", modelHealing, strings.Join(pending, ", "))
			break
		}
	}
	for i, p := range w.fleet {
		if err := p.stop(); err != nil {
			w.fail("process %d did not stop in order: %v", i, err)
		}
		_ = p.conn.Close()
	}
	time.Sleep(modelStoreTimeout) // the longest that a wake-up in the background takes
	w.watch()
}

// pending lists what is not settled: pending, or failed although it has a handler, unless it waits for an operator or
// behind what does.
func (w *world) pending() (open []string) {
	records := w.store.Records()
	stuck := make(map[string]bool)
	for _, record := range records {
		if record.Status == reliable.Failed && record.Topic != "topic-0" && !w.h.keysGoOn && record.Key != "" {
			stuck[record.Topic+record.Key] = true
		}
	}
	for _, record := range records {
		waits := record.Waiting && stuck[record.Topic+record.Key]
		if record.Status == reliable.Pending && !waits || record.Status == reliable.Failed && record.Topic == "topic-0" {
			open = append(open, fmt.Sprintf("%s (%v, key %q, waiting %v, held %v, due in %v)",
				record.ID, record.Status, record.Key, record.Waiting, record.Held, record.DueIn))
		}
	}
	return open
}
