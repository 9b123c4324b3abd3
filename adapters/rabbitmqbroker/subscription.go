package rabbitmqbroker

import (
	"context"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"
)

// subscription is one call of Subscribe. One goroutine takes messages from the broker, a feed after the other, and hands
// them to the consumer in their order; others wait for what the consumer says to them.
type subscription struct {
	s     *Subscriber
	topic string
	queue string
	out   chan *message.Message
	slots chan struct{} // holds a token for each message that is with the handler

	caller   context.Context //nolint:containedctx // parent of the messages' own
	ctx      context.Context //nolint:containedctx // ends with the caller's, and with Close
	stop     context.CancelFunc
	handling sync.WaitGroup
}

func (s *Subscriber) newSubscription(caller context.Context, topic string) *subscription {
	sub := &subscription{
		s: s, topic: topic, queue: s.config.Queue.GenerateName(topic),
		out: make(chan *message.Message), slots: make(chan struct{}, s.concurrency), caller: caller,
	}
	ctx, cancel := context.WithCancel(caller)
	detach := context.AfterFunc(s.closing, cancel)
	sub.ctx, sub.stop = ctx, func() {
		detach()
		cancel()
	}
	return sub
}

// consumerTag names the consumer where the config does not; it need be unique on its channel only.
const consumerTag = "waybill"

// feed is one consumer at the broker, on a channel of its own. Once the channel is lost, everything that came over it and
// was not acked comes again, over another one.
type feed struct {
	s          *Subscriber
	conn       *connection
	channel    *amqp.Channel
	tag        string
	deliveries <-chan amqp.Delivery
	gone       <-chan *amqp.Error // closed with the channel
}

// open declares the topology and begins to consume.
func (sub *subscription) open() (*feed, error) {
	var (
		mu        sync.Mutex
		opened    *feed
		abandoned bool
	)
	err := sub.s.onConnection(sub.ctx, func(conn *connection) error {
		f, err := sub.consume(conn)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if abandoned {
			f.end()
			return nil
		}
		opened = f
		return nil
	})
	if err == nil {
		return opened, nil
	}
	mu.Lock()
	defer mu.Unlock()
	if abandoned = true; opened != nil { // it came at the moment when the wait for it ended
		opened.end()
	}
	return nil, err
}

func (sub *subscription) consume(conn *connection) (*feed, error) {
	if err := sub.s.declareFor(conn.Connection, sub.topic); err != nil {
		return nil, err
	}
	ch, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	consume := sub.s.config.Consume
	f := &feed{s: sub.s, conn: conn, channel: ch, tag: consume.Consumer, gone: ch.NotifyClose(make(chan *amqp.Error, 1))}
	if f.tag == "" {
		f.tag = consumerTag
	}
	err = ch.Qos(sub.s.prefetch, consume.Qos.PrefetchSize, consume.Qos.Global)
	if err == nil {
		f.deliveries, err = ch.Consume(sub.queue, f.tag, false, consume.Exclusive, consume.NoLocal, consume.NoWait, consume.Arguments)
	}
	if err != nil {
		_ = ch.Close() // it says at most that the broker was faster
		return nil, err
	}
	sub.s.connector.join(conn)
	return f, nil
}

// end gives back what was delivered and not acked.
func (f *feed) end() {
	_ = f.channel.Close() // it says at most that the broker was faster
	f.s.connector.leave(f.conn)
}

// run serves the subscription until it ends.
func (sub *subscription) run(f *feed) {
	defer close(sub.out)
	defer sub.stop()
	wait, consuming := sub.s.backoffMin, trouble{}
	for {
		if f != nil {
			if took := consuming.over(); took != nil {
				sub.s.logger.Info("rabbitmqbroker: consuming again", append(took, "topic", sub.topic)...)
			}
			began := time.Now()
			if sub.pump(f) || time.Since(began) >= steady {
				wait = sub.s.backoffMin
			}
		}
		if sub.ctx.Err() != nil {
			sub.finish(f)
			return
		}
		if f != nil {
			sub.s.logger.Warn("rabbitmqbroker: subscription lost, consuming again", "topic", sub.topic)
			f.end()
		}
		pauseFor(sub.ctx, rand.N(wait)+1) //nolint:gosec // jitter is no secret
		wait = min(2*wait, sub.s.backoffMax)
		var err error
		if f, err = sub.open(); err != nil && sub.ctx.Err() == nil {
			if what := consuming.failed(err); what != nil {
				sub.s.logger.Warn("rabbitmqbroker: cannot consume, will go on trying", append(what, "topic", sub.topic)...)
			}
		}
	}
}

// finish gives back what the consumer has not seen, waits for what it is handling, and leaves the broker.
func (sub *subscription) finish(f *feed) {
	if f == nil {
		sub.handling.Wait()
		return
	}
	// The deliveries end once the broker has heard of it, or with the channel.
	var canceling sync.WaitGroup
	canceling.Go(func() { _ = f.channel.Cancel(f.tag, false) })
	for d := range f.deliveries {
		_ = d.Nack(false, true) // or the end of the channel gives it back
	}
	sub.handling.Wait()
	f.end()
	canceling.Wait()
}

