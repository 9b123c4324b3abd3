//go:build services

package sqlbroker_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/reliable"
)

// handling is how long the handlers of these tests take.
const handling = 1500 * time.Millisecond

// subscribe returns the messages of a topic for a new group, until the test ends.
func subscribe(t *testing.T, b *sqlbroker.Broker, topic string, opts ...sqlbroker.SubscriberOption) <-chan *message.Message {
	t.Helper()
	sub, err := b.Subscriber("group", append([]sqlbroker.SubscriberOption{sqlbroker.WithPollInterval(10 * time.Millisecond)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, sub.Close()) })
	messages, err := sub.Subscribe(within(t), topic)
	require.NoError(t, err)
	return messages
}

// next returns the next message of a topic.
func next(t *testing.T, messages <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case msg := <-messages:
		require.NotNil(t, msg)
		return msg
	case <-time.After(patience):
		require.FailNow(t, "no message came")
		return nil
	}
}

// whileHandled publishes one message and, while its handler is at work, another one; it returns how long that took.
func whileHandled(t *testing.T, b *sqlbroker.Broker, opts ...sqlbroker.SubscriberOption) time.Duration {
	t.Helper()
	require.Equal(t, reliable.Acked, outcome(t, b, reliable.Envelope{Topic: "orders"}).Outcome)
	messages := subscribe(t, b, "orders", opts...)
	msg := next(t, messages)
	done := time.AfterFunc(handling, func() { msg.Ack() })
	defer done.Stop()
	began := time.Now()
	require.Equal(t, reliable.Acked, outcome(t, b, reliable.Envelope{Topic: "orders"}).Outcome)
	took := time.Since(began)
	next(t, messages).Ack()
	return took
}

func TestSubscriber_keepsNobodyFromPublishingByDefault(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		took := whileHandled(t, d.broker(t, d.db, []string{"orders"}))
		t.Logf("publishing beside a handler of %v took %v", handling, took)
		assert.Less(t, took, handling/2)
	})
}

// This is what WithFetch is about. Should it begin to fail, its default can be larger.
func TestSubscriber_onMySQLThatReadsToTheEndKeepsPublishersWaiting(t *testing.T) {
	d := mariaDB(t)
	took := whileHandled(t, d.broker(t, d.db, []string{"orders"}), sqlbroker.WithFetch(100))
	t.Logf("publishing beside a handler of %v took %v", handling, took)
	assert.Greater(t, took, handling/2)
}

// A slow handler's transaction hides what is newer from every other subscriber of the server.
func TestSubscriber_onPostgreSQLASlowHandlerDelaysOtherTopics(t *testing.T) {
	d := postgres(t)
	b := d.broker(t, d.db, []string{"slow", "quick"})
	quick := subscribe(t, b, "quick")
	publish(t, b, attempts("slow", 1))
	msg := next(t, subscribe(t, b, "slow"))
	done := time.AfterFunc(handling, func() { msg.Ack() })
	defer done.Stop()
	began := time.Now()
	publish(t, b, attempts("quick", 1))
	next(t, quick).Ack()
	t.Logf("a message beside a handler of %v came after %v", handling, time.Since(began))
	assert.Greater(t, time.Since(began), handling/2)
	receive(t, b, 2)
}

func TestSubscriber_givesAMessageAgainThatIsNotAckedByItsDeadline(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		b := d.broker(t, d.db, []string{"orders"})
		publish(t, b, attempts("orders", 1))
		receive(t, b, 1)
		messages := subscribe(t, b, "orders", sqlbroker.WithAckDeadline(300*time.Millisecond))
		first := next(t, messages)
		<-first.Context().Done()
		again := next(t, messages)
		assert.Equal(t, first.UUID, again.UUID)
		again.Ack()
	})
}

// It is logged, for docs/sqlbroker.md, and asserts only that everything comes.
func TestSubscriber_readsABacklog(t *testing.T) {
	const n = 2000
	each(t, func(t *testing.T, d *database) {
		for _, fetch := range []int{1, 10, 100} {
			topic := topicName("backlog")
			b := d.broker(t, d.db, []string{topic})
			publish(t, b, attempts(topic, 1000))
			receive(t, b, 1000)
			publish(t, b, attempts(topic, 1000))
			receive(t, b, 1000)
			messages := subscribe(t, b, topic, sqlbroker.WithFetch(fetch))
			began := time.Now()
			for range n {
				next(t, messages).Ack()
			}
			t.Logf("fetch %d: %.0f messages per second", fetch, n/time.Since(began).Seconds())
		}
	})
}
