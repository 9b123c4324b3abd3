//go:build services

package rabbitmqbroker_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
)

// subscriberOf returns a subscriber that ends with the test.
func subscriberOf(t *testing.T, b *rabbitmqbroker.Broker, opts ...rabbitmqbroker.SubscriberOption) *rabbitmqbroker.Subscriber {
	t.Helper()
	sub, err := b.Subscriber(append([]rabbitmqbroker.SubscriberOption{
		rabbitmqbroker.WithPrefetch(100), rabbitmqbroker.WithNackDelay(time.Millisecond),
	}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, sub.Close()) })
	return sub
}

func subscribe(t *testing.T, sub *rabbitmqbroker.Subscriber, topic string) <-chan *message.Message {
	t.Helper()
	messages, err := sub.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	return messages
}

func await(t *testing.T, messages <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case msg := <-messages:
		require.NotNil(t, msg, "the subscription ended")
		return msg
	case <-time.After(patience):
		require.Fail(t, "no message")
		return nil
	}
}

// awaitReady waits until a queue has so many messages that no consumer holds.
func awaitReady(t *testing.T, ch *amqp.Channel, queue string, want int) {
	t.Helper()
	var state amqp.Queue
	require.Eventually(t, func() bool {
		var err error
		state, err = ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		return err == nil && state.Messages == want
	}, patience, 20*time.Millisecond, "%d messages", want)
}

func TestSubscriber_redeliversWhatIsNackedAndSaysHowOften(t *testing.T) {
	b := open(t, testenv.RabbitMQ(t), rabbitmqbroker.WithQuorumQueues())
	one := attempts("orders", 1)
	one[0].Metadata = map[string]string{"kind": "created"}
	requireOutcome(t, reliable.Acked, only(publish(t, b, one...)))
	messages := subscribe(t, subscriberOf(t, b), "orders")
	for delivery := range 4 {
		msg := await(t, messages)
		assert.Equal(t, string(one[0].ID), msg.UUID)
		assert.Equal(t, "created", msg.Metadata.Get("kind"))
		if delivery > 0 { // quorum queues count, and watermill-amqp's marshaler cannot read the count
			assert.Equal(t, fmt.Sprint(delivery), msg.Metadata.Get("x-delivery-count"))
		}
		msg.Nack()
	}
	await(t, messages).Ack()
}

func TestSubscriber_dropsWhatIsNackedIfTheConfigSaysSo(t *testing.T) {
	address := testenv.RabbitMQ(t)
	config := open(t, address).Config()
	config.Consume.NoRequeueOnNack = true
	b, err := rabbitmqbroker.New(config, quiet())
	require.NoError(t, err)
	defer b.Close()
	publish(t, b, attempts("orders", 2)...)
	sub := subscriberOf(t, b)
	messages := subscribe(t, sub, "orders")
	first := await(t, messages)
	first.Nack()
	second := await(t, messages)
	assert.NotEqual(t, first.UUID, second.UUID)
	second.Ack()
	require.NoError(t, sub.Close())
	assert.Zero(t, depth(t, admin(t, address), "orders"), "it went back to its queue")
}

func TestSubscriber_holdsNoMoreThanItsPrefetch(t *testing.T) {
	address := testenv.RabbitMQ(t)
	b := open(t, address)
	publish(t, b, attempts("orders", 20)...)
	sub := subscriberOf(t, b, rabbitmqbroker.WithPrefetch(7))
	messages := subscribe(t, sub, "orders")
	held := await(t, messages)
	awaitReady(t, admin(t, address), "orders", 13)
	held.Ack()
	require.NoError(t, sub.Close())
	awaitReady(t, admin(t, address), "orders", 19)
}

