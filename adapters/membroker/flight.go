package membroker

import (
	"container/heap"
	"context"
	"fmt"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// flight is an attempt that was handed over and is not answered yet.
type flight struct {
	conn       *Conn
	attempt    reliable.Attempt
	verdict    Verdict
	fate       fate
	handedOver time.Time
	record     int
	answered   bool

	prev, next *flight // in the connection's list

	due   time.Time
	event event
	seq   uint64 // orders what is due at the same time
	index int    // in the schedule, 1 being its head; 0 while not in it
}

// event is what happens to a flight when it is due.
type event uint8

const (
	noAnswer event = iota // the confirm timeout: the connection is abandoned
	answer                // its fate
)

// process is what the broker does once it has read a flight: it decides, stores, and plans the answer.
func (b *Broker) process(now time.Time, f *flight) {
	f.fate = b.fateOf(&f.attempt, &f.verdict)
	if !f.verdict.StoreLate {
		b.store(now, &f.attempt, f.fate.copies, f.record)
	}
	due, deadline := now.Add(f.verdict.Delay), f.handedOver.Add(f.conn.confirmTimeout)
	if due.After(deadline) {
		b.schedule.put(f, deadline, noAnswer)
	} else {
		b.schedule.put(f, due, answer)
	}
	if !due.After(now) {
		b.advance()
	}
	f.conn.readable.open() // whoever waits has a new time to look again
	if t := b.topics[f.attempt.Topic]; t != nil && f.verdict.StoreLate {
		t.arrived.open()
	}
}

// advance lets everything happen that is due, in order, and returns the time. Every entry into the broker begins with it,
// and whoever waits for the broker wakes for the next event, so that no goroutine is needed to make time pass.
func (b *Broker) advance() time.Time {
	now := time.Now()
	for len(b.schedule.flights) > 0 && !b.schedule.flights[0].due.After(now) {
		f := b.schedule.flights[0]
		b.deliver(f.due)
		switch {
		case f.event == noAnswer:
			f.conn.lose(f.due, f.with(), fmt.Errorf("%w within %v", errNoAnswer, f.conn.confirmTimeout))
		case f.fate.cut:
			f.storeLate()
			f.conn.lose(f.due, f.with(), lostBecause(f.fate.err))
		default:
			f.storeLate()
			f.conn.resolve(f.due, f, f.fate.outcome, f.fate.err)
		}
	}
	b.deliver(now)
	return now
}

// nextEvent is when something happens next; the zero time means never.
func (b *Broker) nextEvent() time.Time {
	next := b.schedule.next()
	if len(b.shelf) > 0 && (next.IsZero() || b.shelf[0].due.Before(next)) {
		return b.shelf[0].due
	}
	return next
}

func (f *flight) storeLate() {
	if f.verdict.StoreLate {
		f.conn.b.store(f.due, &f.attempt, f.fate.copies, f.record)
	}
}

func lostBecause(cause error) error {
	if cause == nil {
		return errLost
	}
	return fmt.Errorf("%w: %w", errLost, cause)
}

// with says which flights share the connection that f is on.
func (f *flight) with() func(*flight) bool {
	if f.attempt.Alone {
		return func(other *flight) bool { return other == f }
	}
	return func(other *flight) bool { return !other.attempt.Alone }
}

func everything(*flight) bool { return true }

// lose makes flights Unknown that are on a connection that died or was abandoned.
func (c *Conn) lose(at time.Time, which func(*flight) bool, err error) {
	for f := c.flights.first; f != nil; {
		next := f.next
		if which(f) {
			c.resolve(at, f, reliable.Unknown, err)
		}
		f = next
	}
}

// resolve answers a flight.
func (c *Conn) resolve(at time.Time, f *flight, outcome reliable.Outcome, err error) {
	f.answered = true
	c.flights.remove(f)
	c.b.schedule.remove(f)
	c.confirm(at, f.attempt.ID, f.attempt.Fence, outcome, err, f.record)
}

func (c *Conn) confirm(at time.Time, id reliable.ID, fence int64, outcome reliable.Outcome, err error, record int) {
	c.b.recordAnswer(at, outcome, record)
	c.ready = append(c.ready, reliable.Confirm{ID: id, Fence: fence, Outcome: outcome, Err: err})
	c.readable.open()
}

// flightList is what a connection has in flight, in the order of the hand-over.
type flightList struct{ first, last *flight }

func (l *flightList) push(f *flight) {
	f.prev = l.last
	if l.last == nil {
		l.first = f
	} else {
		l.last.next = f
	}
	l.last = f
}

func (l *flightList) remove(f *flight) {
	if f.prev == nil {
		l.first = f.next
	} else {
		f.prev.next = f.next
	}
	if f.next == nil {
		l.last = f.prev
	} else {
		f.next.prev = f.prev
	}
	f.prev, f.next = nil, nil
}

// schedule holds flights by the time at which something happens to them.
type schedule struct {
	flights []*flight
	seq     uint64
}

func (s *schedule) put(f *flight, due time.Time, what event) {
	s.remove(f)
	s.seq++
	f.due, f.event, f.seq = due, what, s.seq
	heap.Push(s, f)
}

func (s *schedule) remove(f *flight) {
	if f.index > 0 {
		heap.Remove(s, f.index-1)
	}
}

// next is when something happens next; the zero time means never.
func (s *schedule) next() time.Time {
	if len(s.flights) == 0 {
		return time.Time{}
	}
	return s.flights[0].due
}

func (s *schedule) Len() int { return len(s.flights) }

func (s *schedule) Less(i, j int) bool {
	a, b := s.flights[i], s.flights[j]
	if a.due.Equal(b.due) {
		return a.seq < b.seq
	}
	return a.due.Before(b.due)
}

func (s *schedule) Swap(i, j int) {
	s.flights[i], s.flights[j] = s.flights[j], s.flights[i]
	s.flights[i].index, s.flights[j].index = i+1, j+1
}

// Push implements heap.Interface.
func (s *schedule) Push(x any) {
	f := x.(*flight) //nolint:forcetypeassert // only put calls it
	s.flights = append(s.flights, f)
	f.index = len(s.flights)
}

// Pop implements heap.Interface.
func (s *schedule) Pop() any {
	last := len(s.flights) - 1
	f := s.flights[last]
	s.flights[last] = nil
	s.flights = s.flights[:last]
	f.index = 0
	return f
}

// gate lets any number of goroutines wait for the next change; it is guarded by the broker's mutex.
type gate struct{ changed chan struct{} }

func (g *gate) wait() <-chan struct{} {
	if g.changed == nil {
		g.changed = make(chan struct{})
	}
	return g.changed
}

func (g *gate) open() {
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}

// await waits for a change, or the time of the next event (zero: none), or the end of ctx, which alone is an error.
func await(ctx context.Context, changed <-chan struct{}, next time.Time) error {
	var due <-chan time.Time
	if !next.IsZero() {
		timer := time.NewTimer(time.Until(next))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-changed:
	case <-due:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}
