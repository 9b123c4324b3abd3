package brokertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// session is a connection under test with its books: what was handed over, and what was confirmed.
type session struct {
	tr   *trial
	conn Connection

	stopReading context.CancelFunc
	readerDone  chan struct{} // nil while a check reads by itself

	mu       sync.Mutex
	handed   map[flight]bool
	confirms map[flight]reliable.Confirm
	problems []string
	ended    bool          // Receive said io.EOF
	changed  chan struct{} // closed at the next confirm
}

// flight is what tells one attempt from another.
type flight struct {
	id    reliable.ID
	fence int64
}

func flightOf(a *reliable.Attempt) flight { return flight{a.ID, a.Fence} }

const receiveLimit = 64

// open opens a connection whose confirms are read all the time.
func (tr *trial) open(o Options) *session {
	tr.Helper()
	s := tr.openUnread(o)
	s.startReading()
	return s
}

// openUnread opens a connection from which the check receives by itself.
func (tr *trial) openUnread(o Options) *session {
	tr.Helper()
	s := &session{
		tr: tr, conn: tr.Open(tr.T, o), stopReading: func() {},
		handed: make(map[flight]bool), confirms: make(map[flight]reliable.Confirm), changed: make(chan struct{}),
	}
	tr.sessions = append(tr.sessions, s)
	tr.Cleanup(s.abort)
	return s
}

// abort is what remains to do after a failure; it never hangs on a broken connection.
func (s *session) abort() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = s.conn.Close()
	}()
	timer := time.NewTimer(promptness)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
	}
	s.stopReading()
}

func (s *session) startReading() {
	ctx, cancel := context.WithCancel(context.Background())
	s.stopReading, s.readerDone = cancel, make(chan struct{})
	go func() {
		defer close(s.readerDone)
		for {
			confirms, err := s.conn.Receive(ctx, receiveLimit)
			s.book(confirms)
			switch {
			case errors.Is(err, io.EOF):
				s.end()
				return
			case ctx.Err() != nil:
				return
			case err != nil:
				s.note("Receive failed although its context had not ended: %v", err)
				return
			}
		}
	}()
}

// book records confirms.
func (s *session) book(confirms []reliable.Confirm) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, confirm := range confirms {
		key := flight{confirm.ID, confirm.Fence}
		if first, twice := s.confirms[key]; twice {
			s.problems = append(s.problems, fmt.Sprintf("id %q fence %d: confirmed twice, %v and %v",
				key.id, key.fence, first.Outcome, confirm.Outcome))
		}
		if (confirm.Err == nil) != (confirm.Outcome == reliable.Acked) {
			s.problems = append(s.problems, fmt.Sprintf("id %q fence %d: outcome %v with error %v: exactly the acked have none",
				key.id, key.fence, confirm.Outcome, confirm.Err))
		}
		s.confirms[key] = confirm
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *session) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
}

