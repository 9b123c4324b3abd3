package engine

import (
	"context"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// handBatch is how many attempts go to the publisher in one call: enough to make locking cheap, few enough that the
	// first confirms come while the rest is handed over.
	handBatch = 256
	// reachTimeout is how long one call may wait for a broker before the engine takes it for unreachable and stops leasing.
	reachTimeout = 2 * time.Second
	// unreachablePause separates tries at a broker that took nothing.
	unreachablePause = 250 * time.Millisecond
)

// Reserve waits for places for n attempts of size bytes together that the caller is about to lease, and reports whether
// it got them. It says no at once while the broker is out of reach, while Run does not run, and to a request too large to
// wait for: what is stored then is stored unleased, for whichever relay can send it.
func (e *Engine) Reserve(ctx context.Context, n, size int) bool {
	return e.window.reserve(ctx, n, size)
}

// TryReserve is Reserve without waiting.
func (e *Engine) TryReserve(n, size int) bool {
	return e.window.tryReserve(n, size)
}

// Unreserve gives places back that were not used.
func (e *Engine) Unreserve(n, size int) { e.window.unreserve(n, size) }

// Submit admits attempts that the caller leased after leasedAt, into the places it reserved.
func (e *Engine) Submit(attempts []reliable.Attempt, leasedAt time.Time, reservedN, reservedBytes int) {
	e.admit(attempts, leasedAt, false, reservedN, reservedBytes)
}

func (e *Engine) admit(attempts []reliable.Attempt, leasedAt time.Time, probe bool, reservedN, reservedBytes int) {
	again := e.window.admit(attempts, leasedAt, e.cfg.Lease, probe, reservedN, reservedBytes)
	for i := range again {
		// Leased again while its last attempt is still unanswered here: it waits for that answer.
		e.settler.add(&entry{attempt: again[i]}, giveBack(&again[i], e.cfg.Lease/2))
	}
}

// giveBack is the settlement of an attempt that was certainly not sent.
func giveBack(a *reliable.Attempt, delay time.Duration) reliable.Settlement {
	return reliable.Settlement{ID: a.ID, Fence: a.Fence, Topic: a.Topic, Key: a.Key, To: reliable.Pending, Delay: delay}
}

// lastHandOver is when an attempt may be handed over at the latest: its confirm must come before the lease ends.
func (e *Engine) lastHandOver(en *entry) time.Time { return en.expires.Add(-e.cfg.ConfirmWait) }

// dispatchLoop hands queued attempts to the publisher, in order, until ctx ends; then it gives back what is queued.
func (e *Engine) dispatchLoop(ctx context.Context) {
	var (
		taken    []*entry
		attempts []reliable.Attempt
	)
	for ctx.Err() == nil {
		taken = e.window.take(taken[:0], handBatch)
		if len(taken) == 0 {
			select {
			case <-e.window.queued:
			case <-ctx.Done():
			}
			continue
		}
		ready := e.sortOut(taken)
		attempts = attempts[:0]
		for _, en := range ready {
			attempts = append(attempts, en.attempt)
		}
		if len(ready) > 0 && !e.hand(ctx, ready, attempts) {
			pause(ctx, unreachablePause)
		}
		clear(taken)
		clear(attempts)
	}
	e.giveBackQueued(0, 0)
}

// giveBackQueued gives back what is queued, all but the first keep.
func (e *Engine) giveBackQueued(keep int, delay time.Duration) {
	for _, en := range e.window.takeUnhanded(keep) {
		e.settler.add(en, giveBack(&en.attempt, delay))
	}
}

// sortOut takes out of a batch what is not to be handed over now, and returns the rest.
func (e *Engine) sortOut(taken []*entry) []*entry {
	now, ready := time.Now(), taken[:0]
	for _, en := range taken {
		switch {
		case !now.Before(e.lastHandOver(en)):
			e.giveBackAll([]*entry{en}, 0)
		case e.cfg.Policy.expired(&en.attempt, now.Sub(en.admitted)):
			e.window.untake([]*entry{en}, false)
			e.settler.add(en, e.cfg.Policy.overdue(&en.attempt))
		case !en.probe && e.holds.held(en.attempt.Topic):
			e.park(en)
		// What a destination refuses may cost the connection: a probe of a held one does not risk that of its neighbours.
		case en.probe, e.suspect.is(en.attempt.ID):
			en.attempt.Alone = true
			e.alone.push(en) // it keeps its place among those handed over, so that the window bounds these too
		default:
			ready = append(ready, en)
		}
	}
	return ready
}

