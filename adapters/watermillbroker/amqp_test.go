//go:build services

package watermillbroker_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/watermillbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/brokertest"
)

// rabbit is watermill-amqp's publisher with confirms on, and a channel of the test's own beside it.
type rabbit struct {
	pub     *wmamqp.Publisher
	channel *amqp.Channel
	queues  atomic.Int64
}

func openRabbit(t *testing.T) *rabbit {
	t.Helper()
	url := testenv.RabbitMQ(t)
	config := wmamqp.NewDurableQueueConfig(url)
	config.Publish.ConfirmDelivery = true
	config.Publish.ChannelPoolSize = 16
	config.Publish.Mandatory = true
	config.Marshaler = strictMarshaler{}
	pub, err := wmamqp.NewPublisher(config, watermill.NopLogger{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, pub.Close()) })

	conn, err := amqp.Dial(url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	channel, err := conn.Channel()
	require.NoError(t, err)
	return &rabbit{pub: pub, channel: channel}
}

// queue declares a durable queue.
func (r *rabbit) queue(t brokertest.T) string {
	t.Helper()
	name := fmt.Sprint("queue-", r.queues.Add(1))
	_, err := r.channel.QueueDeclare(name, true, false, false, false, nil)
	require.NoError(t, err)
	return name
}

// received takes what queue holds. What is confirmed is in the queue, so that an empty answer is final.
func (r *rabbit) received(t brokertest.T, queue string, _ int) []reliable.Envelope {
	t.Helper()
	var arrived []reliable.Envelope
	for {
		delivery, ok, err := r.channel.Get(queue, true)
		require.NoError(t, err)
		if !ok {
			return arrived
		}
		msg, err := wmamqp.DefaultMarshaler{}.Unmarshal(delivery)
		require.NoError(t, err)
		arrived = append(arrived, reliable.EnvelopeOf(queue, msg))
	}
}

// errHeaderName is what the marshaler below refuses. amqp091-go would write it, and lose the connection by it.
var errHeaderName = errors.New("header name longer than 255 bytes")

// strictMarshaler and classifyAMQP are how a user tells this package what can never be published.
type strictMarshaler struct{ wmamqp.DefaultMarshaler }

func (m strictMarshaler) Marshal(msg *message.Message) (amqp.Publishing, error) {
	for name := range msg.Metadata {
		if len(name) > 255 {
			return amqp.Publishing{}, errHeaderName
		}
	}
	return m.DefaultMarshaler.Marshal(msg)
}

func classifyAMQP(err error) reliable.Outcome {
	if errors.Is(err, errHeaderName) {
		return reliable.Rejected
	}
	return reliable.Unknown
}

func TestConformance_overWatermillAMQP(t *testing.T) {
	r := openRabbit(t)
	brokertest.Run(t, brokertest.Harness{
		// watermill-amqp says nothing of returns, its error for a nack is the one for a lost confirm, and what the broker
		// refuses closes a channel: no more than this can be claimed.
		Features: brokertest.Features{KeyOrder: true, Keys: true, Window: true, OutOfProcess: true},
		Volume:   4000,
		Open: func(t brokertest.T, o brokertest.Options) brokertest.Connection {
			b, err := watermillbroker.New(r.pub, append(optionsFor(o), watermillbroker.WithClassifier(classifyAMQP))...)
			require.NoError(t, err)
			return b
		},
		Topic:    func(t brokertest.T) string { return r.queue(t) },
		Received: r.received,
		Watermill: func(t brokertest.T) message.Publisher {
			b, err := watermillbroker.New(r.pub)
			require.NoError(t, err)
			return b.Watermill()
		},
	})
}

// What the package comment warns of, shown: mandatory is set, no queue takes the message, and nil comes back.
func TestPublish_watermillAMQPAcksWhatNoQueueTook(t *testing.T) {
	r := openRabbit(t)
	b, err := watermillbroker.New(r.pub, watermillbroker.WithTimeout(20*time.Second))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	_, err = b.Publish(t.Context(), []reliable.Attempt{
		{Envelope: reliable.Envelope{ID: reliable.NewID(), Topic: "no-such-queue", Payload: []byte("x")}, Fence: 1},
	})
	require.NoError(t, err)
	confirms, err := b.Receive(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, reliable.Acked, confirms[0].Outcome, "watermill-amqp tells returns now: claim Returns, correct the comment")
}
