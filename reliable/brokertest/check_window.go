package brokertest

import (
	"context"
	"errors"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

var windowChecks = []entry{
	{name: "publish waits for the window no longer than its context", run: func(tr *trial) {
		s := tr.openUnread(Options{Window: 10})
		tr.partOf(s, 200*time.Millisecond, func(n int, err error) {
			if tr.Features.Window && (n == 0 || n > 10 || !errors.Is(err, context.DeadlineExceeded)) {
				fail(tr, "Publish of 50 attempts to a window of 10 that nobody empties: n = %d, error %v; want part of the "+
					"window and the context's error", n, err)
			}
		})
	}},
	{name: "publish with an ended context sends no more than it says", run: func(tr *trial) {
		s := tr.openUnread(Options{Window: 10})
		tr.partOf(s, 0, func(int, error) {})
	}},
	{
		name:    "a blocked broker holds no publish past its context",
		applies: func(h *Harness) bool { return h.Block != nil },
		run:     blockedBroker,
	},
	{
		name:    "a blocked broker's attempts are unknown within the longest confirm wait",
		applies: func(h *Harness) bool { return h.Block != nil },
		run:     blockedTooLong,
	},
}

// partOf publishes 50 attempts under a context that ends after wait, while nobody reads, then the rest under another one,
// and proves by what arrived that the rest had not been sent before.
func (tr *trial) partOf(s *session, wait time.Duration, verdict func(n int, err error)) {
	tr.Helper()
	batch := attempts(tr.Topic(tr.T), 50)
	ctx, cancel := context.WithTimeout(tr.Context(), wait)
	defer cancel()
	n, err := s.offerWithin(ctx, wait+promptness, batch)
	if err != nil && !errors.Is(err, ctx.Err()) {
		fail(tr, "Publish, ended by its context: n = %d, error %v, want the context's error", n, err)
	}
	verdict(n, err)
	s.startReading()
	s.expect(batch[:n], reliable.Acked)
	s.send(batch[n:]...)
	tr.arrive(batch)
}

// blockedBroker counts on nothing but time to notice that publishing has stopped: how much a socket takes nobody knows.
func blockedBroker(tr *trial) {
	s := tr.open(Options{Window: 10})
	topic := tr.Topic(tr.T)
	s.send(attempt(topic))
	unblock := tr.Block(tr.T)
	batch := attempts(topic, 50)
	ctx, cancel := context.WithTimeout(tr.Context(), 500*time.Millisecond)
	defer cancel()
	n, err := s.offerWithin(ctx, 500*time.Millisecond+promptness, batch)
	unblock()
	if tr.Features.Window && n > 10 {
		fail(tr, "Publish handed %d attempts to a blocked broker through a window of 10", n)
	}
	if err == nil && n < len(batch) {
		fail(tr, "Publish to a blocked broker: n = %d of %d without an error", n, len(batch))
	}
	s.expect(batch[:n], reliable.Acked, reliable.Unknown)
	tr.recovers(s, topic)
}

func blockedTooLong(tr *trial) {
	const timeout = 2 * time.Second
	s := tr.open(Options{Window: 10, ConfirmTimeout: timeout})
	bounded, ok := reliable.Ability[reliable.Bounded](s.conn)
	if !ok || bounded.MaxConfirmWait() == 0 || bounded.MaxConfirmWait() > tr.Patience {
		tr.Logf("not checked: no bound on the confirm wait within the suite's patience of %v", tr.Patience)
		return
	}
	topic := tr.Topic(tr.T)
	s.send(attempt(topic))
	unblock := tr.Block(tr.T)
	batch := attempts(topic, 5)
	ctx, cancel := context.WithTimeout(tr.Context(), timeout)
	defer cancel()
	n, _ := s.offerWithin(ctx, timeout+promptness, batch)
	began := time.Now()
	s.expect(batch[:n], reliable.Unknown)
	if took, most := time.Since(began), bounded.MaxConfirmWait()+promptness; took > most {
		fail(tr, "confirms took %v, MaxConfirmWait is %v", took, bounded.MaxConfirmWait())
	}
	unblock()
	tr.recovers(s, topic)
}

// recovers publishes until an attempt is acked: the connection has found its way back by itself.
func (tr *trial) recovers(s *session, topic string) {
	tr.Helper()
	deadline := time.Now().Add(tr.Patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		ctx, cancel := context.WithDeadline(tr.Context(), deadline)
		one := attempt(topic)
		n, err := s.offerWithin(ctx, tr.Patience+promptness, []reliable.Attempt{one})
		cancel()
		outcome := reliable.Unknown
		if n == 1 {
			confirm := s.confirmsOf(one)[0]
			outcome, err = confirm.Outcome, confirm.Err
		}
		if outcome == reliable.Acked {
			return
		}
		if time.Now().After(deadline) {
			fail(tr, "the connection did not recover within %v: %v (%v)", tr.Patience, outcome, err)
		}
		time.Sleep(pause) // polling a broker that may need some time to be back
	}
}
