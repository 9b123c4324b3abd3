package middleware_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable"
)

func TestDelayed_goesThroughTheRetryTopicsAndBlocksNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		stop := r.consume(r.preset(middleware.RetryDelayed(time.Second, 10*time.Second, 10*time.Second)), func(msg *message.Message) error {
			assert.NotContains(t, msg.Metadata, reliable.HeaderFailureAttempts, "the handler sees the message as it was sent")
			assert.Equal(t, "eu", msg.Metadata["tenant"])
			if msg.UUID == "order-1" {
				return errBroken
			}
			return nil
		})
		defer stop()
		tenant := map[string]string{"tenant": "eu"}
		r.send(reliable.Envelope{ID: "order-1", Key: "ada", Metadata: tenant}, reliable.Envelope{ID: "order-2", Key: "ada", Metadata: tenant})
		pass(time.Millisecond)
		assert.Len(t, r.attempts("order-2"), 1, "what is behind goes on at once")
		pass(time.Minute)

		var at []time.Duration
		for _, call := range r.attempts("order-1") {
			at = append(at, call.at)
		}
		assert.Equal(t, []time.Duration{0, time.Second, 11 * time.Second, 21 * time.Second}, at)
		require.Len(t, r.in(poison), 1)
		got := r.in(poison)[0]
		f, _ := middleware.FailureOf(got)
		assert.Equal(t, topic, f.Topic, "where it came from first")
		assert.Equal(t, "bill", f.Handler)
		assert.Equal(t, 4, f.Attempts)
		assert.Equal(t, 3, f.Retries)
		assert.Equal(t, 21*time.Second, f.Last.Sub(f.First))
		assert.Zero(t, f.Due)
		assert.Equal(t, "ada", got.Metadata[reliable.HeaderKey])
	})
}

func TestHistoryOf_tellsAHandlerWhatWasTriedBefore(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var attempts, retries []int
		stop := r.consume(r.preset(middleware.RetryInPlace(1, time.Second), middleware.RetryDelayed(time.Second)), func(msg *message.Message) error {
			history := middleware.HistoryOf(msg.Context())
			assert.Equal(t, 2, history.Replays)
			attempts, retries = append(attempts, history.Attempts), append(retries, history.Retries)
			return errBroken
		})
		defer stop()
		msg := message.NewMessage("order-1", nil)
		msg.Metadata = message.Metadata{reliable.HeaderReplays: "2"}
		require.NoError(t, r.publisher.Publish(topic, msg))
		pass(time.Minute)
		assert.Equal(t, []int{0, 1, 2, 3}, attempts)
		assert.Equal(t, []int{0, 0, 1, 1}, retries)
		assert.Zero(t, middleware.HistoryOf(t.Context()))
	})
}

func TestDelayed_isDoneAfterItsFirstSuccess(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		stop := r.consume(r.preset(middleware.RetryDelayed(time.Second, time.Minute)), func(*message.Message) error {
			if len(r.attempts("order-1")) < 2 {
				return errBroken
			}
			return nil
		})
		defer stop()
		r.send(reliable.Envelope{ID: "order-1"})
		pass(time.Hour)
		assert.Len(t, r.attempts("order-1"), 2)
		assert.Empty(t, r.in(poison))
	})
}

func TestDelayed_countSurvivesARestart(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		delays := middleware.RetryDelayed(10*time.Second, 20*time.Second)
		r.send(reliable.Envelope{ID: "order-1"})
		for _, wait := range []time.Duration{5 * time.Second, 15 * time.Second, 3 * time.Second} { // amid each delay
			stop := r.consume(r.preset(delays), failing)
			pass(wait)
			stop()
		}
		stop := r.consume(r.preset(delays), failing)
		defer stop()
		pass(time.Hour)
		assert.Len(t, r.attempts("order-1"), 3)
		require.Len(t, r.in(poison), 1)
		f, _ := middleware.FailureOf(r.in(poison)[0])
		assert.Equal(t, 3, f.Attempts)
		assert.Equal(t, 30*time.Second, f.Last.Sub(f.First).Round(time.Second), "the delays went on meanwhile")
	})
}

