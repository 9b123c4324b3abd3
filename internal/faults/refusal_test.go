//go:build services

package faults

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// declare makes a queue, or changes nothing if it is there.
func declare(t testing.TB, amqpURL, name string, arguments amqp.Table) {
	t.Helper()
	conn, err := amqp.Dial(amqpURL)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	channel, err := conn.Channel()
	require.NoError(t, err)
	_, err = channel.QueueDeclare(name, true, false, false, false, arguments)
	require.NoError(t, err)
}

var quorum = amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum}

// brief is a failure budget that a test can wait for.
var brief = []tagging.Option{
	tagging.WithFailureBudget(3, 3*time.Second), tagging.WithBackoff(200*time.Millisecond, 500*time.Millisecond),
	tagging.WithPollInterval(100 * time.Millisecond),
}

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
	have := r.withStatus(status)
	for _, id := range ids {
		if !have[string(id)] {
			return false
		}
	}
	return true
}

func (r *rig) hasNone(status reliable.Status, ids []reliable.ID) bool {
	have := r.withStatus(status)
	for _, id := range ids {
		if have[string(id)] {
			return false
		}
	}
	return true
}

// destination is a topic whose messages the broker refuses, through no fault of theirs.
type destination struct {
	name  string
	setUp func(t *testing.T, amqpURL string) (topic string, repair func())
}

var destinations = []destination{
	{name: "queue missing", setUp: func(t *testing.T, amqpURL string) (string, func()) {
		return "nowhere", func() { declare(t, amqpURL, "nowhere", quorum) }
	}},
	{name: "queue full", setUp: func(t *testing.T, amqpURL string) (string, func()) {
		declare(t, amqpURL, "full", amqp.Table{"x-max-length": int32(0), amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish})
		return "full", func() {
			conn, err := amqp.Dial(amqpURL)
			require.NoError(t, err)
			defer func() { require.NoError(t, conn.Close()) }()
			channel, err := conn.Channel()
			require.NoError(t, err)
			_, err = channel.QueueDelete("full", false, false, false)
			require.NoError(t, err)
			_, err = channel.QueueDeclare("full", true, false, false, false, quorum)
			require.NoError(t, err)
		}
	}},
}

func TestRefusal_ofADestinationFailsItsMessagesTogetherAndOnlyAfterTheBudget(t *testing.T) {
	for _, d := range destinations {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			amqpURL := testenv.RabbitMQ(t)
			declare(t, amqpURL, queue, quorum)
			topic, _ := d.setUp(t, amqpURL)
			r := newRig(t, rigConfig{
				database: mariaDB(t), amqpURL: amqpURL,
				broker: []rabbitmqbroker.Option{rabbitmqbroker.WithoutDeclaring()}, outbox: brief,
			})
			refused := publishAll(t, r, topic, "refused", 1000)
			stored := time.Now()
			healthy := publishAll(t, r, queue, "healthy", 1000)
			require.Eventually(t, func() bool { return r.hasAll(reliable.Confirmed, healthy) }, 30*time.Second, 50*time.Millisecond)
			if time.Since(stored) < 2*time.Second {
				assert.Empty(t, r.withStatus(reliable.Failed), "nothing may fail before the budget is used up")
			}

			var first time.Time
			require.Eventually(t, func() bool {
				failed := len(r.withStatus(reliable.Failed))
				if failed > 0 && first.IsZero() {
					first = time.Now()
				}
				return failed == len(refused)
			}, time.Minute, 20*time.Millisecond)
			assert.Less(t, time.Since(first), 5*time.Second, "they must end together, not one after the other")
			assert.GreaterOrEqual(t, time.Since(stored), 3*time.Second)
			assert.True(t, r.hasNone(reliable.Confirmed, refused))
		})
	}
}

func TestRefusal_endsByItselfOnceTheDestinationIsThere(t *testing.T) {
	for _, d := range destinations {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			amqpURL := testenv.RabbitMQ(t)
			topic, repair := d.setUp(t, amqpURL)
			r := newRig(t, rigConfig{
				database: postgres(t), amqpURL: amqpURL,
				broker: []rabbitmqbroker.Option{rabbitmqbroker.WithoutDeclaring()},
				outbox: []tagging.Option{tagging.WithBackoff(200*time.Millisecond, time.Second)},
			})
			refused := publishAll(t, r, topic, "refused", 1000)
			require.Eventually(t, func() bool {
				return r.seen.outcome(reliable.Returned)+r.seen.outcome(reliable.Nacked) > 3
			}, 30*time.Second, 10*time.Millisecond)
			assert.True(t, r.hasNone(reliable.Confirmed, refused))

			repair()
			r.eventuallySettled(30 * time.Second)
			assert.True(t, r.hasAll(reliable.Confirmed, refused))
			assert.Len(t, consume(t, amqpURL, topic), len(refused))
		})
	}
}

func TestRefusal_ofAMessageFailsItAtOnceAndOnlyIt(t *testing.T) {
	for name, spoil := range map[string]func(*reliable.Envelope){
		"200 kB header": func(e *reliable.Envelope) { e.Metadata = map[string]string{"long": strings.Repeat("x", 200_000)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			amqpURL := testenv.RabbitMQ(t)
			// Without size checks the broker itself finds the message, by closing what it came on: the worst case.
			r := newRig(t, rigConfig{
				database: mariaDB(t), amqpURL: amqpURL,
				broker:    []rabbitmqbroker.Option{rabbitmqbroker.WithoutSizeChecks()},
				wrapStore: func(s reliable.Store) reliable.Store { return unlimited{s} },
			})
			envs := make([]reliable.Envelope, 400)
			for i := range envs {
				envs[i] = reliable.Envelope{ID: reliable.ID(fmt.Sprintf("m-%d", i)), Topic: queue, Payload: []byte("x")}
			}
			spoil(&envs[200])
			_, err := storeUnchecked(r, envs)
			require.NoError(t, err)
			r.eventuallySettled(time.Minute)

			failed := r.withStatus(reliable.Failed)
			assert.Equal(t, map[string]bool{"m-200": true}, failed)
			records, err := mustInspect(r).Lookup(context.Background(), "m-200")
			require.NoError(t, err)
			require.Len(t, records, 1)
			require.NotEmpty(t, records[0].History)
			assert.NotEmpty(t, records[0].History[len(records[0].History)-1].Reason)
			receipts := consume(t, amqpURL, queue)
			assert.Len(t, receipts, 399)
			for id, n := range receipts {
				assert.LessOrEqual(t, n, 3, "copies of %s", id)
			}
		})
	}
}

// unlimited hides a store's limits, so that what a sender would refuse is stored all the same.
type unlimited struct{ reliable.Store }

func (u unlimited) Unwrap() any           { return u.Store }
func (unlimited) Limits() reliable.Limits { return reliable.Limits{} }

// storeUnchecked stores past the sender's checks, as another version of the program might have.
func storeUnchecked(r *rig, envs []reliable.Envelope) ([]reliable.Stored, error) {
	return r.store.Enqueue(context.Background(), reliable.EnqueueRequest{}, envs...)
}

func mustInspect(r *rig) reliable.Inspector {
	r.t.Helper()
	inspector, ok := reliable.Ability[reliable.Inspector](r.store)
	require.True(r.t, ok)
	return inspector
}
