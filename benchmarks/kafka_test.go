//go:build services

package benchmarks

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/internal/testenv"
)

const (
	// rawKafka is how many messages a publisher without a store moves: Kafka takes some hundred thousand a second.
	rawKafka = 200_000
	// slowKafka is the same for one caller who waits for each.
	slowKafka = 3_000
)

// emptyTopic makes a topic with one partition and returns its name.
func emptyTopic(b *testing.B, place *testenv.KafkaPlace) string {
	b.Helper()
	return place.Topic(fmt.Sprint(topic, "-", time.Now().UnixNano()), 1)
}

// bareKafka returns P: confirmed publishes per second of a bare franz-go client, idempotent with acks=all and without
// linger, of records that carry an id, and a window of unconfirmed ones.
func bareKafka(b *testing.B, place *testenv.KafkaPlace, n int) float64 {
	b.Helper()
	name := emptyTopic(b, place)
	client, err := kgo.NewClient(kgo.SeedBrokers(place.Brokers...), kgo.ProducerLinger(0))
	require.NoError(b, err)
	defer client.Close()
	ctx := context.Background()
	require.NoError(b, client.Ping(ctx))

	payload := make([]byte, payloadBytes)
	free := make(chan struct{}, window)
	var failed error // written by promises, which come one after the other
	var landed sync.WaitGroup
	landed.Add(n)
	promise := func(_ *kgo.Record, err error) {
		if err != nil {
			failed = err
		}
		<-free
		landed.Done()
	}
	start, used := time.Now(), pairs.StartMeter()
	for i := range n {
		free <- struct{}{}
		client.Produce(ctx, &kgo.Record{
			Topic: name, Value: payload, Headers: []kgo.RecordHeader{{Key: wkafka.UUIDHeaderKey, Value: fmt.Appendf(nil, "bare-%032d", i)}},
		}, promise)
	}
	landed.Wait()
	elapsed := time.Since(start)
	used.Log(b, "P", n)
	require.NoError(b, failed)
	require.Equal(b, n, recordsOn(b, place, name))
	return float64(n) / elapsed.Seconds()
}

// recordsOn asks how many records a topic with one partition has.
func recordsOn(b *testing.B, place *testenv.KafkaPlace, name string) int {
	b.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(place.Brokers...))
	require.NoError(b, err)
	defer client.Close()
	end := kmsg.NewListOffsetsRequestTopicPartition()
	end.Timestamp = -1
	asked := kmsg.NewListOffsetsRequestTopic()
	asked.Topic, asked.Partitions = name, append(asked.Partitions, end)
	request := kmsg.NewPtrListOffsetsRequest()
	request.Topics = append(request.Topics, asked)
	response, err := request.RequestWith(context.Background(), client)
	require.NoError(b, err)
	answer := response.Topics[0].Partitions[0]
	require.NoError(b, kerr.ErrorForCode(answer.ErrorCode))
	return int(answer.Offset)
}

func kafka(b *testing.B, place *testenv.KafkaPlace) broker {
	b.Helper()
	name := emptyTopic(b, place)
	k, err := kafkabroker.New(place.Brokers, kafkabroker.WithWindow(window))
	require.NoError(b, err)
	require.NoError(b, k.Ping(context.Background()))
	return broker{name, k, k, func() int { return recordsOn(b, place, name) }, func() { require.NoError(b, k.Close()) }}
}

func publishRawKafka(b *testing.B, place *testenv.KafkaPlace) float64 {
	b.Helper()
	to := kafka(b, place)
	defer to.close()
	rate := publishRaw(b, to, rawKafka)
	require.Equal(b, rawKafka, to.stored())
	return rate
}

func BenchmarkTaggingKafka(b *testing.B) {
	for _, d := range []database{mariaDB, postgres} {
		b.Run(d.name, func(b *testing.B) {
			db, store := d.open(b)
			place := testenv.Kafka(b)
			pairs.Compare(b, "tagging-kafka-"+d.name, "tagging end to end", "1/(1/P+1/S)",
				func(b *testing.B) float64 {
					p, s := bareKafka(b, place, rawKafka), bareStore(b, d, db, endToEnd)
					b.Logf("P %.0f/s, S %.0f/s", p, s)
					return 1 / (1/p + 1/s)
				},
				func(b *testing.B) float64 {
					to := kafka(b, place)
					defer to.close()
					return publishAll(b, d, db, store, to, endToEnd)
				})
		})
	}
}

func BenchmarkPublishKafka(b *testing.B) {
	place := testenv.Kafka(b)
	pairs.Compare(b, "publish-kafka", "confirmed publish through kafkabroker", "bare franz-go",
		func(b *testing.B) float64 { return bareKafka(b, place, rawKafka) },
		func(b *testing.B) float64 { return publishRawKafka(b, place) })
}

func BenchmarkKafkaWatermill(b *testing.B) {
	for _, goroutines := range []int{64, 1} {
		b.Run(fmt.Sprint(goroutines), func(b *testing.B) {
			place := testenv.Kafka(b)
			pairs.Compare(b, fmt.Sprint("kafka-vs-watermill-", goroutines), "confirmed publish through kafkabroker",
				fmt.Sprintf("watermill-kafka from goroutines: %d", goroutines),
				func(b *testing.B) float64 { return watermillKafka(b, place, goroutines) },
				func(b *testing.B) float64 { return publishRawKafka(b, place) })
		})
	}
}

// watermillKafka returns the rate of watermill-kafka's publisher, told to wait for all replicas.
func watermillKafka(b *testing.B, place *testenv.KafkaPlace, goroutines int) float64 {
	b.Helper()
	name, n := emptyTopic(b, place), rawKafka
	if goroutines == 1 {
		n = slowKafka
	}
	client := wkafka.DefaultSaramaSyncPublisherConfig()
	client.Producer.RequiredAcks = sarama.WaitForAll
	publisher, err := wkafka.NewPublisher(wkafka.PublisherConfig{Brokers: place.Brokers, OverwriteSaramaConfig: client}, watermill.NopLogger{})
	require.NoError(b, err)
	payload := make([]byte, payloadBytes)
	start, used := time.Now(), pairs.StartMeter()
	var calling sync.WaitGroup
	for g := range goroutines {
		calling.Go(func() {
			for i := g; i < n; i += goroutines {
				if err := publisher.Publish(name, message.NewMessage(fmt.Sprintf("plain-%032d", i), payload)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	calling.Wait()
	elapsed := time.Since(start)
	used.Log(b, "watermill-kafka", n)
	require.NoError(b, publisher.Close())
	require.Equal(b, n, recordsOn(b, place, name))
	return float64(n) / elapsed.Seconds()
}
