package rabbitmqbroker

import (
	"context"
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// defaultFrameSize is what amqp091 asks for and RabbitMQ grants unless configured otherwise.
	defaultFrameSize = 128 << 10
	// Of a frame, this many pairs of metadata and this many other bytes are left for what is no metadata of the user:
	// lengths, the message id, Waybill's own headers.
	limitPairs    = 512
	limitReserved = 4096
)

// Publish hands attempts over, see [reliable.Publisher]. It waits for room in the window, for a connection, and while the
// broker blocks publishing.
func (b *Broker) Publish(ctx context.Context, batch []reliable.Attempt) (int, error) {
	if err := b.enter(); err != nil {
		return 0, fmt.Errorf("rabbitmqbroker: publish: %w", err)
	}
	defer b.calls.Done()
	n := 0
	for n < len(batch) {
		if err := ctx.Err(); err != nil {
			return n, fmt.Errorf("rabbitmqbroker: publish: %w", err)
		}
		slots, err := b.acquire(ctx, len(batch)-n)
		if err != nil {
			return n, fmt.Errorf("rabbitmqbroker: publish: %w", err)
		}
		handed, err := b.handOver(ctx, batch[n:n+slots])
		b.release(slots - handed)
		n += handed
		if err != nil {
			return n, fmt.Errorf("rabbitmqbroker: publish: %w", err)
		}
	}
	return n, nil
}

// handOver hands attempts over that have their slots, until all are or it gives up.
func (b *Broker) handOver(ctx context.Context, attempts []reliable.Attempt) (int, error) {
	n := 0
	for n < len(attempts) {
		s, err := b.usable(ctx)
		if err != nil {
			return n, err
		}
		var handed int
		if attempts[n].Alone {
			handed, err = b.handOverAlone(ctx, &attempts[n])
		} else {
			handed, err = b.handOverTo(ctx, s, attempts[n:])
		}
		n += handed
		if err != nil && !errors.Is(err, reliable.ErrConnectionLost) {
			return n, err
		}
	}
	return n, nil
}

// handOverTo hands the attempts before the next Alone one over to s. If s is over before that, none is, and the error is
// ErrConnectionLost.
func (b *Broker) handOverTo(ctx context.Context, s *session, attempts []reliable.Attempt) (int, error) {
	var (
		entries = make([]*entry, 0, len(attempts))
		refused []reliable.Confirm
		n       int
		err     error
	)
	for n < len(attempts) && !attempts[n].Alone {
		a := &attempts[n]
		e, problem := b.prepare(a, s.frameSize)
		if problem != nil {
			refused = append(refused, refusal(a, problem))
			n++
			continue
		}
		if err = s.topology.ensure(ctx, a.Topic, s.gone, b.closing); err != nil {
			break
		}
		entries = append(entries, e)
		n++
	}
	if len(entries) > 0 && !s.offer(entries) {
		return 0, reliable.ErrConnectionLost
	}
	b.deliver(refused)
	return n, err
}

// refusal is the confirm of an attempt that is not sent.
func refusal(a *reliable.Attempt, problem error) reliable.Confirm {
	return reliable.Confirm{
		ID: a.ID, Fence: a.Fence, Outcome: reliable.Rejected, Err: fmt.Errorf("rabbitmqbroker: %w", problem),
	}
}

// prepare makes of an attempt what goes over the wire, or says why that cannot be.
func (b *Broker) prepare(a *reliable.Attempt, frameSize int) (*entry, error) {
	msg, lent, err := b.marshal(a)
	if err != nil {
		return nil, fmt.Errorf("marshal: %w", err)
	}
	// Acked means that the broker still has the message after a restart, and a return is told by nothing but its id.
	msg.DeliveryMode = amqp.Persistent
	msg.MessageId = string(a.ID)
	e := &entry{
		id: a.ID, fence: a.Fence, topic: a.Topic,
		exchange: b.config.Exchange.GenerateName(a.Topic), key: b.config.Publish.GenerateRoutingKey(a.Topic),
		msg: msg, lent: lent,
	}
	for _, name := range [...]struct{ what, value string }{{"exchange", e.exchange}, {"routing key", e.key}} {
		if len(name.value) > maxShortString {
			return nil, fmt.Errorf("the name of the %s has %d bytes, at most %d can be encoded",
				name.what, len(name.value), maxShortString)
		}
	}
	header, err := headerFrameSize(&e.msg)
	if err != nil {
		return nil, err
	}
	if !b.sizeChecks {
		return e, nil
	}
	if frameSize > 0 && header > frameSize {
		return nil, fmt.Errorf("the headers take %d bytes, a frame of this connection %d: shorten the metadata", header, frameSize)
	}
	if len(msg.Body) > b.maxMessage {
		return nil, fmt.Errorf("the payload has %d bytes, the limit is %d: store it elsewhere and send a reference",
			len(msg.Body), b.maxMessage)
	}
	return e, nil
}

// Limits are the payload limit of WithMaxMessageBytes, and what of metadata surely fits into a frame. With
// WithoutSizeChecks only names are limited.
func (b *Broker) Limits() reliable.Limits {
	limits := reliable.Limits{Topic: maxShortString, ID: maxShortString}
	if !b.sizeChecks {
		return limits
	}
	limits.Payload = b.maxMessage
	frame := defaultFrameSize
	if own := b.config.Connection.AmqpConfig; own != nil && own.FrameSize > 0 {
		frame = own.FrameSize
	}
	if frame > 2*limitReserved {
		limits.Metadata, limits.MetadataPairs = frame-limitReserved, limitPairs
	}
	return limits
}
