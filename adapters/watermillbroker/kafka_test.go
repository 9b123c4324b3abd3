//go:build services

package watermillbroker_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/watermillbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/brokertest"
)

// classifyKafka is how a user tells this package what sarama's errors mean. watermill-kafka sends one message per call of
// sarama, so what is said of it is said of nothing else.
func classifyKafka(err error) reliable.Outcome {
	var size sarama.ConfigurationError // what sarama itself finds too large
	switch {
	case errors.Is(err, sarama.ErrUnknownTopicOrPartition), errors.Is(err, sarama.ErrInvalidTopic):
		return reliable.Returned
	case errors.Is(err, sarama.ErrMessageSizeTooLarge), errors.As(err, &size):
		return reliable.Rejected
	}
	return reliable.Unknown
}

// On real Kafka, with watermill-kafka's publisher told to wait for all replicas, which it does not by itself.
func TestConformance_overWatermillKafka(t *testing.T) {
	place := testenv.Kafka(t)
	config := wkafka.DefaultSaramaSyncPublisherConfig()
	config.Producer.RequiredAcks = sarama.WaitForAll
	pub, err := wkafka.NewPublisher(wkafka.PublisherConfig{Brokers: place.Brokers, OverwriteSaramaConfig: config}, watermill.NopLogger{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, pub.Close()) })
	var topics atomic.Int64
	named := func() string { return fmt.Sprint("topic-", topics.Add(1)) }
	brokertest.Run(t, brokertest.Harness{
		// watermill-kafka knows no keys but its marshaler's, so order is that of a topic's only partition. After some
		// messages to a topic that is missing, sarama stops asking for it ("circuit breaker is open"), which says nothing of
		// the topic: Returns cannot be claimed.
		Features: brokertest.Features{
			Rejects: true, KeyOrder: true, Keys: true, Window: true, OutOfProcess: true, MaxPayload: 900_000,
		},
		Volume: 4000,
		Open: func(t brokertest.T, o brokertest.Options) brokertest.Connection {
			b, err := watermillbroker.New(pub, append(optionsFor(o), watermillbroker.WithClassifier(classifyKafka))...)
			require.NoError(t, err)
			return b
		},
		Topic:    func(brokertest.T) string { return place.Topic(named(), 1) },
		Oversize: func(brokertest.T) []byte { return make([]byte, 2<<20) },
		Received: brokertest.ReceivedBy(func(t brokertest.T) message.Subscriber {
			own := wkafka.DefaultSaramaSubscriberConfig()
			own.Consumer.Offsets.Initial = sarama.OffsetOldest
			sub, err := wkafka.NewSubscriber(wkafka.SubscriberConfig{
				Brokers: place.Brokers, ConsumerGroup: place.Name("group"), OverwriteSaramaConfig: own,
			}, watermill.NopLogger{})
			require.NoError(t, err)
			return sub
		}, 300*time.Millisecond),
		Watermill: func(t brokertest.T) message.Publisher {
			b, err := watermillbroker.New(pub, watermillbroker.WithClassifier(classifyKafka))
			require.NoError(t, err)
			return b.Watermill()
		},
	})
}
