package kafkabroker_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

// soon are options with which nothing waits long.
func soon(more ...kafkabroker.SubscriberOption) []kafkabroker.SubscriberOption {
	return append([]kafkabroker.SubscriberOption{
		kafkabroker.WithDrainTimeout(0), kafkabroker.WithNackDelay(time.Millisecond),
	}, more...)
}

// subscriberOf returns a subscriber that ends with the test.
func subscriberOf(t testing.TB, b *kafkabroker.Broker, group string, opts ...kafkabroker.SubscriberOption) *kafkabroker.Subscriber {
	t.Helper()
	sub, err := b.Subscriber(group, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, sub.Close()) })
	return sub
}

func subscribe(t testing.TB, sub message.Subscriber, topic string) <-chan *message.Message {
	t.Helper()
	messages, err := sub.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	return messages
}

// take takes n messages without acking them.
func take(t testing.TB, messages <-chan *message.Message, n int) []*message.Message {
	t.Helper()
	taken := make([]*message.Message, 0, n)
	limit := time.After(patience)
	for len(taken) < n {
		select {
		case msg := <-messages:
			require.NotNil(t, msg, "the subscription ended")
			taken = append(taken, msg)
		case <-limit:
			require.Fail(t, "no message", "%d of %d came", len(taken), n)
		}
	}
	return taken
}

// nothing demands that no message comes for a moment.
func nothing(t testing.TB, messages <-chan *message.Message) {
	t.Helper()
	select {
	case msg := <-messages:
		require.Fail(t, "a message that was not to come", "%v", msg)
	case <-time.After(200 * time.Millisecond):
	}
}

func ids(messages []*message.Message) (all []reliable.ID) {
	for _, msg := range messages {
		all = append(all, reliable.ID(msg.UUID))
	}
	return all
}

// supplied is a cluster whose topic "orders" has n messages in one partition.
func supplied(t testing.TB, n int, opts ...kafkabroker.Option) (*kfake.Cluster, *kafkabroker.Broker, []reliable.Attempt) {
	t.Helper()
	cluster := fake(t)
	b := open(t, cluster.ListenAddrs(), opts...)
	batch := attempts("orders", n)
	requireOutcome(t, reliable.Acked, publish(t, b, batch...)...)
	return cluster, b, batch
}

func TestSubscriber_refusesWhatCannotBe(t *testing.T) {
	b := open(t, []string{"host:9092"})
	_, err := b.Subscriber("", kafkabroker.WithConcurrency(0), kafkabroker.WithDrainTimeout(time.Hour), kafkabroker.WithNackDelay(-1))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, what := range []string{"group", "WithConcurrency", "WithDrainTimeout", "WithNackDelay"} {
		assert.ErrorContains(t, err, what)
	}
	sub := subscriberOf(t, b, "shipping")
	_, err = sub.Subscribe(t.Context(), "")
	require.ErrorIs(t, err, reliable.ErrInvalid)
	require.NoError(t, sub.Close())
	_, err = sub.Subscribe(t.Context(), "orders")
	require.ErrorIs(t, err, reliable.ErrClosed)
	require.ErrorIs(t, sub.SubscribeInitialize("orders"), reliable.ErrClosed)
}

func TestSubscriber_saysThatATopicDoesNotExist(t *testing.T) {
	b := open(t, fake(t).ListenAddrs(), quick())
	_, err := subscriberOf(t, b, "shipping").Subscribe(t.Context(), "nowhere")
	require.ErrorContains(t, err, "nowhere")
	require.ErrorContains(t, err, "UNKNOWN_TOPIC_OR_PARTITION")
}

func TestSubscriber_makesItsTopic(t *testing.T) {
	b := open(t, fake(t).ListenAddrs(), kafkabroker.WithTopics(3, 1))
	sub := subscriberOf(t, b, "shipping", soon()...)
	require.NoError(t, sub.SubscribeInitialize("invoices"))
	requireOutcome(t, reliable.Acked, publish(t, b, attempts("invoices", 10)...)...)
	take(t, subscribeAcking(t, sub, "invoices"), 10)
}

// subscribeAcking acks what it passes on.
func subscribeAcking(t testing.TB, sub message.Subscriber, topic string) <-chan *message.Message {
	t.Helper()
	seen := make(chan *message.Message, 100_000)
	messages := subscribe(t, sub, topic)
	go func() {
		for msg := range messages {
			msg.Ack()
			seen <- msg
		}
	}()
	return seen
}

func TestSubscriber_handsOverOneAtATimeAndInOrderByDefault(t *testing.T) {
	_, b, batch := supplied(t, 50)
	messages := subscribe(t, subscriberOf(t, b, "shipping", soon()...), "orders")
	var order []reliable.ID
	for range batch {
		one := take(t, messages, 1)
		if len(order) == 0 {
			nothing(t, messages)
		}
		order = append(order, ids(one)...)
		one[0].Ack()
	}
	require.Equal(t, idsOf(batch), order)
}