// park gives an attempt back to wait behind the hold of its topic.
func (e *Engine) park(en *entry) {
	e.window.untake([]*entry{en}, false)
	parked := giveBack(&en.attempt, e.cfg.PollInterval)
	parked.Park = true
	e.settler.add(en, parked)
}

func (e *Engine) giveBackAll(entries []*entry, delay time.Duration) {
	e.window.untake(entries, false)
	for _, en := range entries {
		e.settler.add(en, giveBack(&en.attempt, delay))
	}
}

// hand gives a batch to the publisher and reports whether it took anything. What it did not take goes back to the front
// of the queue.
func (e *Engine) hand(ctx context.Context, entries []*entry, attempts []reliable.Attempt) bool {
	if e.cfg.Hooks.Handed != nil {
		e.cfg.Hooks.Handed(attempts)
	}
	timeout := time.Now().Add(reachTimeout)
	last := e.lastHandOvers(entries)
	timed, cancel := context.WithDeadline(ctx, earlier(timeout, last))
	defer cancel()
	n, err := e.cfg.Publisher.Publish(timed, attempts)
	if n == len(attempts) {
		e.reached(true, nil)
		return true
	}
	e.window.untake(entries[n:], true)
	switch {
	case ctx.Err() != nil: // the end of the relay says nothing about the broker
	case n == 0 && timed.Err() != nil && last.Before(timeout): // nor does that of a lease
		return true
	default:
		e.reached(n > 0, err)
	}
	return n > 0
}

// lastHandOvers is when all of a batch may be handed over at the latest: a publisher that blocks must not outlast that.
func (e *Engine) lastHandOvers(entries []*entry) time.Time {
	last := e.lastHandOver(entries[0])
	for _, en := range entries[1:] {
		last = earlier(last, e.lastHandOver(en))
	}
	return last
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// reached notes whether the broker can be reached. While it cannot, nothing is leased but one probing claim at a time, so
// that a process whose connection is broken does not keep a backlog from the others, and what is queued is given back.
func (e *Engine) reached(ok bool, err error) {
	if was := e.unreachable.Swap(!ok); was != !ok {
		if ok {
			e.cfg.Logger.Info("broker is reachable again")
			e.Kick()
		} else {
			e.cfg.Logger.Warn("broker cannot be reached; messages are stored and wait", "error", err)
		}
		e.window.bar(!ok || e.sweeping.Load())
	}
	if ok {
		return
	}
	e.giveBackQueued(handBatch, unreachablePause)
}

// aloneQueue holds the attempts that are to be published one at a time.
type aloneQueue struct {
	mu      sync.Mutex
	entries []*entry
	ready   chan struct{}
}

func (q *aloneQueue) push(en *entry) {
	q.mu.Lock()
	q.entries = append(q.entries, en)
	q.mu.Unlock()
	signal(q.ready)
}

func (q *aloneQueue) pop() *entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.entries) == 0 {
		return nil
	}
	en := q.entries[0]
	q.entries = q.entries[1:]
	return en
}

// aloneLoop publishes suspects one after the other, beside the healthy traffic, each on a channel of its own.
func (e *Engine) aloneLoop(ctx context.Context) {
	for ctx.Err() == nil {
		en := e.alone.pop()
		if en == nil {
			select {
			case <-e.alone.ready:
			case <-ctx.Done():
			}
			continue
		}
		switch {
		case time.Now().After(e.lastHandOver(en)):
			e.giveBackAll([]*entry{en}, 0)
			continue
		case !en.probe && e.holds.held(en.attempt.Topic):
			e.park(en)
			continue
		}
		if !e.handAlone(ctx, en) {
			e.giveBackAll([]*entry{en}, unreachablePause)
			pause(ctx, unreachablePause)
		}
	}
}

// giveBackAlone gives back the suspects that were not handed over.
func (e *Engine) giveBackAlone() {
	for en := e.alone.pop(); en != nil; en = e.alone.pop() {
		e.giveBackAll([]*entry{en}, 0)
	}
}

func (e *Engine) handAlone(ctx context.Context, en *entry) bool {
	if e.cfg.Hooks.Handed != nil {
		e.cfg.Hooks.Handed([]reliable.Attempt{en.attempt})
	}
	ctx, cancel := context.WithDeadline(ctx, earlier(time.Now().Add(reachTimeout), e.lastHandOver(en)))
	defer cancel()
	n, err := e.cfg.Publisher.Publish(ctx, []reliable.Attempt{en.attempt})
	if n == 0 {
		e.cfg.Logger.DebugContext(ctx, "attempt alone was not taken", "id", en.attempt.ID, "topic", en.attempt.Topic, "error", err)
	}
	return n == 1
}
