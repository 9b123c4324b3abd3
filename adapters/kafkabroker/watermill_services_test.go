//go:build services

package kafkabroker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

// next takes one message. All tests in this file are on real Kafka.
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
	place := testenv.Kafka(t)
	topic := place.Topic("orders", 3)
	config := wkafka.SubscriberConfig{
		Brokers: place.Brokers, ConsumerGroup: place.Name("group"), OverwriteSaramaConfig: wkafka.DefaultSaramaSubscriberConfig(),
	}
	config.OverwriteSaramaConfig.Consumer.Offsets.Initial = sarama.OffsetOldest
	sub, err := wkafka.NewSubscriber(config, watermill.NopLogger{})
	require.NoError(t, err)
	defer sub.Close()
	one := attempts(topic, 1)
	one[0].Key, one[0].Metadata = "customer-7", map[string]string{"kind": "created"}
	requireOutcome(t, reliable.Acked, publish(t, open(t, place.Brokers), one...)...)
	msg := next(t, sub, topic)
	require.Equal(t, string(one[0].ID), msg.UUID)
	require.Equal(t, string(one[0].Payload), string(msg.Payload))
	require.Equal(t, message.Metadata{
		"kind": "created", reliable.HeaderKey: "customer-7", reliable.HeaderVersion: reliable.WireVersion,
	}, msg.Metadata)
}

func TestInterop_ourSubscriberReadsAPlainPublishers(t *testing.T) {
	place := testenv.Kafka(t)
	topic := place.Topic("orders", 1)
	sub, err := open(t, place.Brokers).Subscribe(place.Name("group"))
	require.NoError(t, err)
	defer sub.Close()
	pub, err := wkafka.NewPublisher(wkafka.PublisherConfig{Brokers: place.Brokers}, watermill.NopLogger{})
	require.NoError(t, err)
	defer pub.Close()
	sent := message.NewMessage("id-1", []byte("payload"))
	sent.Metadata.Set("kind", "created")
	require.NoError(t, pub.Publish(topic, sent))
	msg := next(t, sub, topic)
	require.True(t, sent.Equals(msg), "%v", msg)
}

func TestWithWatermillPartitioning_putsKeysWhereWatermillPutsThem(t *testing.T) {
	const partitions, keys = 7, 50
	place := testenv.Kafka(t)
	topic := place.Topic("orders", partitions)
	pub, err := wkafka.NewPublisher(wkafka.PublisherConfig{
		Brokers: place.Brokers,
		Marshaler: wkafka.NewWithPartitioningMarshaler(func(_ string, msg *message.Message) (string, error) {
			return msg.Metadata["key"], nil
		}),
	}, watermill.NopLogger{})
	require.NoError(t, err)
	defer pub.Close()
	batch := attempts(topic, keys)
	for i := range batch {
		batch[i].Key = fmt.Sprint("customer-", i)
		plain := message.NewMessage("plain", nil)
		plain.Metadata.Set("key", batch[i].Key)
		require.NoError(t, pub.Publish(topic, plain))
	}
	requireOutcome(t, reliable.Acked, publish(t, open(t, place.Brokers, kafkabroker.WithWatermillPartitioning()), batch...)...)

	client, err := kgo.NewClient(kgo.SeedBrokers(place.Brokers...), kgo.ConsumeTopics(topic))
	require.NoError(t, err)
	defer client.Close()
	where, seen := make(map[string]map[int32]bool), 0
	for seen < 2*keys {
		fetches := client.PollFetches(t.Context())
		require.NoError(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			if where[string(r.Key)] == nil {
				where[string(r.Key)] = make(map[int32]bool)
			}
			where[string(r.Key)][r.Partition] = true
			seen++
		})
	}
	for key, found := range where {
		assert.Len(t, found, 1, "partitions of %s", key)
	}
}

func TestWatermill_saysWhatBecameOfEachMessage(t *testing.T) {
	place := testenv.Kafka(t)
	topic := place.Topic("orders", 1)
	b := open(t, place.Brokers)
	pub := b.Watermill()
	defer pub.Close()
	require.NoError(t, pub.Publish(topic, message.NewMessage("id-0", []byte("payload"))))
	err := pub.Publish(place.Name("nowhere"), message.NewMessage("id-1", []byte("payload")))
	require.ErrorIs(t, err, reliable.ErrUnroutable)
	var failed *reliable.PublishError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, reliable.ID("id-1"), failed.ID)

	require.NoError(t, b.Close())
	require.NoError(t, pub.Publish(topic, message.NewMessage("id-2", nil)), "it has connections of its own")
	require.NoError(t, pub.Close())
	require.ErrorIs(t, pub.Publish(topic, message.NewMessage("id-3", nil)), reliable.ErrClosed)
}

// What a topic's rules refuse is said of the whole batch by Kafka: here a compacted topic, which takes no record without a
// key.
func TestPublish_whatTheTopicsRulesRefuseIsFoundAlone(t *testing.T) {
	place := testenv.Kafka(t)
	topic := place.Name("compacted")
	require.NoError(t, testenv.CreateKafkaTopic(place.Brokers, topic, 1, [2]string{"cleanup.policy", "compact"}))
	b := open(t, place.Brokers)
	batch := attempts(topic, 10)
	for i := range batch {
		batch[i].Key = "customer-7"
	}
	requireOutcome(t, reliable.Acked, publish(t, b, batch...)...)
	batch[4].Key = ""
	shared := 0
	for i, confirm := range publish(t, b, batch...) {
		if confirm.Outcome == reliable.Unknown {
			require.ErrorIs(t, confirm.Err, reliable.ErrConnectionLost)
			shared++
		} else {
			require.NotEqual(t, 4, i, "%v", confirm.Outcome)
			require.Equal(t, reliable.Acked, confirm.Outcome, "%v", confirm.Err)
		}
		batch[i].Alone = true
	}
	require.NotZero(t, shared)
	for i, confirm := range publish(t, b, batch...) {
		if want := reliable.Acked; i != 4 {
			requireOutcome(t, want, confirm)
		} else {
			requireOutcome(t, reliable.Rejected, confirm)
		}
	}
}

