//go:build services

package rabbitmqbroker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

// next takes one message.
func next(t *testing.T, sub message.Subscriber, topic string) *message.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	messages, err := sub.Subscribe(ctx, topic)
	require.NoError(t, err)
	select {
	case msg := <-messages:
		require.NotNil(t, msg, "the subscription ended")
		msg.Ack()
		return msg
	case <-ctx.Done():
		require.Fail(t, "no message")
		return nil
	}
}

func TestInterop_aPlainSubscriberReadsOurs(t *testing.T) {
	address := testenv.RabbitMQ(t)
	for name, config := range map[string]wamqp.Config{
		"queue":       wamqp.NewDurableQueueConfig(address),
		"fanout":      wamqp.NewDurablePubSubConfig(address, wamqp.GenerateQueueNameTopicNameWithSuffix("plain")),
		"correlating": withMarshaler(wamqp.NewDurableQueueConfig(address), wamqp.CorrelatingMarshaler{}),
	} {
		t.Run(name, func(t *testing.T) {
			sub, err := wamqp.NewSubscriber(config, watermill.NopLogger{})
			require.NoError(t, err)
			defer sub.Close()
			require.NoError(t, sub.SubscribeInitialize(name))
			b, err := rabbitmqbroker.New(config, quiet())
			require.NoError(t, err)
			defer b.Close()
			one := attempts(name, 1)
			one[0].Key, one[0].Metadata = "customer-7", map[string]string{"kind": "created"}
			requireOutcome(t, reliable.Acked, only(publish(t, b, one...)))
			msg := next(t, sub, name)
			require.Equal(t, string(one[0].ID), msg.UUID)
			require.Equal(t, string(one[0].Payload), string(msg.Payload))
			require.Equal(t, message.Metadata{
				"kind": "created", reliable.HeaderKey: "customer-7", reliable.HeaderVersion: reliable.WireVersion,
			}, msg.Metadata)
		})
	}
}

func withMarshaler(config wamqp.Config, m wamqp.Marshaler) wamqp.Config {
	config.Marshaler = m
	return config
}

func TestInterop_ourSubscriberReadsAPlainPublishers(t *testing.T) {
	address := testenv.RabbitMQ(t)
	b := open(t, address)
	sub, err := b.Subscriber()
	require.NoError(t, err)
	defer sub.Close()
	require.NoError(t, sub.SubscribeInitialize("orders"))
	pub, err := wamqp.NewPublisher(b.Config(), watermill.NopLogger{})
	require.NoError(t, err)
	defer pub.Close()
	sent := message.NewMessage("id-1", []byte("payload"))
	sent.Metadata.Set("kind", "created")
	require.NoError(t, pub.Publish("orders", sent))
	msg := next(t, sub, "orders")
	require.True(t, sent.Equals(msg), "%v", msg)
}

func TestSubscriber_ofQuorumQueuesAgreesWithThePublisher(t *testing.T) {
	b := open(t, testenv.RabbitMQ(t), rabbitmqbroker.WithQuorumQueues())
	requireOutcome(t, reliable.Acked, only(publish(t, b, attempts("orders", 1)...)))
	sub, err := b.Subscriber()
	require.NoError(t, err)
	defer sub.Close()
	next(t, sub, "orders")
}

func TestWatermill_saysWhatBecameOfEachMessage(t *testing.T) {
	b := open(t, testenv.RabbitMQ(t), rabbitmqbroker.WithoutDeclaring())
	pub := b.Watermill()
	defer pub.Close()
	err := pub.Publish("nowhere", message.NewMessage("id-1", []byte("payload")))
	require.ErrorIs(t, err, reliable.ErrUnroutable)
	var failed *reliable.PublishError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, reliable.ID("id-1"), failed.ID)

	require.NoError(t, b.Close())
	err = pub.Publish("nowhere", message.NewMessage("id-2", nil))
	require.ErrorIs(t, err, reliable.ErrUnroutable, "it has a connection of its own")
	require.NoError(t, pub.Close())
	require.ErrorIs(t, pub.Publish("nowhere", message.NewMessage("id-3", nil)), reliable.ErrClosed)
}

func TestWatermill_aMessagesContextBoundsTheCall(t *testing.T) {
	b, err := rabbitmqbroker.NewFromURL(nobody, quiet())
	require.NoError(t, err)
	pub := b.Watermill()
	defer pub.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	msg := message.NewMessage("id-1", nil)
	msg.SetContext(ctx)
	require.ErrorIs(t, pub.Publish("orders", msg), context.DeadlineExceeded)
}

func TestWatermillsOwnSuite(t *testing.T) {
	address := testenv.RabbitMQ(t)
	pubSub := func(t *testing.T, config wamqp.Config, opts ...rabbitmqbroker.Option) (message.Publisher, message.Subscriber) {
		t.Helper()
		b, err := rabbitmqbroker.New(config, append(opts, quiet())...)
		require.NoError(t, err)
		pub := b.Watermill()
		sub, err := b.Subscriber()
		require.NoError(t, err)
		t.Cleanup(func() { // some of the suite's tests leave theirs open
			assert.NoError(t, errors.Join(sub.Close(), pub.Close()))
		})
		return pub, sub
	}
	features := tests.Features{
		ExactlyOnceDelivery:                 false,
		GuaranteedOrder:                     true,
		GuaranteedOrderWithSingleSubscriber: true,
		Persistent:                          true,
		// The suite's limits for waiting are fixed (15 s for most), and its usual thousands of messages take two busy processors
		// longer. What many messages and much at a time do is tested apart.
		ForceShort: true,
	}
	t.Run("queue", func(t *testing.T) {
		tests.TestPubSub(t, features, func(t *testing.T) (message.Publisher, message.Subscriber) {
			return pubSub(t, wamqp.NewDurableQueueConfig(address))
		}, nil)
	})
	t.Run("fanout", func(t *testing.T) {
		ofGroup := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
			// An event may have no consumer yet.
			return pubSub(t, wamqp.NewDurablePubSubConfig(address, wamqp.GenerateQueueNameTopicNameWithSuffix(group)),
				rabbitmqbroker.WithoutMandatory())
		}
		features.ConsumerGroups = true
		tests.TestPubSub(t, features, func(t *testing.T) (message.Publisher, message.Subscriber) {
			return ofGroup(t, "test")
		}, ofGroup)
	})
}
