//go:build services

package faults

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// keyed returns a message whose id says its place within its key.
func keyed(key, n int) reliable.Envelope {
	env := order(fmt.Sprintf("k%02d-%04d", key, n))
	env.Key = fmt.Sprintf("k%02d", key)
	return env
}

// received reads a queue with a bare client and returns the ids in the order in which they came.
func received(t testing.TB, amqpURL, queue string) (ids []string) {
	t.Helper()
	onChannel(t, amqpURL, func(channel *amqp.Channel) error {
		for {
			message, ok, err := channel.Get(queue, true)
			if err != nil || !ok {
				return err
			}
			ids = append(ids, message.MessageId)
		}
	})
	return ids
}

// assertOrder checks the first deliveries of each key.
func assertOrder(t testing.TB, ids []string, keys, perKey int) {
	t.Helper()
	first, next := make(map[string]bool), make(map[string]int)
	for _, id := range ids {
		if first[id] {
			continue // a copy
		}
		first[id] = true
		key, n, _ := strings.Cut(id, "-")
		if !assert.Equal(t, fmt.Sprintf("%04d", next[key]), n, "the first deliveries of %s are out of order", key) {
			return
		}
		next[key]++
	}
	assert.Len(t, first, keys*perKey, "each message must arrive")
}

func TestOrder_ofEachKeyHoldsThroughFailuresAndRestartsOfTwoRelays(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			const keys, perKey = 8, 40
			d, amqpURL := makeDatabase(t), testenv.RabbitMQ(t)
			declare(t, amqpURL, queue, quorum)
			through, proxy := through(t, amqpURL)
			cfg := rigConfig{
				database: d, amqpURL: through,
				broker: []rabbitmqbroker.Option{
					rabbitmqbroker.WithoutDeclaring(), rabbitmqbroker.WithConfirmTimeout(time.Second), rabbitmqbroker.WithBlockedTimeout(time.Second),
				},
				outbox: append([]tagging.Option{tagging.WithLease(crashLease), tagging.WithPollInterval(50 * time.Millisecond)}, endless...),
			}
			rigs := fleet(t, 2, cfg)
			watcher := rigs[0]
			watcher.createOrders()

			var senders sync.WaitGroup
			for key := range keys {
				sender := rigs[key%len(rigs)]
				senders.Go(func() {
					for n := range perKey {
						env := keyed(key, n)
						assert.NoError(t, sender.place(context.Background(), string(env.ID), func(e *reliable.Envelope) { *e = env }))
						time.Sleep(30 * time.Millisecond)
					}
				})
			}
			handed := func() int { return rigs[0].seen.attempts(queue) + rigs[1].seen.attempts(queue) }
			cut := func() { // what was sent meanwhile never arrives
				proxy.CutAll()
				proxy.Stall(faultproxy.Upstream, false)
			}
			unknown := func() int { return rigs[0].seen.outcome(reliable.Unknown) + rigs[1].seen.outcome(reliable.Unknown) }
			require.Eventually(t, func() bool { return handed() > keys }, patience, time.Millisecond)
			require.Eventually(t, func() bool {
				proxy.Stall(faultproxy.Upstream, true)
				for before, until := handed(), time.Now().Add(time.Second); handed() == before && time.Now().Before(until); {
					time.Sleep(time.Millisecond)
				}
				cut()
				return unknown() > 0
			}, patience, 100*time.Millisecond, "something must be on its way when the line is cut")
			c := startChild(t, job{Database: d, AMQPURL: through, Stand: nowhere, Lease: crashLease})
			c.await("placed")
			proxy.Stall(faultproxy.Upstream, true)
			time.Sleep(200 * time.Millisecond) // for the child to have sent something too, perhaps
			cut()
			c.kill() // with the heads of some keys, perhaps
			senders.Wait()
			watcher.eventuallySettled()
			assertOrder(t, received(t, amqpURL, queue), keys, perKey)
		})
	}
}

func TestOrder_aKeyThatFailsHoldsUpItselfOnly(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			amqpURL := testenv.RabbitMQ(t)
			declare(t, amqpURL, queue, quorum)
			d := makeDatabase(t)
			d.Roomy = true
			r := newRig(t, rigConfig{database: d, amqpURL: amqpURL, broker: notDeclaring, outbox: endless})
			const keys, perKey = 5, 20
			for n := range perKey {
				envs := make([]reliable.Envelope, keys)
				for key := range envs {
					envs[key] = keyed(key, n)
				}
				if n == 3 { // the fourth of the first key can never be published
					envs[0].Metadata = map[string]string{"long": strings.Repeat("x", 200_000)}
				}
				_, err := r.store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envs...)
				require.NoError(t, err)
			}
			require.NoError(t, r.outbox.Wake(t.Context()))
			r.eventuallySettledBut(perKey - 4)
			assert.Equal(t, map[string]bool{"k00-0003": true}, r.withStatus(reliable.Failed))
			pending := r.withStatus(reliable.Pending)
			assert.Len(t, pending, perKey-4, "what follows the failed one waits for a decision")
			for id := range pending {
				assert.True(t, strings.HasPrefix(id, "k00-"), "another key waits: %s", id)
			}
			assertOrder(t, received(t, amqpURL, queue), 1, (keys-1)*perKey+3)
		})
	}
}
