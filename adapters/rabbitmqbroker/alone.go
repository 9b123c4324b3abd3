package rabbitmqbroker

import (
	"context"
	"errors"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// loneIdle is how long the connection for attempts that go alone is kept without one.
const loneIdle = 5 * time.Second

// lone is the connection for attempts that go alone. There is one attempt on it at a time, so that it can take nothing down
// but itself, and the broker's close code can be meant for nothing else. What survives is used for the next one: the
// neighbours of a poison message, and the probes of destinations that refuse without a close, cost no connection each.
type lone struct {
	slot chan struct{} // capacity 1, held from before an attempt is handed over until it has its confirm; guards the rest

	session *session // nil, or it may be over
	end     context.CancelFunc
	idle    *time.Timer
}

// handOverAlone publishes one attempt on a connection where nothing else is in flight.
func (b *Broker) handOverAlone(ctx context.Context, a *reliable.Attempt) (int, error) {
	select {
	case b.lone.slot <- struct{}{}:
	case <-b.closing:
		return 0, reliable.ErrClosed
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	n, err := 0, reliable.ErrConnectionLost
	for fresh := false; !fresh && errors.Is(err, reliable.ErrConnectionLost); {
		n, fresh, err = b.tryLone(ctx, a)
	}
	if n == 0 {
		b.leaveLone()
	}
	return n, err
}

// tryLone hands an attempt over on the connection that is there, or on a fresh one. If it does, the attempt's confirm gives
// the slot back.
func (b *Broker) tryLone(ctx context.Context, a *reliable.Attempt) (n int, fresh bool, err error) {
	// Connecting may fail without consequence: nothing is handed over before there is something to hand it over to.
	if fresh, err = b.connectLone(ctx); err != nil {
		return 0, fresh, err
	}
	s := b.lone.session
	e, problem := b.prepare(a, s.frameSize)
	if problem != nil {
		b.deliver([]reliable.Confirm{refusal(a, problem)})
		b.leaveLone()
		return 1, fresh, nil
	}
	if err = s.topology.ensure(ctx, a.Topic, s.gone, b.closing); err != nil {
		return 0, fresh, err
	}
	if !s.offer([]*entry{e}) {
		return 0, fresh, reliable.ErrConnectionLost
	}
	return 1, fresh, nil
}

// connectLone sees to it that there is a connection, as far as is known, and reports whether it is a new one. The caller
// holds the slot.
func (b *Broker) connectLone(ctx context.Context) (fresh bool, err error) {
	if b.lone.idle != nil {
		b.lone.idle.Stop()
	}
	if s := b.lone.session; s != nil && !isDone(s.gone) {
		return false, nil
	}
	l, conn, err := b.openLink(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = because(ctx.Err(), err)
		}
		return true, err
	}
	s := b.newSession(l, conn, true)
	s.deliver = func(confirms []reliable.Confirm) {
		if len(confirms) > 0 {
			b.deliver(confirms)
			b.leaveLone()
		}
	}
	life, end := context.WithCancel(b.life)
	b.lone.session, b.lone.end = s, end
	b.work.Go(func() {
		defer end()
		_ = s.run(life) // the confirm of what was on it says why
	})
	return true, nil
}

// leaveLone gives the slot back, and has the connection closed if nobody takes it for a while.
func (b *Broker) leaveLone() {
	if b.lone.session != nil {
		if b.lone.idle == nil {
			b.lone.idle = time.AfterFunc(loneIdle, b.closeLone)
		} else {
			b.lone.idle.Reset(loneIdle)
		}
	}
	<-b.lone.slot
}

// closeLone closes the connection unless there is an attempt on it.
func (b *Broker) closeLone() {
	select {
	case b.lone.slot <- struct{}{}:
	default:
		return
	}
	if b.lone.session != nil {
		b.lone.end()
		b.lone.session = nil
	}
	<-b.lone.slot
}

// dropLone forgets the connection, which ended with the broker's life.
func (b *Broker) dropLone() {
	b.lone.slot <- struct{}{}
	if b.lone.idle != nil {
		b.lone.idle.Stop()
	}
	b.lone.session = nil
	<-b.lone.slot
}
