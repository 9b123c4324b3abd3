//go:build services

package rabbitmqbroker_test

import (
	"net/url"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable/backend"
)

func openBackend(t *testing.T, rawURL string) backend.Broker {
	t.Helper()
	broker, err := backend.Brokers{rabbitmqbroker.Backend()}.Open(t.Context(), rawURL)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, broker.Close()) })
	return broker
}

// receiveOne subscribes, takes one message, acks it and ends the subscription.
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
	case <-time.After(patience):
		t.Error("nothing was received")
	}
	require.NoError(t, subscriber.Close())
	return id
}

func TestBackend_everyDeclaredGroupReceivesEveryMessage(t *testing.T) {
	for _, kind := range []string{"classic", "quorum"} {
		broker := openBackend(t, testenv.RabbitMQ(t)+"?groups=shipping,billing&queue_type="+kind)
		require.NoError(t, broker.Declare(t.Context(), "orders", "payments"))
		require.NoError(t, broker.Declare(t.Context(), "orders"), "declaring again")
		publisher := broker.Watermill()
		require.NoError(t, publisher.Publish("orders", message.NewMessage("a", []byte("1"))), "returned, no queue")
		require.NoError(t, publisher.Close())
		for _, group := range []string{"shipping", "billing"} {
			assert.Equal(t, "a", receiveOne(t, broker, group, "orders"))
		}
	}
}

func TestBackend_groupsShareAQueueIfTheURLSaysSo(t *testing.T) {
	broker := openBackend(t, testenv.RabbitMQ(t)+"?topology=queue&prefetch=1")
	require.NoError(t, broker.Declare(t.Context(), "orders"))
	publisher := broker.Watermill()
	require.NoError(t, publisher.Publish("orders", message.NewMessage("a", nil), message.NewMessage("b", nil)))
	require.NoError(t, publisher.Close())
	first, second := receiveOne(t, broker, "shipping", "orders"), receiveOne(t, broker, "billing", "orders")
	assert.ElementsMatch(t, []string{"a", "b"}, []string{first, second})
}

func TestBackend_refusesADeclarationThatContradictsWhatIsThere(t *testing.T) {
	vhost := testenv.RabbitMQ(t)
	require.NoError(t, openBackend(t, vhost+"?groups=a").Declare(t.Context(), "orders"))
	err := openBackend(t, vhost+"?groups=a&queue_type=quorum").Declare(t.Context(), "orders")
	assert.ErrorContains(t, err, "PRECONDITION_FAILED")
}

func TestBackend_neverTellsThePassword(t *testing.T) {
	for name, change := range map[string]func(u *url.URL){
		"wrong password": func(*url.URL) {},
		"no such host":   func(u *url.URL) { u.Host = "nowhere.invalid" },
		"nobody listens": func(u *url.URL) { u.Host = "127.0.0.1:1" },
	} {
		t.Run(name, func(t *testing.T) {
			u, err := url.Parse(testenv.RabbitMQ(t))
			require.NoError(t, err)
			u.User = url.UserPassword(u.User.Username(), "s3cret/wrong")
			change(u)
			broker := openBackend(t, u.String())
			pinger, ok := broker.(backend.Pinger)
			require.True(t, ok)
			for _, err := range []error{pinger.Ping(t.Context()), broker.Declare(t.Context(), "orders")} {
				require.Error(t, err)
				assert.NotContains(t, err.Error(), "s3cret")
			}
		})
	}
}
