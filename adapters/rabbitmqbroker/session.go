package rabbitmqbroker

import (
	"context"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// writeBatch is how many entries the writer takes at a time.
	writeBatch = 64
	// scanEvery is how long an answered message can wait behind an unanswered one, which a slow queue may hold up.
	scanEvery = 5 * time.Millisecond
)

// channel is what a session needs of an AMQP channel in confirm mode.
type channel interface {
	// publish writes one message; the broker's answer to it is pending.
	publish(exchange, key string, mandatory bool, msg *amqp.Publishing) (pending, error)
	// isClosed is true before the first pending answer is given up.
	isClosed() bool
}

// pending is the broker's answer to one message; amqp091's DeferredConfirmation. Once done, it is acked, nacked, or given
// up because the channel closed.
type pending interface {
	Done() <-chan struct{}
	Acked() bool
}

// link is a connection with its channel, as a session sees it.
type link struct {
	channel
	returns <-chan amqp.Return   // at least as large as the window; holds a return before its ack is done
	closed  <-chan *amqp.Error   // why the broker closed the channel or connection; closed without one when we did
	blocked <-chan amqp.Blocking // the broker stops, and starts again, to read
	// together has what is published inside leave at once, as soon as the socket takes it.
	together func(publish func())
	abort    func() // drops the connection at once; whoever writes to it gets an error
	close    func() // ends the connection in order, or drops it if that takes long

	frameSize int // of the connection, in bytes; 0 means without limit
}

// entry is an attempt that was handed over to a session.
type entry struct {
	id            reliable.ID
	fence         int64
	topic         string
	exchange, key string
	msg           amqp.Publishing
	lent          bool // the headers of msg are to be given back once it is written
	handedOver    time.Time

	pending  pending      // nil until written; needs the session's mu
	returned *amqp.Return // the message came back; only the settling goroutine uses it
	settled  bool         // has its confirm; only the settling goroutine uses it
}

// session is one connection and what is in flight on it. It knows nothing of sessions before and after it, so an answer
// cannot be taken for one to a message of another.
type session struct {
	link
	sessionConfig
	topology *topology

	mu          sync.Mutex
	entries     []*entry // in the order of hand-over; settled ones are cut off at the front
	unwritten   int      // index in entries of the first that the writer has not taken
	blind       bool     // the settling goroutine waits for the first entry to be written
	dead        bool     // takes no more entries
	isBlocked   bool
	unblockedAt time.Time
	acked       bool // the broker has acked something

	written chan struct{} // capacity 1: entries were added, or the first one was written
	toWrite chan struct{} // capacity 1: entries were added
	gone    chan struct{} // closed once dead

	hint  int // index in entries after the last one that was returned: returns come in order
	ready []*entry
	out   []reliable.Confirm
}

// sessionConfig is what a session is told by its owner. The functions are called on the session's own goroutine.
type sessionConfig struct {
	confirmTimeout time.Duration
	blockedTimeout time.Duration // at least confirmTimeout
	mandatory      bool
	alone          bool // for one suspected attempt: the close code is its answer
	deliver        func([]reliable.Confirm)
	onBlocking     func(amqp.Blocking)
	onReturn       func(topic string)
}

func newSession(l link, config sessionConfig) *session {
	return &session{
		link: l, sessionConfig: config,
		written: make(chan struct{}, 1), toWrite: make(chan struct{}, 1), gone: make(chan struct{}),
	}
}

// offer hands entries over, all or none; false means that the session is over.
func (s *session) offer(entries []*entry) bool {
	now := time.Now()
	s.mu.Lock()
	if s.dead {
		s.mu.Unlock()
		return false
	}
	for _, e := range entries {
		e.handedOver = now
	}
	first := len(s.entries) == 0
	s.entries = append(s.entries, entries...)
	s.mu.Unlock()
	poke(s.toWrite)
	if first {
		poke(s.written)
	}
	return true
}

