//go:build services

package kafkabroker_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable/backend"
)

// openBackend opens the brokers given through a URL. On real Kafka.
func openBackend(t *testing.T, rawURL string) backend.Broker {
	t.Helper()
	broker, err := backend.Brokers{kafkabroker.Backend()}.Open(t.Context(), rawURL)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, broker.Close()) })
	return broker
}

// receive takes n messages as a member of group, acks them and ends the subscription.
func receive(t *testing.T, broker backend.Broker, group, topic string, n int) (ids []string) {
	t.Helper()
	subscriber, err := broker.Subscribe(group)
	require.NoError(t, err)
	messages, err := subscriber.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for len(ids) < n {
		select {
		case msg := <-messages:
			ids = append(ids, msg.UUID)
			msg.Ack()
		case <-timer.C:
			t.Errorf("%d of %d messages were received", len(ids), n)
			n = 0
		}
	}
	require.NoError(t, subscriber.Close())
	return ids
}

func TestBackend_everyGroupReceivesEveryMessage(t *testing.T) {
	place := testenv.Kafka(t)
	broker := openBackend(t, "kafka://"+strings.Join(place.Brokers, ",")+"?partitions=3&replicas=1")
	topic := place.Name("orders")
	require.NoError(t, broker.Declare(t.Context(), topic, place.Name("payments")))
	require.NoError(t, broker.Declare(t.Context(), topic), "declaring again")
	publisher := broker.Watermill()
	require.NoError(t, publisher.Publish(topic, message.NewMessage("a", []byte("1")), message.NewMessage("b", nil)),
		"a topic that was declared can be written to at once")
	require.NoError(t, publisher.Close())
	for _, group := range []string{"shipping", "billing"} {
		assert.ElementsMatch(t, []string{"a", "b"}, receive(t, broker, place.Name(group), topic, 2))
	}
}

func TestBackend_logsIn(t *testing.T) {
	server := testservers.StartKafka(t)
	server.CreateTopic("orders", 1)
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		t.Run(mechanism, func(t *testing.T) {
			address := url.URL{
				Scheme: "kafka", Host: server.LoginAddr(), User: url.UserPassword("waybill", "waybill"), RawQuery: "sasl=" + mechanism,
			}
			broker := openBackend(t, address.String())
			require.NoError(t, broker.(backend.Pinger).Ping(t.Context()))
			publisher := broker.Watermill()
			require.NoError(t, publisher.Publish("orders", message.NewMessage(mechanism, nil)))
			require.NoError(t, publisher.Close())
			assert.Contains(t, receive(t, broker, "group-of-"+mechanism, "orders", 1), "plain", "the subscriber logs in as well")
			address.RawQuery += "&concurrency=2"
			assert.Contains(t, receive(t, openBackend(t, address.String()), "others-of-"+mechanism, "orders", 1), "plain")

			address.User = url.UserPassword("waybill", "s3cret")
			stranger := openBackend(t, address.String())
			err := stranger.(backend.Pinger).Ping(t.Context())
			require.Error(t, err)
			assert.NotContains(t, err.Error(), "s3cret")
		})
	}
}
