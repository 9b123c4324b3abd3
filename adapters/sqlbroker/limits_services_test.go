//go:build services

package sqlbroker_test

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/reliable"
)

// subscribe returns the messages of a topic for a new group, until the test ends.
func subscribe(t *testing.T, b *sqlbroker.Broker, topic string, opts ...sqlbroker.SubscriberOption) <-chan *message.Message {
	t.Helper()
	sub, err := b.Subscriber("group", append([]sqlbroker.SubscriberOption{sqlbroker.WithPollInterval(10 * time.Millisecond)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, sub.Close()) })
	messages, err := sub.Subscribe(t.Context(), topic)
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

// whileHandled publishes one message and, while its handler is at work, another one; it returns what became of that.
func whileHandled(t *testing.T, b *sqlbroker.Broker, opts ...sqlbroker.SubscriberOption) reliable.Outcome {
	t.Helper()
	require.Equal(t, reliable.Acked, outcome(t, b, reliable.Envelope{Topic: "orders"}).Outcome)
	messages := subscribe(t, b, "orders", opts...)
	msg := next(t, messages)
	beside := outcome(t, b, reliable.Envelope{Topic: "orders"}).Outcome
	msg.Ack()
	require.Equal(t, reliable.Acked, outcome(t, b, reliable.Envelope{Topic: "orders"}).Outcome)
	next(t, messages).Ack()
	return beside
}

func TestSubscriber_keepsNobodyFromPublishingByDefault(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		assert.Equal(t, reliable.Acked, whileHandled(t, d.broker(t, d.db, []string{"orders"})))
	})
}

// This is what WithFetch is about. Should it begin to fail, its default can be larger.
func TestSubscriber_onMySQLThatReadsToTheEndKeepsPublishersWaiting(t *testing.T) {
	d := mariaDB(t)
	b := d.broker(t, d.db, []string{"orders"}, sqlbroker.WithConfirmTimeout(3*time.Second))
	assert.Equal(t, reliable.Unknown, whileHandled(t, b, sqlbroker.WithFetch(100)))
}

// A slow handler's transaction hides what is newer from every other subscriber of the server.
func TestSubscriber_onPostgreSQLASlowHandlerDelaysOtherTopics(t *testing.T) {
	d := postgres(t)
	b := d.broker(t, d.db, []string{"slow", "quick"})
	quick := subscribe(t, b, "quick")
	publish(t, b, attempts("slow", 1))
	slow := next(t, subscribe(t, b, "slow"))
	publish(t, b, attempts("quick", 1))
	receive(t, b, 2)
	select {
	case <-quick:
		assert.Fail(t, "it came beside a handler at work")
	case <-time.After(time.Second):
	}
	slow.Ack()
	next(t, quick).Ack()
}

// An operator's replay, or a process that stops, has acked some of what was read together.
func TestSubscriber_recordsAcksOfABatchWhoseSubscriptionEndsInItsMiddle(t *testing.T) {
	ends := map[string]func(cancel func(), sub *sqlbroker.Subscriber) error{
		"by its context": func(cancel func(), _ *sqlbroker.Subscriber) error { cancel(); return nil },
		"by Close":       func(_ func(), sub *sqlbroker.Subscriber) error { return sub.Close() },
	}
	each(t, func(t *testing.T, d *database) {
		for name, end := range ends {
			t.Run(name, func(t *testing.T) {
				topic := topicName("batch")
				b := d.broker(t, d.db, []string{topic})
				sent := attempts(topic, 3)
				publish(t, b, sent)
				receive(t, b, len(sent))

				sub, err := b.Subscriber("group", sqlbroker.WithFetch(len(sent)), sqlbroker.WithAckDeadline(time.Hour))
				require.NoError(t, err)
				defer sub.Close()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				messages, err := sub.Subscribe(ctx, topic)
				require.NoError(t, err)
				for i := range 2 {
					msg := next(t, messages)
					assert.Equal(t, string(sent[i].ID), msg.UUID)
					msg.Ack()
				}
				held := next(t, messages)
				require.NoError(t, end(cancel, sub))
				<-held.Context().Done()
				for late := range messages { // Watermill may give it once more while it ends
					assert.Equal(t, held.UUID, late.UUID)
				}

				first := next(t, subscribe(t, b, topic))
				assert.Equal(t, held.UUID, first.UUID, "what was acked is not delivered again")
				first.Ack()
			})
		}
	})
}

// Without a row to lock, members that begin together lock the gap where it is to be, and keep each other from making it.
func TestSubscriber_makesItsGroupKnownBeforeItReads(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		b := d.broker(t, d.db, []string{"orders"})
		subscribe(t, b, "orders")
		var acked int64
		query := "SELECT offset_acked FROM " + d.quoted("watermill_offsets_orders") + " WHERE consumer_group = 'group'"
		require.NoError(t, d.db.QueryRowContext(within(t), query).Scan(&acked))
		assert.Zero(t, acked)
	})
}

func TestSubscriber_thatWaitsForAnotherMemberEndsInTime(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		b := d.broker(t, d.db, []string{"orders"}, sqlbroker.WithConfirmTimeout(200*time.Millisecond))
		publish(t, b, attempts("orders", 2))
		receive(t, b, 2)
		with := next(t, subscribe(t, b, "orders", sqlbroker.WithAckDeadline(time.Hour)))
		ctx, cancel := context.WithCancel(t.Context())
		second, err := b.Subscriber("group", sqlbroker.WithResendInterval(time.Millisecond))
		require.NoError(t, err)
		messages, err := second.Subscribe(ctx, "orders")
		require.NoError(t, err)
		cancel()
		_, open := <-messages
		assert.False(t, open)
		require.NoError(t, second.Close())
		with.Ack()
	})
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
	const n = 400
	each(t, func(t *testing.T, d *database) {
		for _, fetch := range []int{1, 10, 100} {
			topic := topicName("backlog")
			b := d.broker(t, d.db, []string{topic})
			publish(t, b, attempts(topic, n))
			receive(t, b, n)
			messages := subscribe(t, b, topic, sqlbroker.WithFetch(fetch))
			began := time.Now()
			for range n {
				next(t, messages).Ack()
			}
			t.Logf("fetch %d: %.0f messages per second", fetch, n/time.Since(began).Seconds())
		}
	})
}
