//go:build services

package benchmarks

import (
	"context"
	"fmt"
	"testing"

	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillmq/waybill/internal/testenv"
)

// kafkaWithChecks is a Kafka with an empty topic for messages and one for checks, which wait in the callback service's
// ledger and not in the broker: a partition each.
func kafkaWithChecks(b *testing.B, place *testenv.KafkaPlace) checked {
	b.Helper()
	checks := emptyTopic(b, place)
	return checksOnTopic(kafka(b, place), checks, func() int { return recordsOn(b, place, checks) })
}

// bareKafkaChecked produces checks and messages by one client, which puts both into a request where it can: that is faster
// than a client each.
func bareKafkaChecked(b *testing.B, c checked, place *testenv.KafkaPlace, n int) float64 {
	b.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(place.Brokers...), kgo.ProducerLinger(0))
	require.NoError(b, err)
	defer client.Close()
	require.NoError(b, client.Ping(context.Background()))
	produce := func(topic string) func(ctx context.Context, i int, body []byte) error {
		return func(ctx context.Context, i int, body []byte) error {
			return client.ProduceSync(ctx, &kgo.Record{
				Topic: topic, Value: body, Headers: []kgo.RecordHeader{{Key: wkafka.UUIDHeaderKey, Value: fmt.Appendf(nil, "bare-%032d", i)}},
			}).FirstErr()
		}
	}
	return c.bare(b, n, produce(c.checkTopic), produce(c.topic))
}
