//go:build services

package rabbitmqbroker_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/schedulertest"
)

func TestScheduler_conforms(t *testing.T) {
	t.Run("each message by itself", func(t *testing.T) {
		t.Parallel()
		schedulerConforms(t, func(t testing.TB, url, topic string) <-chan *message.Message { return consume(t, url, topic) })
	})
	t.Run("bundles", func(t *testing.T) {
		t.Parallel()
		schedulerConforms(t, apart, rabbitmqbroker.WithBundles())
	})
}

func schedulerConforms(
	t *testing.T, receive func(t testing.TB, url, topic string) <-chan *message.Message, opts ...rabbitmqbroker.SchedulerOption,
) {
	var topics atomic.Int64
	subject := func(t testing.TB, url string) schedulertest.Subject {
		open := func(t testing.TB) *rabbitmqbroker.Scheduler {
			return scheduler(t, url, []time.Duration{time.Second, 3 * time.Second}, opts...)
		}
		current := open(t)
		return schedulertest.Subject{
			Scheduler: current,
			Topic:     func(testing.TB) string { return fmt.Sprint("checks-", topics.Add(1)) },
			Subscribe: func(t testing.TB, topic string) <-chan *message.Message { return receive(t, url, topic) },
			Reopen: func(t testing.TB) reliable.Scheduler {
				require.NoError(t, current.Close())
				return open(t)
			},
		}
	}
	schedulertest.Run(t, schedulertest.Harness{
		Delay: time.Second, Tolerance: time.Second, TooLong: 4 * time.Second,
		Open: func(t testing.TB) schedulertest.Subject { return subject(t, testenv.RabbitMQ(t)) },
		OpenToCrash: func(t testing.TB) schedulertest.Subject {
			server := testservers.StartRabbitMQ(t)
			s := subject(t, server.URL())
			// All queues are there before the check begins, and outlive the kill.
			s.Topic = func(testing.TB) string { return "warm" }
			for _, delay := range []time.Duration{time.Second, 3 * time.Second} {
				for range 8 { // one after the other they take turns with the shards
					warm := reliable.Envelope{ID: reliable.NewID(), Topic: "warm"}
					require.NoError(t, s.Scheduler.Schedule(t.Context(), delay, warm))
				}
			}
			channel := admin(t, server.URL())
			require.Eventually(t, func() bool { return depth(t, channel, "warm") == 16 }, patience, 50*time.Millisecond)
			_, err := channel.QueuePurge("warm", false)
			require.NoError(t, err)
			server.KeepQueues()
			s.Crash = func(testing.TB) {
				server.Kill()
				server.Start()
			}
			return s
		},
	})
}

// apart reads a quorum queue by the subscriber that takes bundles apart.
func apart(t testing.TB, url, topic string) <-chan *message.Message {
	t.Helper()
	s, err := open(t, url, rabbitmqbroker.WithQuorumQueues()).Subscriber(rabbitmqbroker.WithPrefetch(100), rabbitmqbroker.WithConcurrency(100))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	messages, err := s.Subscribe(context.WithoutCancel(t.Context()), topic)
	require.NoError(t, err)
	return messages
}

func scheduler(t testing.TB, url string, delays []time.Duration, opts ...rabbitmqbroker.SchedulerOption) *rabbitmqbroker.Scheduler {
	t.Helper()
	s, err := open(t, url, rabbitmqbroker.WithQuorumQueues()).Scheduler(delays, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

// consume reads a quorum queue until the test ends, over as many connections as it takes.
func consume(t testing.TB, url, queue string) <-chan *message.Message {
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	messages, ended := make(chan *message.Message), make(chan struct{})
	go func() {
		defer close(ended)
		defer close(messages)
		for ctx.Err() == nil {
			if err := consumeOnce(ctx, url, queue, messages); err != nil {
				select {
				case <-time.After(50 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return messages
}

func consumeOnce(ctx context.Context, url, queue string, messages chan<- *message.Message) error {
	conn, err := amqp.Dial(url)
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	args := amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum}
	if _, err := ch.QueueDeclare(queue, true, false, false, false, args); err != nil {
		return err
	}
	if err := ch.Qos(1000, 0, false); err != nil {
		return err
	}
	deliveries, err := ch.ConsumeWithContext(ctx, queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	for delivery := range deliveries {
		delete(delivery.Headers, "x-death")          // a table, which Watermill's marshaler takes for an error,
		delete(delivery.Headers, "x-delivery-count") // a number, the same
		msg, err := wamqp.DefaultMarshaler{}.Unmarshal(delivery)
		if err != nil {
			return err
		}
		select {
		case messages <- msg:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-msg.Acked():
			err = delivery.Ack(false)
		case <-msg.Nacked():
			err = delivery.Nack(false, true)
		case <-ctx.Done():
			return nil
		}
		if err != nil {
			return err
		}
	}
	return amqp.ErrClosed
}

func TestScheduler_reportsAllThatIsWrongTogether(t *testing.T) {
	b := open(t, "amqp://nobody:secret@127.0.0.1:1/")
	_, err := b.Scheduler([]time.Duration{0, time.Microsecond, 48 * time.Hour}, rabbitmqbroker.WithShards(0))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, part := range []string{"0s", "1µs", "48h", "WithShards"} {
		assert.ErrorContains(t, err, part)
	}
	_, err = b.Scheduler(nil)
	require.ErrorIs(t, err, reliable.ErrInvalid)
}