// blockedNow reports whether the broker reads nothing at the moment.
func (s *session) blockedNow() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isBlocked
}

// run writes and settles until the connection dies or ctx ends, and returns why. Every entry has its confirm by then.
func (s *session) run(ctx context.Context) error {
	var writer sync.WaitGroup
	writer.Go(s.write)
	cause := s.settle(ctx)

	s.mu.Lock()
	s.dead = true
	s.mu.Unlock()
	close(s.gone)
	if s.link.isClosed() || ctx.Err() != nil {
		s.link.close()
	} else {
		s.link.abort()
	}
	writer.Wait()
	s.bury(cause)
	return cause
}

// write publishes what is handed over, in order.
func (s *session) write() {
	var batch [writeBatch]*entry
	for {
		select {
		case <-s.toWrite:
		case <-s.gone:
			return
		}
		for {
			s.mu.Lock()
			n := copy(batch[:], s.entries[s.unwritten:])
			s.unwritten += n
			stop := s.dead || n == 0
			s.mu.Unlock()
			if stop {
				break
			}
			alive := true
			s.together(func() {
				for i := 0; alive && i < n; i++ {
					alive = s.writeOne(batch[i])
				}
			})
			if !alive {
				return
			}
		}
	}
}

// writeOne publishes one entry. What a return finds it by, its place among the entries, it has had since before.
func (s *session) writeOne(e *entry) bool {
	answer, err := s.publish(e.exchange, e.key, s.mandatory, &e.msg)
	if err != nil {
		// It may have been written in part, so the connection is of no more use. If the channel is closed, what closed it
		// is about to be told, and must not be cut short.
		if !s.isClosed() {
			s.link.abort()
		}
		return false
	}
	e.sent() // while nobody else looks at it
	s.mu.Lock()
	e.pending = answer
	wake := s.blind
	s.blind = false
	s.mu.Unlock()
	if wake {
		poke(s.written)
	}
	return true
}

// settle turns answers into confirms until the session is over, and returns why it is.
func (s *session) settle(ctx context.Context) error {
	timer := time.NewTimer(scanEvery)
	defer timer.Stop()
	for {
		answered, wait, overdue := s.oldest()
		if overdue {
			return errNoConfirm
		}
		var tick <-chan time.Time
		if wait > 0 {
			timer.Reset(wait)
			tick = timer.C
		}
		everything := false
		select {
		case <-answered:
		case <-s.written:
		case <-tick:
			everything = true
		case returned, open := <-s.returns:
			s.markReturned(returned, open)
		case blocking, open := <-s.blocked:
			s.setBlocked(blocking, open)
		case reason := <-s.link.closed:
			s.collect(true)
			return lost(reason)
		case <-ctx.Done():
			s.collect(true)
			return errEnded
		}
		s.collect(everything)
	}
}

// oldest says what to wait for: the answer to the oldest entry, nil while it is not written, and for how long, 0 without end.
func (s *session) oldest() (answered <-chan struct{}, wait time.Duration, overdue bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.entries) == 0 {
		return nil, 0, false
	}
	head := s.entries[0]
	left := time.Until(s.deadline(head))
	if head.pending == nil {
		s.blind = true
	} else {
		answered = head.pending.Done()
	}
	return answered, min(max(left, 0)+1, scanEvery), left <= 0
}

// deadline is when e has gone unanswered for too long. It needs mu.
func (s *session) deadline(e *entry) time.Time {
	latest := e.handedOver.Add(s.blockedTimeout)
	if s.isBlocked {
		return latest
	}
	since := e.handedOver
	if s.unblockedAt.After(since) {
		since = s.unblockedAt
	}
	if deadline := since.Add(s.confirmTimeout); deadline.Before(latest) {
		return deadline
	}
	return latest
}

