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

	mu      sync.Mutex
	waiting []*groupCall
	writers int
	usual   int           // calls in the last statement, or three quarters of what was usual before if that is more
	took    time.Duration // how long the last statement took
	wanted  int           // how many waiting calls are worth waking a writer for; 0 is any

	arrived chan struct{} // capacity 1: as many calls as are wanted wait
	answers answers
}

func newGroup(s *Sender) *group { return &group{s: s, arrived: make(chan struct{}, 1)} }

func (g *group) add(call *groupCall) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, call)
	if len(g.waiting) >= g.wanted {
		select {
		case g.arrived <- struct{}{}:
		default:
		}
	}
	if g.writers < g.s.cfg.groupWriters {
		g.writers++
		go g.write()
	}
}

// withdraw takes a call back that is not in a statement yet.
func (g *group) withdraw(call *groupCall) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, waiting := range g.waiting {
		if waiting == call {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// write stores what waits until nothing does.
func (g *group) write() {
	var leases []leasing // that are not handed over yet
	for {
		prompt := g.gather()
		calls := g.next()
		if len(calls) == 0 {
			g.handOver(leases)
			return
		}
		if len(leases) > 0 {
			go g.handOver(leases)
		}
		began := time.Now()
		leases = g.store(calls)
		g.mu.Lock()
		g.usual, g.took = max(len(calls), g.usual-(g.usual+3)/4), time.Since(began)
		g.mu.Unlock()
		// A store with a single writer is idle until the callers are back: they have the processors first then, and what was
		// leased is handed over while the next statement runs; but not if they wait for what becomes of their messages.
		if !prompt || g.s.cfg.groupWriters > 1 {
			g.handOver(leases)
			leases = nil
		}
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

// maxGather is the longest that a statement waits for calls; a single caller never waits.
const maxGather = time.Millisecond

// gather waits for as many calls as statements usually hold: their callers are on their way back with their next message,
// and a statement that leaves before them is followed by one that is as dear and holds the rest. It waits for half of what
// a statement takes at most, and reports whether they came.
func (g *group) gather() (prompt bool) {
	g.mu.Lock()
	usual, patience := g.usual, min(g.took/2, maxGather)
	g.mu.Unlock()
	if usual <= 1 {
		return false
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for g.wants(usual) {
		select {
		case <-g.arrived:
		case <-timer.C:
			g.wants(0)
			return false
		}
	}
	return true
}

// wants reports whether fewer than n calls wait, and has the caller woken when n do. Of two writers that gather the one
// that leaves first has the other woken by each call again.
func (g *group) wants(n int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) >= n {
		g.wanted = 0
		return false
	}
	g.wanted = n
	return true
}

// next takes as many calls as one statement may hold. Calls with and without places in memory go into one statement only
// if all of them have, or none has.
func (g *group) next() []*groupCall {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, rows, size := 0, 0, 0
	for _, call := range g.waiting {
		if n > 0 && (rows+len(call.envs) > g.s.cfg.groupRows || size+call.size > g.s.cfg.groupBytes || call.reserved != g.waiting[0].reserved) {
			break
		}
		n, rows, size = n+1, rows+len(call.envs), size+call.size
	}
	if n == 0 {
		g.writers--
		return nil
	}
	n = g.portion(n, rows)
	calls := append([]*groupCall(nil), g.waiting[:n]...)
	rest := copy(g.waiting, g.waiting[n:])
	clear(g.waiting[rest:])
	g.waiting = g.waiting[:rest]
	return calls
}

// portion returns how many of the first n calls, which have so many rows, go into one statement: as many as the store
// says, if they come out even.
func (g *group) portion(n, rows int) int {
	if g.s.portioned == nil {
		return n
	}
	best := g.s.portioned.Portion(rows)
	for fewer := n; fewer > 0 && rows >= best; fewer-- {
		if rows == best {
			return fewer
		}
		rows -= len(g.waiting[fewer-1].envs)
	}
	return n
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
