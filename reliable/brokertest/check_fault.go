package brokertest

import (
	"context"
	"errors"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

var faultChecks = []entry{
	{
		name:    "a lost connection leaves each attempt with one confirm and comes back",
		applies: func(h *Harness) bool { return h.Cut != nil },
		run: func(tr *trial) {
			for range 3 {
				s := tr.open(Options{Window: 200})
				tr.breaks(s, func() { tr.Cut(tr.T, s.conn) })
			}
		},
	},
	{
		name:    "an outage leaves each attempt with one confirm and holds no publish past its context",
		applies: func(h *Harness) bool { return h.Down != nil },
		run:     outage,
	},
	{
		name:    "a poison attempt does not fail its neighbours and is rejected alone",
		applies: func(h *Harness) bool { return h.Poison != nil },
		run:     poison,
	},
}

// breaks publishes all the time while fault strikes, then checks what was said of each attempt. A fault may find nothing
// in flight, where the broker is quick: it strikes until some attempt is unknown, a few times at most.
func (tr *trial) breaks(s *session, fault func()) {
	tr.Helper()
	const strikes = 8
	topic := tr.Topic(tr.T)
	background, stop := tr.publishUntilStopped(s, topic)
	var own []reliable.Attempt
	for struck := false; !struck && len(own) < strikes*50; {
		batch := attempts(topic, 50)
		s.publish(batch...)
		fault()
		own = append(own, batch...)
		for _, confirm := range s.confirmsOf(batch...) {
			struck = struck || confirm.Outcome == reliable.Unknown
		}
		tr.recovers(s, topic)
	}
	stop()
	sent := append(own, *background...)
	tr.marked(s.expect(sent, reliable.Acked, reliable.Unknown))
	tr.mustHave(topic, s.acked(sent))
}

// publishUntilStopped publishes up to the suite's volume in the background; sent is complete once stop has returned.
func (tr *trial) publishUntilStopped(s *session, topic string) (sent *[]reliable.Attempt, stop func()) {
	ctx, cancel := context.WithTimeout(tr.Context(), tr.Patience)
	stopping, stopped := make(chan struct{}), make(chan struct{})
	sent = new([]reliable.Attempt)
	go func() {
		defer close(stopped)
		for ctx.Err() == nil && len(*sent) < tr.Volume {
			select {
			case <-stopping:
				return
			default:
			}
			batch := attempts(topic, 20)
			n, err := s.offer(ctx, batch)
			*sent = append(*sent, batch[:n]...)
			switch {
			case errors.Is(err, reliable.ErrClosed): // the check has failed meanwhile
				return
			case err != nil:
				time.Sleep(pause) // not reachable now: an adapter may say so rather than wait
			}
		}
	}()
	return sent, func() {
		defer cancel()
		close(stopping)
		within(tr, tr.Patience+promptness, "publishing", func() { <-stopped })
	}
}

// marked checks that what was lost with a connection says so.
func (tr *trial) marked(confirms []reliable.Confirm) {
	tr.Helper()
	for _, confirm := range confirms {
		if tr.Features.MarksLost && confirm.Outcome == reliable.Unknown && !errors.Is(confirm.Err, reliable.ErrConnectionLost) {
			fail(tr, "id %q is unknown for %v, which is not ErrConnectionLost", confirm.ID, confirm.Err)
		}
	}
}

func outage(tr *trial) {
	s := tr.open(Options{Window: 100})
	topic := tr.Topic(tr.T)
	before := attempts(topic, 100)
	s.publish(before...)
	up := tr.Down(tr.T)

	during := attempts(topic, 250)
	ctx, cancel := context.WithTimeout(tr.Context(), 500*time.Millisecond)
	defer cancel()
	n, err := s.offerWithin(ctx, 500*time.Millisecond+promptness, during)
	if n == len(during) && tr.Features.Window {
		fail(tr, "Publish handed %d attempts over to a broker that is down, through a window of 100", n)
	}
	tr.Logf("during the outage: n = %d, %v", n, err)
	up()

	tr.recovers(s, topic)
	s.expect(before, reliable.Acked, reliable.Unknown)
	s.expect(during[:n], reliable.Acked, reliable.Unknown)
	s.send(during[n:]...)
	tr.mustHave(topic, append(s.acked(before), s.acked(during)...))
}

func poison(tr *trial) {
	s := tr.open(Options{})
	topic := tr.Topic(tr.T)
	batch := attempts(topic, 41)
	batch[20].Envelope = tr.Poison(tr.T, topic)
	s.publish(batch...)
	s.expect(batch[20:21], reliable.Unknown, reliable.Rejected)
	neighbours := append(append([]reliable.Attempt{}, batch[:20]...), batch[21:]...)
	s.expect(neighbours, reliable.Acked, reliable.Unknown)

	var again []reliable.Attempt
	acked := s.acked(neighbours)
	for i := range batch {
		if confirm := s.confirmsOf(batch[i])[0]; confirm.Outcome == reliable.Unknown {
			next := batch[i]
			next.Fence, next.Attempts, next.MayHaveBeenSent, next.Alone = 2, 2, true, true
			again = append(again, next)
		}
	}
	s.publish(again...)
	for _, confirm := range s.confirmsOf(again...) {
		switch {
		case confirm.ID != batch[20].ID && confirm.Outcome != reliable.Acked:
			fail(tr, "a neighbour of the poison, now alone: %v (%v), want acked", confirm.Outcome, confirm.Err)
		case confirm.ID == batch[20].ID && confirm.Outcome != reliable.Rejected && tr.Features.FindsPoison:
			fail(tr, "the poison, now alone: %v (%v), want rejected", confirm.Outcome, confirm.Err)
		}
	}
	tr.recovers(s, topic)
	tr.mustHave(topic, append(acked, s.acked(again)...))
}
