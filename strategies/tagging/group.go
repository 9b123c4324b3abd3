package tagging

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Publish stores messages, without a business transaction, and returns when they are stored; the relay of this process,
// if it runs, sends them at once from memory. The calls of concurrent callers share statements. While this process holds
// as much as its memory limits allow, Publish waits, not past ctx.
//
// An error means that nothing was stored, with one exception: an error that is [reliable.ErrUnknown] (the answer was cut
// off, or ctx ended while the statement was under way). Repeating with the same IDs is safe: an ID that is stored already
// with the same topic and payload is stored once.
func (s *Sender) Publish(ctx context.Context, envs ...reliable.Envelope) (*Receipt, error) {
	if err := ctx.Err(); err != nil {
		return nil, reliable.NotStored("tagging", err)
	}
	call := &groupCall{}
	prepared, err := s.prepareInto(ctx, call.one[:0], envs)
	if err != nil {
		return nil, err
	}
	s.receipts.open(&call.receipt, prepared)
	if len(prepared) == 0 {
		return &call.receipt, nil
	}
	call.envs, call.size, call.done = prepared, totalSize(prepared), s.group.answers.get()
	if s.relay != nil {
		call.reserved = s.relay.Reserve(ctx, len(prepared), call.size)
		if err := ctx.Err(); err != nil {
			s.abandon(call)
			return nil, reliable.NotStored("tagging: waiting for room", err)
		}
	}
	s.group.add(call)
	select {
	case <-call.done:
	case <-ctx.Done():
		if s.group.withdraw(call) {
			s.abandon(call)
			return nil, reliable.NotStored("tagging", ctx.Err())
		}
		// Under way: what comes of it is not known in time.
		return nil, fmt.Errorf("tagging: store: %w: %w; repeat with the same message IDs", reliable.ErrUnknown, ctx.Err())
	}
	s.group.answers.put(call.done)
	if call.err != nil {
		return nil, call.err
	}
	return &call.receipt, nil
}

// abandon gives back the places of a call that is not stored.
func (s *Sender) abandon(call *groupCall) {
	if call.reserved {
		s.relay.Unreserve(len(call.envs), call.size)
	}
}

// groupCall is one call of Publish on its way into a shared statement. It is made together with the receipt, which lives
// on: what it holds of the messages is let go when they are stored.
type groupCall struct {
	receipt  Receipt
	envs     []reliable.Envelope
	one      [1]reliable.Envelope // what envs is, of a single message
	size     int
	reserved bool
	err      error
	done     chan struct{} // capacity 1: is told once
}

// answers are the channels of calls that are over, for those that follow.
type answers struct{ pool sync.Pool }

func (a *answers) get() chan struct{} {
	if done, ok := a.pool.Get().(chan struct{}); ok {
		return done
	}
	return make(chan struct{}, 1)
}

func (a *answers) put(done chan struct{}) { a.pool.Put(done) }

// group makes statements of what concurrent callers bring: while some are under way, the rest gathers for the next. Its
// goroutines live only as long as there is something to store.
type group struct {
	s *Sender

	mu         sync.Mutex
	waiting    []*groupCall
	rows, size int // of those that wait
	writers    int
	storing    int           // statements under way
	usual      int           // calls in the last statement, or three quarters of what was usual before if that is more
	took       time.Duration // by the last statement, or three quarters of what was usual before if that is more
	kept       []leasing     // to be handed over with the next statement

	changed chan struct{} // capacity 1: enough calls may wait, or a statement has ended
	answers answers
}

func newGroup(s *Sender) *group { return &group{s: s, changed: make(chan struct{}, 1)} }

func (g *group) add(call *groupCall) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, call)
	g.rows, g.size = g.rows+len(call.envs), g.size+call.size
	if g.enough() {
		g.announce()
	}
	if g.writers < g.s.cfg.groupWriters {
		g.writers++
		go g.write()
	}
}

// announce has a writer that gathers look again.
func (g *group) announce() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// withdraw takes a call back that is not in a statement yet.
func (g *group) withdraw(call *groupCall) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, waiting := range g.waiting {
		if waiting == call {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			g.rows, g.size = g.rows-len(call.envs), g.size-call.size
			return true
		}
	}
	return false
}