// collect settles the entries that were answered: those before the first unanswered one, or really all.
func (s *session) collect(everything bool) {
	s.mu.Lock()
	s.ready = s.ready[:0]
	for _, e := range s.entries[:s.unwritten] {
		answered := e.settled || e.pending != nil && isDone(e.pending.Done())
		if !answered && !everything {
			break
		}
		if answered && !e.settled {
			s.ready = append(s.ready, e)
		}
	}
	s.mu.Unlock()
	if len(s.ready) == 0 {
		return
	}
	// A return is in its channel before its ack is done. Only now that the acks are known is it certain that all their
	// returns are there.
	s.drainReturns()

	s.out = s.out[:0]
	for _, e := range s.ready {
		if c, known := s.verdict(e); known {
			s.out = append(s.out, c)
		}
	}
	s.finish(s.ready, s.out)
}

// verdict is what the answer to e means; unknown if the answer was given up because the channel closed, which is for bury
// to judge.
func (s *session) verdict(e *entry) (c reliable.Confirm, known bool) {
	c = reliable.Confirm{ID: e.id, Fence: e.fence}
	switch {
	case e.returned != nil:
		c.Outcome, c.Err = reliable.Returned, returnedError(e.returned)
	case e.pending.Acked():
		c.Outcome = reliable.Acked
	case s.isClosed():
		return c, false
	default:
		c.Outcome, c.Err = reliable.Nacked, errNacked
	}
	e.settled = true
	return c, true
}

// finish cuts settled entries off and delivers their confirms.
func (s *session) finish(entries []*entry, confirms []reliable.Confirm) {
	s.mu.Lock()
	for _, c := range confirms {
		s.acked = s.acked || c.Outcome == reliable.Acked
	}
	cut := 0
	for cut < s.unwritten && s.entries[cut].settled {
		s.entries[cut] = nil
		cut++
	}
	s.entries = s.entries[cut:]
	s.unwritten -= cut
	s.mu.Unlock()
	s.hint = max(s.hint-cut, 0)
	for _, e := range entries {
		if e.settled {
			e.msg = amqp.Publishing{}
		}
		if e.returned != nil {
			s.onReturn(e.topic)
		}
	}
	clear(entries)
	s.deliver(confirms)
}

// markReturned notes that a message came back. A return has no delivery tag, so the message id tells which.
func (s *session) markReturned(r amqp.Return, open bool) {
	if !open {
		s.returns = nil
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.entries {
		at := (s.hint + i) % len(s.entries)
		if e := s.entries[at]; !e.settled && string(e.id) == r.MessageId {
			r.Body, r.Headers = nil, nil
			e.returned = &r
			s.hint = at + 1
			return
		}
	}
}

func (s *session) drainReturns() {
	for {
		select {
		case r, open := <-s.returns:
			s.markReturned(r, open)
			if !open {
				return
			}
		default:
			return
		}
	}
}

func (s *session) setBlocked(b amqp.Blocking, open bool) {
	if !open {
		s.blocked = nil
		return
	}
	s.mu.Lock()
	if s.isBlocked && !b.Active {
		s.unblockedAt = time.Now()
	}
	s.isBlocked = b.Active
	s.mu.Unlock()
	s.onBlocking(b)
}

// bury gives every entry that is left its confirm: Returned if it came back, else what the end of the session says of it.
func (s *session) bury(cause error) {
	s.drainReturns()
	s.mu.Lock()
	left := s.entries
	s.entries, s.unwritten = nil, 0
	s.mu.Unlock()
	confirms := make([]reliable.Confirm, 0, len(left))
	for _, e := range left {
		switch {
		case e.settled:
		case e.returned != nil:
			confirms = append(confirms, reliable.Confirm{
				ID: e.id, Fence: e.fence, Outcome: reliable.Returned, Err: returnedError(e.returned),
			})
		default:
			c := reliable.Confirm{ID: e.id, Fence: e.fence, Outcome: reliable.Unknown, Err: cause}
			if s.alone {
				c.Outcome = closeOutcome(cause)
			}
			confirms = append(confirms, c)
		}
	}
	s.deliver(confirms)
}

func isDone(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}
