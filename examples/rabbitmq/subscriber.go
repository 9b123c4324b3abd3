package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/rabbitmq/amqp091-go"
)

// subscriber consumes durable queues, one message at a time, over outages of the broker. It reads what watermill-amqp's
// marshaler wrote, and stands in for wamqp.NewSubscriber, which has a data race when it loses its connection (v2.1.3): the
// tests run this example under the race detector.
type subscriber struct {
	url  string
	life context.Context //nolint:containedctx // subscriptions end with Close, whoever began them
	end  context.CancelFunc
	work sync.WaitGroup
}

func newSubscriber(url string) *subscriber {
	s := &subscriber{url: url}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// Subscribe declares the queue named topic and consumes it until ctx ends or Close.
func (s *subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	conn, deliveries, err := s.consume(topic)
	if err != nil {
		return nil, fmt.Errorf("consume queue %s: %w", topic, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	detach := context.AfterFunc(s.life, cancel)
	out := make(chan *message.Message)
	s.work.Go(func() {
		defer close(out)
		defer cancel()
		defer detach()
		for ctx.Err() == nil {
			if err == nil {
				deliver(ctx, deliveries, out)
				_ = conn.Close() // an error says that the broker was faster
			}
			select {
			case <-time.After(100 * time.Millisecond):
				conn, deliveries, err = s.consume(topic)
			case <-ctx.Done():
			}
		}
		if err == nil {
			_ = conn.Close()
		}
	})
	return out, nil
}

// consume connects and begins to consume.
func (s *subscriber) consume(queue string) (*amqp091.Connection, <-chan amqp091.Delivery, error) {
	conn, err := amqp091.DialConfig(s.url, amqp091.Config{Dial: amqp091.DefaultDial(5 * time.Second)})
	if err != nil {
		return nil, nil, err
	}
	deliveries, err := func() (<-chan amqp091.Delivery, error) {
		channel, err := conn.Channel()
		if err != nil {
			return nil, err
		}
		if _, err := channel.QueueDeclare(queue, true, false, false, false, nil); err != nil {
			return nil, err
		}
		if err := channel.Qos(100, 0, false); err != nil {
			return nil, err
		}
		return channel.Consume(queue, "", false, false, false, false, nil)
	}()
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, deliveries, nil
}

// deliver hands messages over until the connection is lost or ctx ends. What is not acked by then comes again.
func deliver(ctx context.Context, deliveries <-chan amqp091.Delivery, out chan<- *message.Message) {
	for {
		select {
		case <-ctx.Done():
			return
		case delivery, open := <-deliveries:
			if !open || !handle(ctx, delivery, out) {
				return
			}
		}
	}
}

// handle brings one message to its consumer, and reports whether the broker heard what came of it.
func handle(ctx context.Context, delivery amqp091.Delivery, out chan<- *message.Message) bool {
	msg, err := wamqp.DefaultMarshaler{}.Unmarshal(delivery)
	if err != nil {
		return delivery.Reject(false) == nil // never readable
	}
	msg.SetContext(ctx)
	select {
	case out <- msg:
	case <-ctx.Done():
		return false
	}
	select {
	case <-msg.Acked():
		return delivery.Ack(false) == nil
	case <-msg.Nacked():
		return delivery.Nack(false, true) == nil
	case <-ctx.Done():
		return false
	}
}

// Close ends all subscriptions and waits for them.
func (s *subscriber) Close() error {
	s.end()
	s.work.Wait()
	return nil
}