func TestPublish_aTopicThatTakesLessThanWeBelieveLosesNothing(t *testing.T) {
	place := testenv.Kafka(t)
	topic := place.Name("small")
	require.NoError(t, testenv.CreateKafkaTopic(place.Brokers, topic, 1, [2]string{"max.message.bytes", "20000"}))
	b := open(t, place.Brokers)
	batch := attempts(topic, 20)
	for i := range batch {
		batch[i].Payload = incompressible(5000)
	}
	for _, confirm := range publish(t, b, batch...) {
		require.Contains(t, []reliable.Outcome{reliable.Acked, reliable.Unknown}, confirm.Outcome, "%v", confirm.Err)
	}
	for i := range batch {
		batch[i].Alone = true
	}
	requireOutcome(t, reliable.Acked, publish(t, b, batch...)...)
	batch[0].Payload = incompressible(25_000)
	requireOutcome(t, reliable.Rejected, publish(t, b, batch[0])...)
	requireOutcome(t, reliable.Acked,
		publish(t, open(t, place.Brokers, kafkabroker.WithMaxMessageBytes(20_000)), batch[1:]...)...)
}

// watermills is watermill-kafka's subscriber, with a publisher of ours.
func watermills(t *testing.T, brokers []string, group string, partitions int) (message.Publisher, message.Subscriber) {
	t.Helper()
	b := open(t, brokers, kafkabroker.WithTopics(partitions, 1),
		kafkabroker.WithSubscriber(func(config *wkafka.SubscriberConfig) {
			config.WaitForTopicCreationTimeout = patience
			// How soon a member learns that another one came or went, for which the whole group waits.
			config.OverwriteSaramaConfig.Consumer.Group.Heartbeat.Interval = 200 * time.Millisecond
		}))
	sub, err := b.Subscribe(group)
	require.NoError(t, err)
	return b.Watermill(), sub
}

// concurrently is our subscriber, with as many messages of a partition at once.
func concurrently(messages int) func(*testing.T, []string, string, int) (message.Publisher, message.Subscriber) {
	return func(t *testing.T, brokers []string, group string, partitions int) (message.Publisher, message.Subscriber) {
		t.Helper()
		b := open(t, brokers, kafkabroker.WithTopics(partitions, 1))
		sub, err := b.Subscriber(group, kafkabroker.WithConcurrency(messages), kafkabroker.WithDrainTimeout(time.Second))
		require.NoError(t, err)
		return b.Watermill(), sub
	}
}

func TestWatermillsOwnSuite(t *testing.T) {
	place := testenv.Kafka(t)
	for _, c := range []struct {
		name       string
		make       func(t *testing.T, brokers []string, group string, partitions int) (message.Publisher, message.Subscriber)
		partitions int
		ordered    bool
		short      bool // once with many messages is enough for the broker
	}{
		{"one partition", watermills, 1, true, false},
		{"eight partitions", watermills, 8, false, true},
		{"ours, one partition", concurrently(1), 1, true, false},
		{"ours, many of a partition at once", concurrently(50), 8, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ofGroup := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
				t.Helper()
				pub, sub := c.make(t, place.Brokers, place.Name(group), c.partitions)
				t.Cleanup(func() { // some of the suite's tests leave theirs open
					assert.NoError(t, errors.Join(sub.Close(), pub.Close()))
				})
				return pub, sub
			}
			features := tests.Features{
				ConsumerGroups:      true,
				ExactlyOnceDelivery: false,
				// Order is that of a partition, which has one reader at a time.
				GuaranteedOrder:                     false,
				GuaranteedOrderWithSingleSubscriber: c.ordered,
				Persistent:                          true,
				ForceShort:                          c.short,
				GenerateTopicFunc:                   func(tctx tests.TestContext) string { return place.Name(string(tctx.TestID)) },
			}
			tests.TestPubSub(t, features, func(t *testing.T) (message.Publisher, message.Subscriber) {
				// In one group the tests, which leave members with messages in hand, would keep each other waiting.
				return ofGroup(t, strings.ReplaceAll(t.Name(), "/", "."))
			}, ofGroup)
		})
	}
}

func TestSubscriber_takesOverAGroupOnceTheOtherKindHasLeftIt(t *testing.T) {
	place := testenv.Kafka(t)
	topic, group := place.Topic("orders", 1), place.Name("group")
	pub, theirs := watermills(t, place.Brokers, group, 1)
	defer pub.Close()
	require.NoError(t, pub.Publish(topic, message.NewMessage("a", nil)))
	require.Equal(t, "a", next(t, theirs, topic).UUID)
	messages := subscribe(t, subscriberOf(t, open(t, place.Brokers), group), topic)
	nothing(t, messages)
	require.NoError(t, pub.Publish(topic, message.NewMessage("b", nil)))
	require.NoError(t, theirs.Close())
	for msg := take(t, messages, 1)[0]; msg.UUID != "b"; msg = take(t, messages, 1)[0] {
		msg.Ack() // a's position was not committed yet
	}
}
