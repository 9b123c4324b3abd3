package embedded_test

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/reliable/backend"
)

func openBackend(t *testing.T, rawURL string) backend.Broker {
	t.Helper()
	kinds := backend.Brokers{embedded.Backend(), natsbroker.Backend()}
	broker, err := kinds.Open(t.Context(), rawURL)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, broker.Close()) })
	return broker
}

func publish(t *testing.T, broker backend.Broker, topic string, ids ...string) {
	t.Helper()
	publisher := broker.Watermill()
	for _, id := range ids {
		require.NoError(t, publisher.Publish(topic, message.NewMessage(id, []byte(id))))
	}
	require.NoError(t, publisher.Close())
}

func receiveOne(t *testing.T, broker backend.Broker, group, topic string) string {
	t.Helper()
	subscriber, err := broker.Subscribe(group)
	require.NoError(t, err)
	messages, err := subscriber.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	var id string
	select {
	case msg := <-messages:
		id = msg.UUID
		msg.Ack()
	case <-time.After(30 * time.Second):
		t.Error("nothing was received")
	}
	require.NoError(t, subscriber.Close())
	return id
}

func TestBackend_keepsMessagesInItsFolder(t *testing.T) {
	rawURL := "nats-embedded:" + t.TempDir() + "?sync_always=true"
	broker := openBackend(t, rawURL)
	require.NoError(t, broker.Declare(t.Context(), "orders.placed"))
	publish(t, broker, "orders.placed", "a")
	require.NoError(t, broker.Close())
	require.NoError(t, broker.Close(), "closing again")

	broker = openBackend(t, rawURL)
	assert.Equal(t, "a", receiveOne(t, broker, "shipping", "orders.placed"))
	assert.Equal(t, "a", receiveOne(t, broker, "billing", "orders.placed"), "another group receives it too")
}

func TestBackend_declaresStreamsForTopics(t *testing.T) {
	for name, parameters := range map[string]string{
		"a stream for each topic":  "",
		"one stream for all":       "?stream=SHOP",
		"a stream with a wildcard": "?stream=SHOP&subjects=orders.>",
	} {
		t.Run(name, func(t *testing.T) {
			broker := openBackend(t, "nats-embedded:"+t.TempDir()+parameters)
			topics := []string{"orders.placed", "orders.paid", "orders_placed", "elsewhere"}
			require.NoError(t, broker.Declare(t.Context(), topics...))
			require.NoError(t, broker.Declare(t.Context(), topics...), "declaring again")
			for _, topic := range topics {
				publish(t, broker, topic, "to "+topic)
			}
			for _, topic := range topics {
				assert.Equal(t, "to "+topic, receiveOne(t, broker, "shipping", topic))
			}
		})
	}
}

func TestBackend_severalProcessesDeclareAtOnce(t *testing.T) {
	server := start(t, t.TempDir(), embedded.WithListener(0))
	const processes = 4
	errs := make(chan error, processes)
	topics := []string{"a", "b", "c", "d", "e"}
	for range processes {
		broker := openBackend(t, server.URL()+"?stream=SHOP")
		go func() { errs <- broker.Declare(context.WithoutCancel(t.Context()), topics...) }()
	}
	for range processes {
		assert.NoError(t, <-errs)
	}
	broker := openBackend(t, server.URL())
	for _, topic := range topics {
		publish(t, broker, topic, "to "+topic)
	}
}
