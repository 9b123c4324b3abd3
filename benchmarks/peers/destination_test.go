//go:build services

package peers

import (
	"context"
	"testing"

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
	// consume takes what it has, and what comes, until ctx is done.
	consume(ctx context.Context, each func(content []byte)) error
	// adapter is Waybill's publisher to it, open until t ends.
	adapter(t testing.TB) (reliable.Publisher, reliable.ConfirmSource)
}

// quorumQueue is a queue on RabbitMQ. How many messages it has is asked on a connection that only does that.
type quorumQueue struct {
	t    testing.TB
	url  string
	name string
	open *amqp.Channel
}

var quorum = amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum}

// queueOn is the queue of that name, which is made if it is not there.
func queueOn(t testing.TB, url, name string) *quorumQueue {
	t.Helper()
	q := &quorumQueue{t: t, url: url, name: name}
	q.open = q.channel()
	_, err := q.open.QueueDeclare(name, true, false, false, false, quorum)
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

func (q *quorumQueue) topic() string { return q.name }

func (q *quorumQueue) count() int {
	q.t.Helper()
	state, err := q.open.QueueDeclarePassive(q.name, true, false, false, false, quorum)
	require.NoError(q.t, err)
	return state.Messages
}

func (q *quorumQueue) consume(ctx context.Context, each func(content []byte)) error {
	conn, err := amqp.Dial(q.url)
	if err != nil {
		return err
	}
	defer conn.Close()
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	deliveries, err := channel.ConsumeWithContext(ctx, q.name, "", true, false, false, false, nil)
	if err != nil {
		return err
	}
	for {
		select {
		case delivery, open := <-deliveries:
			if !open {
				return ctx.Err()
			}
			each(delivery.Body)
		case <-ctx.Done():
			return nil
		}
	}
}

func (q *quorumQueue) adapter(t testing.TB) (reliable.Publisher, reliable.ConfirmSource) {
	t.Helper()
	r, err := rabbitmqbroker.NewFromURL(q.url, rabbitmqbroker.WithQuorumQueues(), rabbitmqbroker.WithWindow(window),
		rabbitmqbroker.WithLogger(silent))
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

func (k *kafkaTopic) consume(ctx context.Context, each func(content []byte)) error {
	consumer, err := kgo.NewClient(kgo.SeedBrokers(k.brokers...), kgo.ConsumeTopics(k.name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer consumer.Close()
	for ctx.Err() == nil {
		consumer.PollFetches(ctx).EachRecord(func(r *kgo.Record) { each(r.Value) })
	}
	return nil
}

func (k *kafkaTopic) adapter(t testing.TB) (reliable.Publisher, reliable.ConfirmSource) {
	t.Helper()
	b, err := kafkabroker.New(k.brokers, kafkabroker.WithWindow(window), kafkabroker.WithLogger(silent))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b, b
}