func TestSubscriber_hasAsManyMessagesWithTheHandlerAsItsConcurrency(t *testing.T) {
	b := open(t, testenv.RabbitMQ(t))
	batch := attempts("orders", 8)
	publish(t, b, batch...)
	messages := subscribe(t, subscriberOf(t, b, rabbitmqbroker.WithConcurrency(3), rabbitmqbroker.WithDrainTimeout(0)), "orders")
	var held []*message.Message
	for i := range 3 {
		msg := await(t, messages)
		assert.Equal(t, string(batch[i].ID), msg.UUID, "out of order")
		held = append(held, msg)
	}
	select {
	case msg := <-messages:
		assert.Fail(t, "a fourth one", "%v", msg)
	case <-time.After(100 * time.Millisecond): // nothing says that nothing will come
	}
	held[1].Ack()
	assert.Equal(t, string(batch[3].ID), await(t, messages).UUID)
}

func TestSubscriber_closingLeavesHandlersTheTimeToFinish(t *testing.T) {
	address := testenv.RabbitMQ(t)
	b := open(t, address)
	publish(t, b, attempts("orders", 3)...)
	sub := subscriberOf(t, b, rabbitmqbroker.WithDrainTimeout(patience))
	messages := subscribe(t, sub, "orders")
	handled := await(t, messages)
	closed := make(chan error, 1)
	go func() { closed <- sub.Close() }()
	awaitReady(t, admin(t, address), "orders", 2) // what nobody has seen is given back at once
	require.NoError(t, handled.Context().Err(), "the handler is interrupted")
	handled.Ack()
	require.NoError(t, <-closed)
	_, open := <-messages
	assert.False(t, open, "the channel is still open")
	awaitReady(t, admin(t, address), "orders", 2)
	_, err := sub.Subscribe(t.Context(), "orders")
	require.ErrorIs(t, err, reliable.ErrClosed)
	require.ErrorIs(t, sub.SubscribeInitialize("orders"), reliable.ErrClosed)
}

func TestSubscriber_closingGivesBackWhatAHandlerDoesNotFinish(t *testing.T) {
	address := testenv.RabbitMQ(t)
	b := open(t, address)
	publish(t, b, attempts("orders", 1)...)
	sub := subscriberOf(t, b, rabbitmqbroker.WithDrainTimeout(0))
	await(t, subscribe(t, sub, "orders"))
	require.NoError(t, sub.Close())
	awaitReady(t, admin(t, address), "orders", 1)
}

