//go:build services

package peers

import (
	"context"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

const (
	orders = "orders"
	// window is how many messages Waybill and a bare client have unconfirmed at most.
	window = 1000
)

// destination is a queue or topic, empty at first.
type destination interface {
	// topic is its name.
	topic() string
	// count is how many messages it has.
	count() int
	// received takes all of them and says how often each number is among them.
	received(count int) map[int]int
	// adapter is Waybill's publisher to it, open until t ends.
	adapter(t testing.TB) (reliable.Publisher, reliable.ConfirmSource)
}

// quorumQueue is a queue on RabbitMQ. How many messages it has is asked on a connection that only does that.
type quorumQueue struct {
	t    testing.TB
	url  string
	open *amqp.Channel
}

var quorum = amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum}

func emptyQueue(t testing.TB, url string) *quorumQueue {
	t.Helper()
	q := &quorumQueue{t: t, url: url}
	q.open = q.channel()
	_, err := q.open.QueueDeclare(orders, true, false, false, false, quorum)
	require.NoError(t, err)
	return q
}

// channel is a channel on a connection of its own.
func (q *quorumQueue) channel() *amqp.Channel {
	q.t.Helper()
	conn, err := amqp.Dial(q.url)
	require.NoError(q.t, err)
	q.t.Cleanup(func() { _ = conn.Close() }) // which a broker that was restarted has closed
	channel, err := conn.Channel()
	require.NoError(q.t, err)
	return channel
}

func (q *quorumQueue) topic() string { return orders }

func (q *quorumQueue) count() int {
	q.t.Helper()
	state, err := q.open.QueueDeclarePassive(orders, true, false, false, false, quorum)
	require.NoError(q.t, err)
	return state.Messages
}

func (q *quorumQueue) received(count int) map[int]int {
	q.t.Helper()
	channel := q.channel()
	deliveries, err := channel.Consume(orders, "", true, false, false, false, nil)
	require.NoError(q.t, err)
	numbers := make(map[int]int, count)
	for range count {
		select {
		case delivery, open := <-deliveries:
			require.True(q.t, open, "the broker ended the deliveries")
			numbers[number(q.t, delivery.Body)]++
		case <-time.After(patience):
			require.Fail(q.t, "the queue says that it has more messages than it delivers")
		}
	}
	return numbers
}

func (q *quorumQueue) adapter(t testing.TB) (reliable.Publisher, reliable.ConfirmSource) {
	t.Helper()
	r, err := rabbitmqbroker.NewFromURL(q.url, rabbitmqbroker.WithQuorumQueues(), rabbitmqbroker.WithWindow(window))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r, r
}

// kafkaTopic is a topic with one partition.
type kafkaTopic struct {
	t       testing.TB
	brokers []string
	name    string
	client  *kgo.Client
}

func emptyTopic(t testing.TB, place *testenv.KafkaPlace) *kafkaTopic {
	t.Helper()
	k := &kafkaTopic{t: t, brokers: place.Brokers, name: place.Topic(orders, 1)}
	client, err := kgo.NewClient(kgo.SeedBrokers(k.brokers...))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	k.client = client
	return k
}

func (k *kafkaTopic) topic() string { return k.name }

func (k *kafkaTopic) count() int {
	k.t.Helper()
	end := kmsg.NewListOffsetsRequestTopicPartition()
	end.Timestamp = -1
	asked := kmsg.NewListOffsetsRequestTopic()
	asked.Topic, asked.Partitions = k.name, append(asked.Partitions, end)
	request := kmsg.NewPtrListOffsetsRequest()
	request.Topics = append(request.Topics, asked)
	response, err := request.RequestWith(context.Background(), k.client)
	require.NoError(k.t, err)
	answer := response.Topics[0].Partitions[0]
	require.NoError(k.t, kerr.ErrorForCode(answer.ErrorCode))
	return int(answer.Offset)
}

func (k *kafkaTopic) received(count int) map[int]int {
	k.t.Helper()
	consumer, err := kgo.NewClient(kgo.SeedBrokers(k.brokers...), kgo.ConsumeTopics(k.name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(k.t, err)
	defer consumer.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	numbers := make(map[int]int, count)
	for seen := 0; seen < count; {
		fetches := consumer.PollFetches(ctx)
		require.NoError(k.t, fetches.Err(), "the topic says that it has more records than it delivers")
		fetches.EachRecord(func(r *kgo.Record) { numbers[number(k.t, r.Value)]++ })
		seen += fetches.NumRecords()
	}
	return numbers
}

func (k *kafkaTopic) adapter(t testing.TB) (reliable.Publisher, reliable.ConfirmSource) {
	t.Helper()
	b, err := kafkabroker.New(k.brokers, kafkabroker.WithWindow(window))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b, b
}