func TestWithConcurrency_countsFromTheOldestThatIsNotAcked(t *testing.T) {
	_, b, batch := supplied(t, 6)
	messages := subscribe(t, subscriberOf(t, b, "shipping", soon(kafkabroker.WithConcurrency(3))...), "orders")
	out := take(t, messages, 3)
	require.Equal(t, idsOf(batch[:3]), ids(out))
	nothing(t, messages)
	out[1].Ack()
	out[2].Ack()
	nothing(t, messages)
	out[0].Ack()
	require.Equal(t, idsOf(batch[3:]), ids(take(t, messages, 3)))
}

func TestBackend_handsOverAsManyAtOnceAsTheURLSays(t *testing.T) {
	cluster, _, _ := supplied(t, 4)
	broker, err := backend.Brokers{kafkabroker.Backend()}.Open(t.Context(), "kafka://"+cluster.ListenAddrs()[0]+"?concurrency=3")
	require.NoError(t, err)
	defer broker.Close()
	sub, err := broker.Subscribe("shipping")
	require.NoError(t, err)
	defer sub.Close()
	messages := subscribe(t, sub, "orders")
	out := take(t, messages, 3)
	nothing(t, messages)
	for _, msg := range out {
		msg.Ack()
	}
	take(t, messages, 1)[0].Ack()
}

func TestSubscriber_commitsNoFurtherThanTheOldestThatIsNotAcked(t *testing.T) {
	_, b, batch := supplied(t, 6)
	opts := soon(kafkabroker.WithConcurrency(6))
	first := subscriberOf(t, b, "shipping", opts...)
	messages := subscribe(t, first, "orders")
	out := take(t, messages, 6)
	for _, i := range []int{0, 1, 3, 5} {
		out[i].Ack()
	}
	require.NoError(t, first.Close())
	_, open := <-messages
	require.False(t, open, "its channel is closed")
	out[2].Ack() // too late
	require.Equal(t, idsOf(batch[2:]), ids(take(t, subscribe(t, subscriberOf(t, b, "shipping", opts...), "orders"), 4)))
}

func TestSubscriber_handsOverAgainWhatWasNacked(t *testing.T) {
	_, b, batch := supplied(t, 3)
	messages := subscribe(t, subscriberOf(t, b, "shipping", soon(kafkabroker.WithConcurrency(2))...), "orders")
	out := take(t, messages, 2)
	out[0].Nack()
	again := take(t, messages, 1)
	require.Equal(t, batch[0].ID, reliable.ID(again[0].UUID))
	require.Equal(t, string(batch[0].Payload), string(again[0].Payload))
	require.NoError(t, again[0].Context().Err())
	require.Error(t, out[0].Context().Err(), "that of the first copy is over")
	again[0].Nack()
	take(t, messages, 1)[0].Ack()
	out[1].Ack()
	require.Equal(t, batch[2].ID, reliable.ID(take(t, messages, 1)[0].UUID))
}

func TestClose_waitsForWhatIsWithTheHandler(t *testing.T) {
	_, b, batch := supplied(t, 3)
	first := subscriberOf(t, b, "shipping", kafkabroker.WithConcurrency(2), kafkabroker.WithDrainTimeout(maxDrain))
	messages := subscribe(t, first, "orders")
	out := take(t, messages, 2)
	closed := make(chan error, 1)
	go func() { closed <- first.Close() }()
	nothing(t, messages) // Close is under way, or would be by now
	require.Empty(t, closed)
	require.NoError(t, out[0].Context().Err())
	out[0].Ack()
	out[1].Ack()
	require.NoError(t, <-closed)
	require.Equal(t, batch[2].ID, reliable.ID(take(t, subscribe(t, subscriberOf(t, b, "shipping", soon()...), "orders"), 1)[0].UUID))
}

// maxDrain is as long as a drain may take.
const maxDrain = 45 * time.Second

func TestClose_waitsNoLongerThanTheDrainTimeout(t *testing.T) {
	_, b, _ := supplied(t, 1)
	sub := subscriberOf(t, b, "shipping", kafkabroker.WithDrainTimeout(100*time.Millisecond))
	held := take(t, subscribe(t, sub, "orders"), 1)[0]
	began := time.Now()
	require.NoError(t, sub.Close())
	require.Less(t, time.Since(began), busy)
	require.Error(t, held.Context().Err(), "the handler hears of it")
}

func TestClose_doesNotWaitForAClusterThatIsGone(t *testing.T) {
	cluster, b, _ := supplied(t, 2, quick())
	sub := subscriberOf(t, b, "shipping", soon(kafkabroker.WithConcurrency(2))...)
	take(t, subscribe(t, sub, "orders"), 2)[0].Ack()
	cluster.Close()
	began := time.Now()
	require.NoError(t, sub.Close())
	require.Less(t, time.Since(began), busy+10*time.Second)
}

