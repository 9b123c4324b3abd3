package natsbroker_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/reliable"
)

func newSubscriber(t *testing.T, b *natsbroker.Broker, group string, opts ...natsbroker.SubscriberOption) *natsbroker.Subscriber {
	t.Helper()
	sub, err := b.Subscriber(group, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, sub.Close()) })
	return sub
}

func subscribe(t *testing.T, sub *natsbroker.Subscriber, topic string) <-chan *message.Message {
	t.Helper()
	messages, err := sub.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	return messages
}

// take returns the next message, neither acked nor nacked.
func take(t *testing.T, messages <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case msg, ok := <-messages:
		require.True(t, ok, "the channel is closed")
		return msg
	case <-within(t).Done():
		require.Fail(t, "no message")
		return nil
	}
}

func send(t *testing.T, b *natsbroker.Broker, topic string, n int) []reliable.Attempt {
	t.Helper()
	batch := attempts(topic, n)
	publishUntilAcked(t, b, batch)
	return batch
}

func TestSubscriber_goesOnAfterARestartOfTheServer(t *testing.T) {
	server := startServer(t)
	b := declared(t, newBroker(t, server, natsbroker.WithReconnectWait(time.Millisecond, 20*time.Millisecond)))
	messages := subscribe(t, newSubscriber(t, b, "billing"), "orders.created")
	for range 3 {
		for _, sent := range send(t, b, "orders.created", 10) {
			assert.Equal(t, string(sent.ID), next(t, messages).UUID)
		}
		require.NoError(t, server.Restart(t.Context()))
	}
	sent := send(t, b, "orders.created", 1)
	held := take(t, messages) // acked on a connection that its message did not come on
	require.NoError(t, server.Restart(t.Context()))
	held.Ack()
	assert.Equal(t, string(sent[0].ID), held.UUID)
	last := send(t, b, "orders.created", 1)[0]
	require.Eventually(t, func() bool { return next(t, messages).UUID == string(last.ID) }, patience, time.Millisecond)
}

func TestSubscriber_givesBackAtOnceWhatItHeldWhenClosed(t *testing.T) {
	b := declared(t, newBroker(t, startServer(t)))
	wait := []natsbroker.SubscriberOption{
		natsbroker.WithAckWait(time.Hour), natsbroker.WithCloseTimeout(0), natsbroker.WithPrefetch(20),
	}
	want := make(map[string]bool)
	for _, sent := range send(t, b, "orders.created", 500) {
		want[string(sent.ID)] = true
	}
	for range 5 { // each is closed in the middle of what is being delivered to it
		sub := newSubscriber(t, b, "billing", wait...)
		messages := subscribe(t, sub, "orders.created")
		delete(want, next(t, messages).UUID)
		take(t, messages)
		require.NoError(t, sub.Close())
		_, open := <-messages
		assert.False(t, open)
	}
	messages := subscribe(t, newSubscriber(t, b, "billing", wait...), "orders.created")
	for len(want) > 0 {
		delete(want, next(t, messages).UUID)
	}
}

func TestSubscriber_aHandlerMayFinishWhileItIsClosed(t *testing.T) {
	b := declared(t, newBroker(t, startServer(t)))
	send(t, b, "orders.created", 1)
	sub := newSubscriber(t, b, "billing", natsbroker.WithCloseTimeout(time.Hour))
	handled := take(t, subscribe(t, sub, "orders.created"))
	closed := make(chan error, 1)
	go func() { closed <- sub.Close() }()
	_, err := sub.Subscribe(t.Context(), "orders.created")
	for err == nil { // until Close has begun
		_, err = sub.Subscribe(t.Context(), "orders.created")
	}
	require.ErrorIs(t, err, reliable.ErrClosed)
	require.NoError(t, handled.Context().Err(), "the handler is not interrupted")
	handled.Ack()
	require.NoError(t, <-closed)

	second := send(t, b, "orders.created", 1)[0]
	messages := subscribe(t, newSubscriber(t, b, "billing"), "orders.created")
	assert.Equal(t, string(second.ID), next(t, messages).UUID, "the first one was acked")
}

func TestSubscriber_keepsAMessageFromOthersHoweverLongItsHandlerTakes(t *testing.T) {
	const ackWait = 2 * time.Second
	server := startServer(t)
	b := declared(t, newBroker(t, server))
	options := []natsbroker.SubscriberOption{natsbroker.WithAckWait(ackWait)}
	first := subscribe(t, newSubscriber(t, b, "billing", options...), "orders.created")
	sent := send(t, b, "orders.created", 1)
	slow := take(t, first)
	second := subscribe(t, newSubscriber(t, b, "billing", options...), "orders.created")
	select {
	case msg := <-second:
		assert.Fail(t, "delivered twice", msg.UUID)
	case <-time.After(3 * ackWait): // nothing tells that something does not happen
	}
	assert.Equal(t, string(sent[0].ID), slow.UUID)
	slow.Ack()
}

func TestSubscriber_redeliversWhatWasNackedAfterTheDelay(t *testing.T) {
	b := declared(t, newBroker(t, startServer(t)))
	const delay = 200 * time.Millisecond
	var mu sync.Mutex
	var asked []int
	sub := newSubscriber(t, b, "billing", natsbroker.WithNackDelay(func(deliveries int) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, deliveries)
		return delay
	}))
	messages := subscribe(t, sub, "orders.created")
	send(t, b, "orders.created", 1)
	first := take(t, messages)
	nackedAt := time.Now()
	first.Nack()
	again := next(t, messages)
	assert.GreaterOrEqual(t, time.Since(nackedAt), delay)
	assert.Equal(t, first.UUID, again.UUID)
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, []int{1}, asked)
}

