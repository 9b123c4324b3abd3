//go:build services

package faults

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// budget is a failure budget that a test can wait for.
const budget = 3 * time.Second

// brief are options with that budget.
var brief = []tagging.Option{
	tagging.WithFailureBudget(3, budget), tagging.WithBackoff(200*time.Millisecond, 500*time.Millisecond),
	tagging.WithPollInterval(100 * time.Millisecond),
}

// endless never uses its budget up while a test runs.
var endless = []tagging.Option{tagging.WithBackoff(200*time.Millisecond, time.Second)}

// leisurely is endless for a broker that has time to answer: see unhurried.
var leisurely = append([]tagging.Option{tagging.WithLease(time.Minute)}, endless...)

// publishAll stores n messages to a topic and returns their ids.
func publishAll(t testing.TB, r *rig, topic, prefix string, n int) []reliable.ID {
	t.Helper()
	envs := make([]reliable.Envelope, n)
	for i := range envs {
		envs[i] = reliable.Envelope{ID: reliable.ID(fmt.Sprintf("%s-%d", prefix, i)), Topic: topic, Payload: []byte("x")}
	}
	receipt, err := r.outbox.Publish(context.Background(), envs...)
	require.NoError(t, err)
	return receipt.IDs()
}

func (r *rig) hasAll(status reliable.Status, ids []reliable.ID) bool {
	return r.count(status, ids) == len(ids)
}

// count returns how many of ids have the status.
func (r *rig) count(status reliable.Status, ids []reliable.ID) int {
	have, n := r.withStatus(status), 0
	for _, id := range ids {
		if have[string(id)] {
			n++
		}
	}
	return n
}

func TestRefusal_ofADestinationFailsItsMessagesTogetherAndOnlyAfterTheBudget(t *testing.T) {
	t.Parallel()
	for _, d := range destinations {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			r, amqpURL, _ := d.rig(t, brief...)
			stored := time.Now()
			refused := publishAll(t, r, refusedTopic, "refused", 1000)
			healthy := publishAll(t, r, queue, "healthy", 1000)
			var first time.Time
			require.Eventually(t, func() bool {
				looked := time.Now()
				failed := len(r.withStatus(reliable.Failed))
				if failed > 0 && first.IsZero() {
					first = looked
				}
				return failed == len(refused)
			}, patience, 20*time.Millisecond)
			assert.Less(t, time.Since(first), time.Minute, "they must end together, not one after the other")
			assert.GreaterOrEqual(t, first.Sub(stored), budget, "nothing may fail before the budget is used up")
			assert.Zero(t, r.count(reliable.Confirmed, refused))
			require.Eventually(t, func() bool { return r.hasAll(reliable.Confirmed, healthy) }, patience, 50*time.Millisecond)

			receipts := consume(t, amqpURL, queue)
			assert.Len(t, receipts, len(healthy))
			r.assertCopies(receipts, 3)
			t.Logf("attempts to the refused topic: %d, unknown outcomes: %d", r.seen.attempts(refusedTopic), r.seen.outcome(reliable.Unknown))
		})
	}
}

func TestRefusal_endsByItselfOnceTheDestinationIsThere(t *testing.T) {
	t.Parallel()
	for _, d := range destinations {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			r, amqpURL, repair := d.rig(t, endless...)
			refused := publishAll(t, r, refusedTopic, "refused", 1000)
			r.awaitRefusals(4)
			assert.Zero(t, r.count(reliable.Confirmed, refused))

			repair()
			repaired := time.Now()
			r.eventuallySettled()
			t.Logf("settled %v after the repair", time.Since(repaired).Round(time.Millisecond))
			assert.True(t, r.hasAll(reliable.Confirmed, refused))
			receipts := consume(t, amqpURL, refusedTopic)
			delete(receipts, filler)
			assert.Len(t, receipts, len(refused))
		})
	}
}