// offer calls Publish and books what was handed over. It may be called from any goroutine.
func (s *session) offer(ctx context.Context, batch []reliable.Attempt) (int, error) {
	keys := make([]flight, len(batch)) // the batch may be written to afterwards
	for i := range batch {
		keys[i] = flightOf(&batch[i])
	}
	n, err := s.conn.Publish(ctx, batch)
	switch {
	case n < 0 || n > len(batch):
		s.note("Publish of %d attempts returned n = %d", len(batch), n)
		n = max(0, min(n, len(batch)))
	case n < len(batch) && err == nil:
		s.note("Publish handed over %d of %d attempts and returned no error", n, len(batch))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys[:n] {
		s.handed[key] = true
	}
	return n, err
}

// offerWithin is offer, from the check's goroutine, for a call that must return within limit.
func (s *session) offerWithin(ctx context.Context, limit time.Duration, batch []reliable.Attempt) (n int, err error) {
	s.tr.Helper()
	within(s.tr, limit, fmt.Sprintf("Publish of %d attempts", len(batch)), func() { n, err = s.offer(ctx, batch) })
	return n, err
}

// publish hands over all of batch.
func (s *session) publish(batch ...reliable.Attempt) {
	s.tr.Helper()
	ctx, cancel := context.WithTimeout(s.tr.Context(), s.tr.Patience)
	defer cancel()
	n, err := s.offerWithin(ctx, s.tr.Patience+promptness, batch)
	if err != nil || n != len(batch) {
		fail(s.tr, "Publish of %d attempts: n = %d, error %v", len(batch), n, err)
	}
}

// confirmsOf waits for the confirms of batch and returns them in its order.
func (s *session) confirmsOf(batch ...reliable.Attempt) []reliable.Confirm {
	s.tr.Helper()
	timer := time.NewTimer(s.tr.Patience)
	defer timer.Stop()
	for {
		confirms, missing, changed := s.lookup(batch)
		if len(missing) == 0 {
			return confirms
		}
		select {
		case <-changed:
		case <-timer.C:
			fail(s.tr, "%d of %d attempts have no confirm after %v, the first of them id %q fence %d",
				len(missing), len(batch), s.tr.Patience, missing[0].id, missing[0].fence)
		}
	}
}

func (s *session) lookup(batch []reliable.Attempt) ([]reliable.Confirm, []flight, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	confirms := make([]reliable.Confirm, 0, len(batch))
	var missing []flight
	for i := range batch {
		key := flightOf(&batch[i])
		if confirm, ok := s.confirms[key]; ok {
			confirms = append(confirms, confirm)
		} else {
			missing = append(missing, key)
		}
	}
	return confirms, missing, s.changed
}

// expect waits for the confirms of batch, each of which must be one of the outcomes.
func (s *session) expect(batch []reliable.Attempt, outcomes ...reliable.Outcome) []reliable.Confirm {
	s.tr.Helper()
	confirms := s.confirmsOf(batch...)
	for i, confirm := range confirms {
		ok := false
		for _, outcome := range outcomes {
			ok = ok || confirm.Outcome == outcome
		}
		if !ok {
			fail(s.tr, "attempt %d of %d (topic %q, alone %v): %v (%v), want one of %v",
				i, len(batch), batch[i].Topic, batch[i].Alone, confirm.Outcome, confirm.Err, outcomes)
		}
	}
	return confirms
}

// send publishes batch, all of which must be acked.
func (s *session) send(batch ...reliable.Attempt) {
	s.tr.Helper()
	s.publish(batch...)
	s.expect(batch, reliable.Acked)
}

// receive calls Receive once, from the check's goroutine, and books what it returns.
func (s *session) receive(ctx context.Context, limit int) (confirms []reliable.Confirm, err error) {
	s.tr.Helper()
	within(s.tr, s.tr.Patience+promptness, "Receive", func() { confirms, err = s.conn.Receive(ctx, limit) })
	s.book(confirms)
	return confirms, err
}

// count is how many confirms came so far.
func (s *session) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.confirms)
}

// awaitCount waits until at least n confirms have come.
func (s *session) awaitCount(n int) {
	s.tr.Helper()
	timer := time.NewTimer(s.tr.Patience)
	defer timer.Stop()
	for {
		s.mu.Lock()
		have, changed := len(s.confirms), s.changed
		s.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			fail(s.tr, "%d confirms after %v, want %d", have, s.tr.Patience, n)
		}
	}
}

// acked returns those of batch that are acked.
func (s *session) acked(batch []reliable.Attempt) []reliable.Attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	var acked []reliable.Attempt
	for i := range batch {
		if confirm, ok := s.confirms[flightOf(&batch[i])]; ok && confirm.Outcome == reliable.Acked {
			acked = append(acked, batch[i])
		}
	}
	return acked
}

// close calls Close, which must not hang.
func (s *session) close() {
	s.tr.Helper()
	var err error
	within(s.tr, s.tr.Patience, "Close", func() { err = s.conn.Close() })
	if err != nil {
		fail(s.tr, "Close: %v", err)
	}
}

// drain reads until io.EOF.
func (s *session) drain() {
	s.tr.Helper()
	if s.readerDone == nil {
		s.startReading()
	}
	timer := time.NewTimer(s.tr.Patience)
	defer timer.Stop()
	select {
	case <-s.readerDone:
	case <-timer.C:
		fail(s.tr, "Receive did not come to io.EOF within %v after Close; %d confirms came", s.tr.Patience, s.count())
	}
}

// finish closes the connection, reads to the end, and checks the books.
func (s *session) finish() {
	s.tr.Helper()
	s.close()
	s.drain()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended && len(s.problems) == 0 {
		s.problems = append(s.problems, "Receive ended without io.EOF")
	}
	missing, excess := 0, 0
	for key := range s.handed {
		if _, ok := s.confirms[key]; !ok {
			missing++
		}
	}
	for key := range s.confirms {
		if !s.handed[key] {
			excess++
		}
	}
	if missing > 0 {
		s.problems = append(s.problems,
			fmt.Sprintf("%d of %d attempts handed over had no confirm before io.EOF", missing, len(s.handed)))
	}
	if excess > 0 {
		s.problems = append(s.problems,
			fmt.Sprintf("%d confirms are of attempts (id and fence) that were not handed over", excess))
	}
	const shown = 5
	for i, problem := range s.problems {
		if i == shown {
			s.tr.Errorf("and %d more problems of this kind", len(s.problems)-shown)
			break
		}
		s.tr.Errorf("%s", problem)
	}
}