// No message is held for longer than the hold; the others of its topic are neither forgotten nor late by much.
func TestDelayed_longDelaysMoveMessagesAroundAndKeepTheirTime(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const hold, delay = 15 * time.Second, 10 * time.Minute
		stop := r.consume(r.preset(middleware.RetryDelayed(delay), middleware.WithHold(hold)), failing)
		defer stop()
		for i := range 20 {
			r.send(reliable.Envelope{ID: reliable.ID(fmt.Sprintf("order-%d", i))})
		}
		pass(time.Hour)
		assert.Len(t, r.in(poison), 20)
		for i := range 20 {
			calls := r.attempts(fmt.Sprintf("order-%d", i))
			require.Len(t, calls, 2)
			assert.GreaterOrEqual(t, calls[1].at, delay)
			assert.Less(t, calls[1].at, delay+2*hold)
		}
		moved := len(r.in("orders.retry.billing.1"))
		assert.Less(t, moved, 20+int(delay/hold)+20, "one is moved per hold, not all of them")
	})
}

func TestDelayed_beginsWithRetriesInPlaceIfBothAreAskedFor(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		stop := r.consume(r.preset(middleware.RetryInPlace(1, time.Second), middleware.RetryDelayed(10*time.Second)), failing)
		defer stop()
		r.send(reliable.Envelope{ID: "order-1"})
		pass(time.Hour)
		var at []time.Duration
		for _, call := range r.attempts("order-1") {
			at = append(at, call.at)
		}
		assert.Equal(t, []time.Duration{0, time.Second, 11 * time.Second, 12 * time.Second}, at)
		f, _ := middleware.FailureOf(r.in(poison)[0])
		assert.Equal(t, 4, f.Attempts)
	})
}

// A history is believed in the group's own retry topics only. Else a message made from another one's metadata would begin
// its life used up.
func TestHistory_ofAnotherTopicOrGroupIsIgnored(t *testing.T) {
	for name, c := range map[string]struct{ topic, group string }{
		"in the topic itself":     {topic, group},
		"in another group's name": {"orders.retry.billing.1", "shipping"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				stop := r.consume(r.preset(middleware.RetryDelayed(time.Second, time.Minute)), failing)
				defer stop()
				msg := message.NewMessage("order-1", nil)
				msg.Metadata = message.Metadata{
					reliable.HeaderFailureTopic: topic, reliable.HeaderFailureGroup: c.group, reliable.HeaderFailureHandler: "other",
					reliable.HeaderFailureAttempts: "77", reliable.HeaderFailureRetries: "2",
					reliable.HeaderFailureDue: time.Now().Add(24 * time.Hour).Format(time.RFC3339Nano),
				}
				require.NoError(t, r.publisher.Publish(c.topic, msg))
				pass(time.Hour)
				require.Len(t, r.in(poison), 1)
				f, _ := middleware.FailureOf(r.in(poison)[0])
				assert.Equal(t, topic, f.Topic, "a retry topic is no place to replay to")
				assert.Equal(t, group, f.Group)
				assert.Equal(t, 3, f.Attempts)
			})
		})
	}
}

// Whatever the clocks of two processes say, nothing waits for longer than its delay.
func TestDelayed_clocksThatDifferDelayNothingForLonger(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		stop := r.consume(r.preset(middleware.RetryDelayed(10*time.Second)), failing)
		defer stop()
		msg := message.NewMessage("order-1", nil)
		msg.Metadata = message.Metadata{
			reliable.HeaderFailureTopic: topic, reliable.HeaderFailureGroup: group,
			reliable.HeaderFailureAttempts: "1", reliable.HeaderFailureRetries: "1",
			reliable.HeaderFailureDue: time.Now().Add(24 * time.Hour).Format(time.RFC3339Nano),
		}
		require.NoError(t, r.publisher.Publish("orders.retry.billing.1", msg))
		pass(11 * time.Second)
		assert.Len(t, r.attempts("order-1"), 1)
		assert.Len(t, r.in(poison), 1)
	})
}

// Each copy on purpose has a mark of its own, and a copy by accident has the mark of what it repeats: a broker that drops
// repeated IDs must tell them apart.
func TestCopies_areMarkedApart(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		stop := r.consume(r.preset(middleware.RetryDelayed(time.Second, time.Second)), failing)
		defer stop()
		r.send(reliable.Envelope{ID: "order-1"}, reliable.Envelope{ID: "order-1"})
		pass(time.Minute)
		var marks []string
		for _, name := range []string{"orders.retry.billing.1", poison} {
			for _, msg := range r.in(name) {
				marks = append(marks, msg.Metadata[reliable.HeaderCopy])
			}
		}
		assert.Equal(t, []string{
			"1 billing bill", "1 billing bill", "2 billing bill", "2 billing bill", "3 billing bill", "3 billing bill",
		}, marks)
	})
}
