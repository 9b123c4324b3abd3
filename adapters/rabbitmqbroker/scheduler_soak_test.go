//go:build services && soak

package rabbitmqbroker_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/schedulertest"
)

func soaking(delay time.Duration) schedulertest.Harness {
	return schedulertest.Harness{Delay: delay, Open: func(t testing.TB) schedulertest.Subject {
		url := testenv.RabbitMQ(t)
		return schedulertest.Subject{
			Scheduler: scheduler(t, url, []time.Duration{delay}, rabbitmqbroker.WithBundles()),
			Topic:     func(testing.TB) string { return "checks" },
			Subscribe: func(t testing.TB, topic string) <-chan *message.Message { return apart(t, url, topic) },
		}
	}}
}

func TestSoakScheduler_keepsTenThousandASecondOnTime(t *testing.T) {
	const delay = 5 * time.Second
	schedulertest.Sustain(t, soaking(delay), schedulertest.Load{
		Rate: 10_000, For: time.Minute, Delay: delay, Late: 5 * time.Second,
	})
}

func TestSoakScheduler_deliversAHundredThousandThatWaitTogether(t *testing.T) {
	const delay = 30 * time.Second
	schedulertest.Pending(t, soaking(delay), 100_000, schedulertest.Load{Delay: delay, Late: 30 * time.Second})
}

// A delayed message whose topic has no queue any more is kept, as at-least-once dead-lettering does, and delivered once
// there is one; RabbitMQ tries every three minutes.
func TestSoakScheduler_keepsWhatIsDueUntilItsQueueIsThere(t *testing.T) {
	url := testenv.RabbitMQ(t)
	channel := admin(t, url)
	s := scheduler(t, url, []time.Duration{500 * time.Millisecond}, rabbitmqbroker.WithShards(1))
	due := func(id reliable.ID, topic string) {
		require.NoError(t, s.Schedule(t.Context(), 0, reliable.Envelope{ID: id, Topic: topic, Payload: []byte("due")}))
	}
	due("order-1", "checks")
	_, err := channel.QueueDelete("checks", false, false, false)
	require.NoError(t, err)
	// A later message behind it in the same queue comes: so the first one was due, and could go nowhere.
	due("order-2", "others")
	for _, came := range []struct{ topic, id string }{{"others", "order-2"}, {"checks", "order-1"}} {
		select {
		case msg := <-consume(t, url, came.topic):
			assert.Equal(t, came.id, msg.UUID)
			msg.Ack()
		case <-time.After(8 * time.Minute):
			require.FailNow(t, "the message did not come", came.id)
		}
	}
}