// pump hands messages over until the feed or the subscription is over. It reports whether there were any. It takes no slot
// before there is a message for it: parts of bundles may be waiting for one.
func (sub *subscription) pump(f *feed) (served bool) {
	for {
		select {
		case d, open := <-f.deliveries:
			if !open {
				return served
			}
			served = true
			if !sub.acquire(f) {
				_ = d.Nack(false, true) // or the end of the channel gives it back
				return served
			}
			sub.deliver(f, d)
		case <-sub.ctx.Done():
			return served
		}
	}
}

// acquire waits for a slot, in turn with whoever waits for one; false if the subscription or the feed is over.
func (sub *subscription) acquire(f *feed) bool {
	select {
	case sub.slots <- struct{}{}:
		return true
	case <-sub.ctx.Done():
	case _ = <-f.gone:
	}
	return false
}

func (sub *subscription) release() { <-sub.slots }

// deliver hands one message to the consumer, or a bundle's, for the first of which there is a slot; what becomes of them is
// waited for elsewhere.
func (sub *subscription) deliver(f *feed, d amqp.Delivery) {
	msg, err := sub.s.unmarshal(d)
	var parts []*message.Message
	if err == nil {
		parts, err = unbundled(msg)
	}
	if err != nil {
		sub.s.logger.Error("rabbitmqbroker: cannot read a message, giving it back",
			"topic", sub.topic, "id", d.MessageId, "error", err)
		sub.handling.Go(func() {
			defer sub.release()
			sub.nack(d)
		})
		return
	}
	if parts != nil {
		sub.deliverParts(f, d, parts)
		return
	}
	ctx, cancel := context.WithCancel(sub.caller) // Close leaves a handler the time to finish
	msg.SetContext(ctx)
	if sub.offer(f, msg) {
		sub.handling.Go(func() {
			defer sub.release()
			defer cancel()
			sub.settle(d, msg)
		})
		return
	}
	_ = d.Nack(false, true) // or the end of the channel gives it back
	cancel()
	sub.release()
}

// offer hands a message to the consumer; false if the subscription or the feed is over.
func (sub *subscription) offer(f *feed, msg *message.Message) bool {
	select {
	case sub.out <- msg:
		return true
	case <-sub.ctx.Done():
	case _ = <-f.gone:
	}
	return false
}

// verdict waits for what the consumer says to a message; said is false if it says nothing before the drain timeout ends.
func (sub *subscription) verdict(msg *message.Message) (acked, said bool) {
	ending := sub.ctx.Done()
	var grace <-chan time.Time
	for {
		select {
		case <-msg.Acked():
			return true, true
		case <-msg.Nacked():
			return false, true
		case <-ending:
			ending = nil
			timer := time.NewTimer(sub.s.drainTimeout)
			defer timer.Stop()
			grace = timer.C
		case <-grace:
			return false, false
		}
	}
}

// settle waits for what the consumer says and passes it on. An ack that does not reach the broker leads to a redelivery.
func (sub *subscription) settle(d amqp.Delivery, msg *message.Message) {
	switch acked, said := sub.verdict(msg); {
	case said && acked:
		_ = d.Ack(false)
	case said:
		sub.nack(d)
	default:
		_ = d.Nack(false, true)
	}
}

func (sub *subscription) nack(d amqp.Delivery) {
	if sub.s.nackDelay > 0 {
		pauseFor(sub.ctx, sub.s.nackDelay)
	}
	_ = d.Nack(false, !sub.s.config.Consume.NoRequeueOnNack)
}

// unmarshal reads a message. Marshalers that take headers for metadata want text; RabbitMQ's own headers are none, such as
// the count with which quorum queues redeliver.
func (s *settings) unmarshal(d amqp.Delivery) (*message.Message, error) {
	msg, err := s.config.Marshaler.Unmarshal(d)
	if err == nil || !hasForeignHeaders(d.Headers) {
		return msg, err
	}
	d.Headers = maps.Clone(d.Headers)
	for name, value := range d.Headers {
		if !strings.HasPrefix(name, "x-") {
			continue
		}
		switch v := value.(type) {
		case string:
		case int64:
			d.Headers[name] = strconv.FormatInt(v, 10)
		case int32:
			d.Headers[name] = strconv.FormatInt(int64(v), 10)
		case bool:
			d.Headers[name] = strconv.FormatBool(v)
		default:
			delete(d.Headers, name)
		}
	}
	return s.config.Marshaler.Unmarshal(d)
}

func hasForeignHeaders(headers amqp.Table) bool {
	for name, value := range headers {
		if _, text := value.(string); !text && strings.HasPrefix(name, "x-") {
			return true
		}
	}
	return false
}
