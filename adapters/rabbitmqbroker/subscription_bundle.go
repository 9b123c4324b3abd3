package rabbitmqbroker

import (
	"context"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"
)

// delivery is a bundle at a subscriber: the broker is told of it once nothing of it is with the handler any more.
type delivery struct {
	amqp.Delivery
	sub     *subscription
	left    atomic.Int64
	dropped atomic.Bool // one was nacked that is not to come again
	unended atomic.Bool // one is to come again
}

// deliverParts hands the messages of a bundle over, in their order. There is a slot for the first.
func (sub *subscription) deliverParts(f *feed, d amqp.Delivery, parts []*message.Message) {
	whole := &delivery{Delivery: d, sub: sub}
	whole.left.Store(int64(len(parts)))
	for i, part := range parts {
		if i > 0 && !sub.acquire(f) {
			whole.giveUp(len(parts) - i)
			return
		}
		msg, cancel := sub.ofPart(part)
		if !sub.offer(f, msg) {
			cancel()
			sub.release()
			whole.giveUp(len(parts) - i)
			return
		}
		sub.handling.Go(func() { whole.handle(f, part, msg, cancel) })
	}
}

// ofPart is a message of a bundle as it is handed over, once.
func (sub *subscription) ofPart(part *message.Message) (*message.Message, context.CancelFunc) {
	ctx, cancel := context.WithCancel(sub.caller) // Close leaves a handler the time to finish
	msg := part.Copy()
	msg.SetContext(ctx)
	return msg, cancel
}

// handle waits for what the consumer says to a part, which has a slot, and has it come again after a nack. It keeps its slot
// while it waits for the nack delay, as a single message does, but not from one try to the next: one that always fails would
// keep out all the others.
func (d *delivery) handle(f *feed, part, msg *message.Message, cancel context.CancelFunc) {
	for {
		acked, said := d.sub.verdict(msg)
		cancel()
		if !said || acked || d.sub.s.config.Consume.NoRequeueOnNack {
			d.end(acked, said)
			d.sub.release()
			return
		}
		pauseFor(d.sub.ctx, d.sub.s.nackDelay)
		d.sub.release()
		if !d.sub.acquire(f) {
			d.giveUp(1)
			return
		}
		if msg, cancel = d.sub.ofPart(part); !d.sub.offer(f, msg) {
			cancel()
			d.giveUp(1)
			d.sub.release()
			return
		}
	}
}

// end is what becomes of a part that does not come again by itself.
func (d *delivery) end(acked, said bool) {
	if !said {
		d.giveUp(1)
		return
	}
	if !acked {
		d.dropped.Store(true)
	}
	d.done(1)
}

// giveUp has the broker give the whole bundle again.
func (d *delivery) giveUp(parts int) {
	d.unended.Store(true)
	d.done(parts)
}

// done tells the broker what became of the bundle, if that was the rest of it. What does not reach the broker leads to a
// redelivery.
func (d *delivery) done(parts int) {
	switch {
	case d.left.Add(-int64(parts)) > 0:
	case d.unended.Load():
		_ = d.Nack(false, true)
	case d.dropped.Load():
		_ = d.Nack(false, false)
	default:
		_ = d.Ack(false)
	}
}