// write stores what waits until nothing does.
func (g *group) write() {
	for {
		prompt := g.gather()
		calls, leases := g.next()
		if len(calls) == 0 {
			g.handOver(leases)
			return
		}
		if len(leases) > 0 {
			go g.handOver(leases)
		}
		began := time.Now()
		leases = g.store(calls)
		g.handOver(g.ended(len(calls), time.Since(began), leases, prompt))
	}
}

// leasing is what one statement leased to this process.
type leasing struct {
	attempts   []reliable.Attempt
	at         time.Time
	rows, size int // the places in memory that were reserved
}

func (g *group) handOver(leases []leasing) {
	for i := range leases {
		g.s.relay.Submit(leases[i].attempts, leases[i].at, leases[i].rows, leases[i].size)
	}
}

// store writes calls in one statement and returns what it leased. If the statement is refused because of what one of them
// holds, each is stored on its own.
func (g *group) store(calls []*groupCall) (leases []leasing) {
	one, wake, err := g.enqueue(calls)
	if len(calls) > 1 && err != nil && (errors.Is(err, reliable.ErrConflict) || errors.Is(err, reliable.ErrInvalid)) {
		for _, call := range calls {
			leases = append(leases, g.store([]*groupCall{call})...)
		}
		return leases
	}
	if err != nil {
		g.finish(calls, err)
	}
	if wake {
		g.s.alarm.ring()
	}
	if one.rows > 0 {
		leases = append(leases, one)
	}
	return leases
}

// enqueue writes calls in one statement, ends them unless it fails, and returns what was leased and whether the rest needs
// a wake-up.
func (g *group) enqueue(calls []*groupCall) (one leasing, wake bool, err error) {
	rows, size := 0, 0
	for _, call := range calls {
		rows, size = rows+len(call.envs), size+call.size
	}
	envs := make([]reliable.Envelope, 0, rows)
	for _, call := range calls {
		envs = append(envs, call.envs...)
	}
	req := reliable.EnqueueRequest{Worker: g.s.cfg.worker}
	if calls[0].reserved {
		req.Lease = g.s.cfg.lease
	}
	// No single caller's context: the statement belongs to all of them.
	ctx, cancel := context.WithTimeout(context.Background(), g.s.cfg.storeTimeout)
	defer cancel()
	began := time.Now()
	stored, err := g.s.store.Enqueue(ctx, req, envs...)
	if err != nil {
		return leasing{}, false, notStored(err)
	}
	row := 0
	for _, call := range calls {
		for i := range call.envs {
			call.receipt.stored(i, &stored[row])
			row++
		}
	}
	attempts, all := leased(stored)
	if calls[0].reserved {
		one = leasing{attempts, began, rows, size}
	}
	for _, call := range calls {
		call.reserved = false
	}
	g.finish(calls, nil) // first: they come back with their next messages while these are handed over
	return one, !all, nil
}

func (g *group) finish(calls []*groupCall, err error) {
	for _, call := range calls {
		if call.reserved {
			g.s.relay.Unreserve(len(call.envs), call.size)
			call.reserved = false
		}
		call.err, call.envs, call.one = err, nil, [1]reliable.Envelope{}
		call.done <- struct{}{}
	}
}

// alarm wakes relays in the background, so that a wake-up that hangs holds nobody up whose messages are stored. Requests
// that come while one is under way share the next.
type alarm struct {
	s *Sender

	mu      sync.Mutex
	ringing bool
	again   bool
}

func (a *alarm) ring() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.again = true
	if !a.ringing {
		a.ringing = true
		go a.work()
	}
}

// asked reports whether to wake once more, and ends the work if not.
func (a *alarm) asked() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked := a.again
	a.again, a.ringing = false, asked
	return asked
}

func (a *alarm) work() {
	for a.asked() {
		ctx, cancel := context.WithTimeout(context.Background(), a.s.cfg.storeTimeout)
		if err := a.s.Wake(ctx); err != nil {
			a.s.cfg.logger.DebugContext(ctx, "wake-up failed; messages wait for the poll interval", "error", err)
		}
		cancel()
	}
}
