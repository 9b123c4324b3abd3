package rabbitmqbroker

import (
	"context"

	"github.com/waybillmq/waybill/reliable"
)

// handOverAlone publishes one attempt on a connection of its own, so that it can take nothing down but itself, and the
// broker's close code can be meant for nothing else. There is one such attempt at a time.
func (b *Broker) handOverAlone(ctx context.Context, a *reliable.Attempt) (int, error) {
	select {
	case b.aloneSlot <- struct{}{}:
	case <-b.closing:
		return 0, reliable.ErrClosed
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	leave := func() { <-b.aloneSlot }

	// Connecting may fail without consequence: nothing is handed over before there is something to hand it over to.
	l, conn, err := b.openLink(ctx)
	if err != nil {
		leave()
		if ctx.Err() != nil {
			err = because(ctx.Err(), err)
		}
		return 0, err
	}
	e, problem := b.prepare(a, l.frameSize)
	if problem == nil {
		s := b.newSession(l, conn, true)
		if err = s.topology.ensure(ctx, a.Topic, conn.wire.gone, b.closing); err == nil {
			b.runAlone(s, e, leave)
			return 1, nil
		}
	}
	conn.end()
	leave()
	if problem != nil {
		b.deliver([]reliable.Confirm{refusal(a, problem)})
		return 1, nil
	}
	return 0, err
}

// runAlone keeps the session until its one attempt has its confirm.
func (b *Broker) runAlone(s *session, e *entry, leave func()) {
	life, settled := context.WithCancel(b.life)
	s.deliver = func(confirms []reliable.Confirm) {
		if len(confirms) > 0 {
			b.deliver(confirms)
			settled()
		}
	}
	s.offer([]*entry{e})
	b.work.Go(func() {
		defer leave()
		defer settled()
		_ = s.run(life) // its confirm says why
	})
}
