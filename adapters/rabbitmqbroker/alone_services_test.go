//go:build services

package rabbitmqbroker_test

import (
	"net"
	"sync/atomic"
	"testing"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

func TestPublish_whatGoesAloneSharesAConnectionOneAfterTheOther(t *testing.T) {
	url := testenv.RabbitMQ(t)
	ch := admin(t, url)
	declareQueue(t, ch, "orders", nil)

	var dialed atomic.Int32
	config := wamqp.NewDurableQueueConfig(url)
	config.Connection.AmqpConfig = &amqp.Config{Dial: func(network, address string) (net.Conn, error) {
		dialed.Add(1)
		return net.Dial(network, address)
	}}
	b, err := rabbitmqbroker.New(config, quiet(), rabbitmqbroker.WithoutDeclaring(), rabbitmqbroker.WithoutSizeChecks())
	require.NoError(t, err)
	defer func() { assert.NoError(t, b.Close()) }()

	batch := append(attempts("orders", 60), attempts("nowhere", 3)...) // the last are returned, which closes nothing
	for i := range batch {
		batch[i].Alone = true
	}
	confirms := publish(t, b, batch...)
	for i := range batch {
		want := reliable.Acked
		if i >= 60 {
			want = reliable.Returned
		}
		requireOutcome(t, want, confirms[batch[i].ID])
	}
	require.EqualValues(t, 2, dialed.Load(), "one for all that go alone, beside the one for all others")

	// Only what takes its connection down costs the next one a new one, and is the only one to suffer.
	batch = attempts("orders", 9)
	for i := range batch {
		batch[i].Alone = true
	}
	batch[4].Metadata = map[string]string{"long": string(make([]byte, 200_000))}
	confirms = publish(t, b, batch...)
	for i := range batch {
		want := reliable.Acked
		if i == 4 {
			want = reliable.Rejected
		}
		requireOutcome(t, want, confirms[batch[i].ID])
	}
	require.EqualValues(t, 3, dialed.Load())
	require.Equal(t, 68, depth(t, ch, "orders"))
}