func TestSubscription_endsWithItsContext(t *testing.T) {
	_, b, batch := supplied(t, 2)
	sub := subscriberOf(t, b, "shipping", soon()...)
	ctx, cancel := context.WithCancel(t.Context())
	messages, err := sub.Subscribe(ctx, "orders")
	require.NoError(t, err)
	take(t, messages, 1)
	cancel()
	for range messages { // until it is closed
	}
	require.Equal(t, batch[0].ID, reliable.ID(take(t, subscribe(t, sub, "orders"), 1)[0].UUID), "another one goes on")
}

// illiterate is a marshaler that cannot read the first times.
type illiterate struct {
	wkafka.DefaultMarshaler
	times *atomic.Int64
}

func (m illiterate) Unmarshal(msg *sarama.ConsumerMessage) (*message.Message, error) {
	if m.times.Add(-1) >= 0 {
		return nil, errors.New("cannot read it")
	}
	return m.DefaultMarshaler.Unmarshal(msg)
}

func TestSubscriber_losesNothingThatItCannotRead(t *testing.T) {
	var times atomic.Int64
	times.Store(1)
	_, b, batch := supplied(t, 3, kafkabroker.WithMarshaler(illiterate{times: &times}))
	messages := subscribe(t, subscriberOf(t, b, "shipping", soon(kafkabroker.WithConcurrency(3))...), "orders")
	require.Equal(t, idsOf(batch), ids(take(t, messages, 3)))
}

// A consumer that is slower than its topic makes the partition stop fetching, and begin again, several times.
func TestSubscriber_losesNothingOfALargeBacklog(t *testing.T) {
	const n, bytes = 1500, 16 << 10
	cluster := fake(t)
	b := open(t, cluster.ListenAddrs())
	batch := attempts("orders", n)
	for i := range batch {
		batch[i].Payload = incompressible(bytes)
	}
	for begin := 0; begin < n; begin += 500 {
		requireOutcome(t, reliable.Acked, publish(t, b, batch[begin:begin+500]...)...)
	}
	messages := subscribeAcking(t, subscriberOf(t, b, "shipping", soon()...), "orders")
	require.Equal(t, idsOf(batch), ids(take(t, messages, n)))
}

func TestSubscriber_givesPartitionsToANewMemberOnceTheyAreDrained(t *testing.T) {
	cluster := fake(t)
	b := open(t, cluster.ListenAddrs(), kafkabroker.WithTopics(2, 1))
	require.NoError(t, b.Declare(t.Context(), "invoices"))
	const n = 40
	batch := attempts("invoices", n)
	for i := range batch {
		batch[i].Key = fmt.Sprint("customer-", i)
	}
	requireOutcome(t, reliable.Acked, publish(t, b, batch...)...)
	first := subscriberOf(t, b, "shipping", kafkabroker.WithConcurrency(n))
	out := take(t, subscribe(t, first, "invoices"), n)
	second := subscribe(t, subscriberOf(t, b, "shipping", soon(kafkabroker.WithConcurrency(n))...), "invoices")
	nothing(t, second)
	for _, msg := range out {
		msg.Ack()
	}
	// What is published from now on goes to both, and nothing of before comes again.
	later := attempts("invoices", n)
	for i := range later {
		later[i].Key = fmt.Sprint("customer-", i)
	}
	known := make(map[reliable.ID]bool)
	for i := range later {
		known[later[i].ID] = true
	}
	requireOutcome(t, reliable.Acked, publish(t, b, later...)...)
	require.True(t, known[reliable.ID(take(t, second, 1)[0].UUID)], "a message of before came again")
}

// A partition that had stopped fetching when it went to another member fetches again once it is back.
func TestSubscriber_fetchesAgainWhatComesBack(t *testing.T) {
	const n, bytes = 600, 16 << 10
	cluster := fake(t)
	b := open(t, cluster.ListenAddrs(), kafkabroker.WithTopics(2, 1))
	require.NoError(t, b.Declare(t.Context(), "invoices"))
	batch := attempts("invoices", n)
	for i := range batch {
		batch[i].Payload, batch[i].Key = incompressible(bytes), fmt.Sprint("customer-", i)
	}
	requireOutcome(t, reliable.Acked, publish(t, b, batch...)...)
	messages := subscribe(t, subscriberOf(t, b, "shipping", soon()...), "invoices")
	held := take(t, messages, 2) // one of each partition, of which most waits
	other := subscriberOf(t, b, "shipping", soon()...)
	take(t, subscribe(t, other, "invoices"), 1)
	require.NoError(t, other.Close())
	seen := make(map[string]bool)
	for _, msg := range held {
		seen[msg.UUID] = true
		msg.Ack()
	}
	for len(seen) < n {
		msg := take(t, messages, 1)[0]
		seen[msg.UUID] = true
		msg.Ack()
	}
}