func TestSubscriber_keepsTheOrderOverNacksWhenOneMayBePending(t *testing.T) {
	b := declared(t, newBroker(t, startServer(t)))
	sub := newSubscriber(t, b, "billing", natsbroker.WithMaxAckPending(1),
		natsbroker.WithNackDelay(func(int) time.Duration { return 20 * time.Millisecond }))
	messages := subscribe(t, sub, "orders.created")
	for _, sent := range send(t, b, "orders.created", 10) {
		refused := take(t, messages)
		refused.Nack()
		assert.Equal(t, string(sent.ID), refused.UUID)
		assert.Equal(t, string(sent.ID), next(t, messages).UUID)
	}
}

func TestSubscriber_handlesAsManyAtOnceAsConfigured(t *testing.T) {
	b := declared(t, newBroker(t, startServer(t)))
	messages := subscribe(t, newSubscriber(t, b, "billing", natsbroker.WithConcurrency(3)), "orders.created")
	send(t, b, "orders.created", 4)
	var held []*message.Message
	for range 3 {
		held = append(held, take(t, messages))
	}
	for _, msg := range held {
		msg.Ack()
	}
	next(t, messages)
}

func TestSubscriber_makesAConsumerAgainThatWasDeleted(t *testing.T) {
	server := startServer(t)
	b := declared(t, newBroker(t, server))
	messages := subscribe(t, newSubscriber(t, b, "billing", natsbroker.WithConsumer(func(c *jetstream.ConsumerConfig) {
		c.Durable = "by-hand"
	})), "orders.created")
	send(t, b, "orders.created", 1)
	next(t, messages)
	_, js := client(t, server)
	require.NoError(t, js.DeleteConsumer(within(t), "orders", "by-hand"))
	last := send(t, b, "orders.created", 1)[0]
	require.Eventually(t, func() bool { return next(t, messages).UUID == string(last.ID) }, patience, time.Millisecond)
}

func TestSubscriber_endsWithItsContext(t *testing.T) {
	b := declared(t, newBroker(t, startServer(t)))
	send(t, b, "orders.created", 1)
	sub := newSubscriber(t, b, "billing")
	ctx, cancel := context.WithCancel(t.Context())
	messages, err := sub.Subscribe(ctx, "orders.created")
	require.NoError(t, err)
	next(t, messages)
	cancel()
	_, open := <-messages
	assert.False(t, open)
}

func TestSubscribe_saysWhatIsMissing(t *testing.T) {
	b := newBroker(t, startServer(t))
	sub := newSubscriber(t, b, "billing")
	_, err := sub.Subscribe(t.Context(), "orders.created")
	require.ErrorContains(t, err, "Declare")
	_, err = sub.Subscribe(t.Context(), "orders.*")
	require.ErrorIs(t, err, reliable.ErrInvalid)
	require.NoError(t, sub.SubscribeInitialize("orders.created"))
	subscribe(t, sub, "orders.created")
	require.Error(t, sub.SubscribeInitialize("nowhere"))

	unreachable, err := natsbroker.New(natsbroker.Config{URL: "nats://127.0.0.1:1"})
	require.NoError(t, err)
	_, err = newSubscriber(t, unreachable, "billing").Subscribe(t.Context(), "orders.created")
	require.Error(t, err)
	require.NoError(t, unreachable.Close())
}

func TestSubscriber_groupsAndTopicsHaveConsumersOfTheirOwn(t *testing.T) {
	server := startServer(t)
	b := declared(t, newBroker(t, server))
	for _, group := range []string{"a.b", "a_b", "a b", "a/b"} {
		for _, topic := range []string{"orders.x", "orders.x.y"} {
			subscribe(t, newSubscriber(t, b, group), topic)
		}
	}
	_, js := client(t, server)
	stream, err := js.Stream(within(t), "orders")
	require.NoError(t, err)
	assert.Equal(t, 8, stream.CachedInfo().State.Consumers)
}

// What a subscription holds when it ends must not be answered to its own question again: the server would take it for
// delivered until the ack wait.
func TestSubscribe_whatASubscriptionHeldComesToTheNextOneSoon(t *testing.T) {
	server := startServer(t)
	b := declared(t, newBroker(t, server))
	publish(t, b, attempts("orders.created", 5))
	receive(t, b, 5)
	sub, err := b.Subscriber("billing", natsbroker.WithNackDelay(func(int) time.Duration { return 100 * time.Millisecond }))
	require.NoError(t, err)
	defer sub.Close()
	for range 5 {
		ctx, cancel := context.WithCancel(context.Background())
		messages, err := sub.Subscribe(ctx, "orders.created")
		require.NoError(t, err)
		seen := make(map[string]bool)
		first := <-messages
		seen[first.UUID] = true
		time.Sleep(50 * time.Millisecond) // until the others are held too
		cancel()
		first.Nack()
		for range messages {
		}

		ctx, cancel = context.WithCancel(context.Background())
		messages, err = sub.Subscribe(ctx, "orders.created")
		require.NoError(t, err)
		clear(seen)
		timeout := time.After(20 * time.Second) // less than the ack wait
		for len(seen) < 5 {
			select {
			case msg := <-messages:
				seen[msg.UUID] = true
				msg.Nack()
			case <-timeout:
				require.Len(t, seen, 5, "of five")
			}
		}
		cancel()
		for range messages {
		}
	}
}
