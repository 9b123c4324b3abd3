package kafkabroker_test

import (
	"errors"
	"testing"

	"github.com/IBM/sarama"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/reliable"
)

// slowMarshaler is the default one under another type, so that the general way is taken.
type slowMarshaler struct{ wkafka.DefaultMarshaler }

// record publishes an envelope to an emulated cluster and returns what arrived.
func record(t *testing.T, env reliable.Envelope, opts ...kafkabroker.Option) *kgo.Record {
	t.Helper()
	cluster := fake(t)
	requireOutcome(t, reliable.Acked, publish(t, open(t, cluster.ListenAddrs(), opts...), reliable.Attempt{Envelope: env, Fence: 1})...)
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics(env.Topic))
	require.NoError(t, err)
	defer client.Close()
	records := client.PollFetches(t.Context()).Records()
	require.Len(t, records, 1)
	return records[0]
}

func TestRecord_isWhatWatermillsMarshalerWrites(t *testing.T) {
	for name, opts := range map[string][]kafkabroker.Option{
		"by the short way": nil, "by the marshaler": {kafkabroker.WithMarshaler(slowMarshaler{})},
	} {
		t.Run(name, func(t *testing.T) {
			got := record(t, reliable.Envelope{
				ID: "id-1", Topic: "orders", Key: "customer-7", Payload: []byte{0, 255}, Metadata: map[string]string{"kind": "created", "": "odd"},
			}, opts...)
			assert.Equal(t, "customer-7", string(got.Key))
			assert.Equal(t, []byte{0, 255}, got.Value)
			assert.ElementsMatch(t, []kgo.RecordHeader{
				{Key: wkafka.UUIDHeaderKey, Value: []byte("id-1")}, {Key: reliable.HeaderVersion, Value: []byte("1")},
				{Key: reliable.HeaderKey, Value: []byte("customer-7")}, {Key: "kind", Value: []byte("created")}, {Key: "", Value: []byte("odd")},
			}, got.Headers)
			assert.False(t, got.Timestamp.IsZero())

			plain := record(t, reliable.Envelope{ID: "id-2", Topic: "orders", Payload: []byte("x")}, opts...)
			assert.Nil(t, plain.Key, "an unordered message belongs to no partition")
		})
	}
}

func TestRecord_aMarshalersKeyIsUsedInPlaceOfTheEnvelopes(t *testing.T) {
	byKind := wkafka.NewWithPartitioningMarshaler(func(_ string, msg *message.Message) (string, error) {
		return msg.Metadata["kind"], nil
	})
	got := record(t, reliable.Envelope{
		ID: "id-1", Topic: "orders", Key: "customer-7", Metadata: map[string]string{"kind": "created"},
	}, kafkabroker.WithMarshaler(byKind))
	assert.Equal(t, "created", string(got.Key))
}

// failing is a marshaler that fails.
type failing struct{ wkafka.DefaultMarshaler }

func (failing) Marshal(string, *message.Message) (*sarama.ProducerMessage, error) {
	return nil, errors.New("no")
}

func TestRecord_whatCannotBeMarshaledIsRejected(t *testing.T) {
	cluster := fake(t)
	reserved := attempts("orders", 1)
	reserved[0].Metadata = map[string]string{wkafka.UUIDHeaderKey: "another"}
	requireOutcome(t, reliable.Rejected, publish(t, open(t, cluster.ListenAddrs()), reserved...)...)
	b := open(t, cluster.ListenAddrs(), kafkabroker.WithMarshaler(failing{}))
	requireOutcome(t, reliable.Rejected, publish(t, b, attempts("orders", 2)...)...)
	alone := attempts("orders", 2)
	alone[0].Alone, alone[1].Alone = true, true
	requireOutcome(t, reliable.Rejected, publish(t, b, alone...)...)
	requireOutcome(t, reliable.Rejected, publish(t, b, attempts("", 1)...)...)
}