func TestSubscriber_oneSubscriptionEndsWithItsContext(t *testing.T) {
	b := open(t, testenv.RabbitMQ(t))
	sub := subscriberOf(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	ending, err := sub.Subscribe(ctx, "orders")
	require.NoError(t, err)
	staying := subscribe(t, sub, "payments")
	publish(t, b, attempts("orders", 1)...)
	msg := await(t, ending)
	cancel()
	require.ErrorIs(t, msg.Context().Err(), context.Canceled, "the message's context goes on")
	msg.Nack()
	_, open := <-ending
	assert.False(t, open)
	publish(t, b, attempts("payments", 1)...)
	await(t, staying).Ack()
	await(t, subscribe(t, sub, "orders")).Ack()
}

func TestSubscriber_failsAtFirstIfTheBrokerIsNotThere(t *testing.T) {
	b, err := rabbitmqbroker.NewFromURL(nobody, quiet())
	require.NoError(t, err)
	defer b.Close()
	sub := subscriberOf(t, b)
	_, err = sub.Subscribe(t.Context(), "orders")
	var refused *rabbitmqbroker.ConnectError
	require.ErrorAs(t, err, &refused)
	require.ErrorAs(t, sub.SubscribeInitialize("orders"), &refused)
}

func TestSubscriber_waitsForASilentBrokerNoLongerThanItsContext(t *testing.T) {
	address := testenv.RabbitMQ(t)
	proxy := faultproxy.New(t, hostOf(t, address))
	sub := subscriberOf(t, open(t, via(t, address, proxy.Addr())))
	subscribe(t, sub, "orders")
	proxy.Stall(faultproxy.Downstream, true)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := sub.Subscribe(ctx, "payments")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	proxy.CutAll()
}

func TestSubscriber_consumesAgainWhenItsQueueWasDeleted(t *testing.T) {
	address := testenv.RabbitMQ(t)
	b := open(t, address)
	messages := subscribe(t, subscriberOf(t, b), "orders")
	_, err := admin(t, address).QueueDelete("orders", false, false, false)
	require.NoError(t, err)
	eventuallyAcked(t, b) // the publisher finds out by a return
	await(t, messages).Ack()
}

func TestSubscriber_givesBackWhatItCannotRead(t *testing.T) {
	address := testenv.RabbitMQ(t)
	b := open(t, address)
	messages := subscribe(t, subscriberOf(t, b), "orders")
	ch := admin(t, address)
	require.NoError(t, ch.Publish("", "orders", true, false, amqp.Publishing{Headers: amqp.Table{"number": int32(7)}}))
	good := attempts("orders", 1)
	publish(t, b, good...)
	msg := await(t, messages)
	assert.Equal(t, string(good[0].ID), msg.UUID, "what cannot be read is in the way")
	msg.Ack()
}

func TestSubscriber_manySubscriptionsShareManyMessages(t *testing.T) {
	const total, subscriptions = 3000, 20
	b := open(t, testenv.RabbitMQ(t))
	sub := subscriberOf(t, b, rabbitmqbroker.WithConcurrency(4))
	var (
		mu       sync.Mutex
		received = make(map[string]int)
		taken    [subscriptions]int
		handlers sync.WaitGroup
	)
	for i := range subscriptions {
		messages := subscribe(t, sub, "orders")
		handlers.Go(func() {
			for msg := range messages {
				mu.Lock()
				received[msg.UUID]++
				taken[i]++
				mu.Unlock()
				msg.Ack()
			}
		})
	}
	for range 10 {
		publish(t, b, attempts("orders", total/10)...)
	}
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(received) == total
	}, patience, 20*time.Millisecond)
	require.NoError(t, sub.Close())
	handlers.Wait()
	for id, n := range received {
		require.Equal(t, 1, n, "copies of %s", id)
	}
	for i := range taken {
		assert.NotZero(t, taken[i], "the broker deals them out in turn")
	}
}

// TestSubscriber_outlivesTheBroker runs handlers through two restarts of the broker and cuts of its connections.
func TestSubscriber_outlivesTheBroker(t *testing.T) {
	server := testservers.StartRabbitMQ(t)
	proxy := faultproxy.New(t, server.Addr())
	b := open(t, server.URLVia(proxy.Addr()), rabbitmqbroker.WithQuorumQueues())
	sub := subscriberOf(t, b, rabbitmqbroker.WithConcurrency(4))

	var (
		mu       sync.Mutex
		received = make(map[string]int)
		handling atomic.Int32
		handlers sync.WaitGroup
	)
	for range 2 {
		messages := subscribe(t, sub, "orders")
		for range 4 {
			handlers.Go(func() {
				for msg := range messages {
					assert.LessOrEqual(t, handling.Add(1), int32(8), "more handlers than the concurrency allows")
					mu.Lock()
					received[msg.UUID]++
					first := received[msg.UUID] == 1
					mu.Unlock()
					handling.Add(-1)
					if first && msg.UUID[len(msg.UUID)-1] == '0' {
						msg.Nack()
						continue
					}
					msg.Ack()
				}
			})
		}
	}
	l := startLoad(t, b)
	for _, disturb := range []func(){
		func() { server.Stop(); server.Start() },
		proxy.CutAll,
		func() { server.Kill(); server.Start() },
		proxy.CutAll,
	} {
		l.awaitAcks(500)
		disturb()
	}
	l.awaitAcks(500)
	l.stop()
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		for id, confirm := range l.confirms {
			if confirm.Outcome == reliable.Acked && received[string(id)] == 0 {
				return false
			}
		}
		return true
	}, patience, 20*time.Millisecond, "something confirmed never arrived")
	require.NoError(t, sub.Close())
	handlers.Wait()
	t.Logf("%d messages confirmed, %d unknown", l.acked.Load(), l.unknown.Load())
}
