//go:build services

package faults

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

const (
	// crashLease is the lease of both processes in these tests.
	crashLease = 5 * time.Second
	// takeOver is how much later than the lease's end another process may have delivered the rest.
	takeOver = 2 * time.Second
)

// survivor is a second process on the same tables, in this one.
func survivor(t *testing.T, d database, amqpURL string) *rig {
	declare(t, amqpURL, queue, quorum)
	r := newRig(t, rigConfig{
		database: d, amqpURL: amqpURL,
		broker: []rabbitmqbroker.Option{rabbitmqbroker.WithConfirmTimeout(time.Second), rabbitmqbroker.WithBlockedTimeout(time.Second)},
		outbox: []tagging.Option{tagging.WithLease(crashLease)},
	})
	r.createOrders()
	return r
}

func TestCrash_aSenderKilledAnywhereLosesNothingAndSendsNothingUncommitted(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		for _, stand := range []point{beforeCommit, beforePublish, beforeConfirm, beforeSettle} {
			t.Run(kind+"/"+string(stand), func(t *testing.T) {
				t.Parallel()
				d, amqpURL := makeDatabase(t), testenv.RabbitMQ(t)
				r := survivor(t, d, amqpURL)
				c := startChild(t, job{Database: d, AMQPURL: amqpURL, Prefix: "child", Orders: 20, Stand: stand, Lease: crashLease})
				c.await("at " + string(stand))
				if stand != beforeCommit {
					c.await("placed")
				}
				c.kill()
				killed := time.Now()
				r.eventuallySettled(crashLease + takeOver + 10*time.Second)
				assert.Less(t, time.Since(killed), crashLease+takeOver, "the rest must be delivered within the lease and 2 s")

				receipts := consume(t, amqpURL, queue)
				orders := r.orders()
				if stand == beforeCommit {
					assert.Empty(t, orders)
					assert.Empty(t, receipts, "nothing may be sent of what did not commit")
					return
				}
				require.Len(t, orders, 20)
				r.auditCopies(receipts, 2)
			})
		}
	}
}

// The sender stops itself where it holds a message for certain: from outside it might be stopped with nothing on its way.
func TestCrash_aSenderStoppedPastItsLeaseIsTakenOverAndItsLateAnswersHarmNothing(t *testing.T) {
	t.Parallel()
	const orders = 300
	for kind, makeDatabase := range databases {
		for _, stand := range []point{beforePublish, beforeConfirm, beforeSettle} {
			t.Run(kind+"/"+string(stand), func(t *testing.T) {
				t.Parallel()
				d, amqpURL := makeDatabase(t), testenv.RabbitMQ(t)
				r := survivor(t, d, amqpURL)
				c := startChild(t, job{Database: d, AMQPURL: amqpURL, Prefix: "child", Orders: orders, Stand: stand, StopAt: 50, Lease: crashLease})
				c.await("at " + string(stand))
				stopped := time.Now()
				require.NotZero(t, r.pending(), "it must be stopped with a message of its own")
				r.eventuallySettled(crashLease + takeOver + 10*time.Second)
				took := time.Since(stopped)
				assert.Less(t, took, crashLease+takeOver, "the rest must be delivered within the lease and 2 s")
				assert.Greater(t, took, crashLease-time.Second, "nobody may take a message before its lease is over")
				assert.NotZero(t, r.seen.outcome(reliable.Acked), "the survivor must have delivered the rest")
				require.Less(t, len(r.orders()), orders, "it must have been stopped on its way")

				c.signal(syscall.SIGCONT)
				c.await("placed")
				r.eventuallySettled(30 * time.Second)
				require.Len(t, r.orders(), orders)
				receipts := consume(t, amqpURL, queue)
				r.auditCopies(receipts, 2)
				copies := 0
				for _, n := range receipts {
					copies += n - 1
				}
				assert.NotZero(t, copies, "both must have sent what the stopped one held")
			})
		}
	}
}

func TestCrash_aRelayKilledWithinAKeyedBacklogLosesNothingAndKeepsTheOrder(t *testing.T) {
	t.Parallel()
	const keys, perKey = 10, 40
	for kind, makeDatabase := range databases {
		for _, stand := range []point{beforeConfirm, beforeSettle, nowhere} {
			t.Run(kind+"/"+string(stand), func(t *testing.T) {
				t.Parallel()
				d, amqpURL := makeDatabase(t), testenv.RabbitMQ(t)
				declare(t, amqpURL, queue, quorum)
				db, store, err := d.open(t.Context())
				require.NoError(t, err)
				t.Cleanup(func() { assert.NoError(t, db.Close()) })
				for n := range perKey {
					envs := make([]reliable.Envelope, keys)
					for key := range envs {
						envs[key] = keyed(key, n)
					}
					_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envs...)
					require.NoError(t, err)
				}
				left := &rig{t: t, db: db, kind: kind, store: store}
				c := startChild(t, job{Database: d, AMQPURL: amqpURL, Stand: stand, Lease: crashLease})
				if stand == nowhere {
					require.Eventually(t, func() bool { return left.pending() < keys*perKey-2*keys }, time.Minute, time.Millisecond)
				} else {
					c.await("at " + string(stand))
				}
				c.kill()
				assert.NotZero(t, left.pending(), "the relay must have been killed within the backlog")

				r := survivor(t, d, amqpURL)
				r.eventuallySettled(crashLease + takeOver + 30*time.Second)
				assert.Len(t, r.withStatus(reliable.Confirmed), keys*perKey)
				ids := received(t, amqpURL, queue)
				assertOrder(t, ids, keys, perKey)
				assert.LessOrEqual(t, len(ids), keys*perKey+keys, "one copy for each key's head at most")
			})
		}
	}
}

// eventuallySettledBut is eventuallySettled but for a few rows that are left.
func (r *rig) eventuallySettledBut(within time.Duration, left int) {
	r.t.Helper()
	require.Eventually(r.t, func() bool { return r.pending() <= left }, within, 100*time.Millisecond)
}

// auditCopies is audit for processes whose unknown outcomes this one cannot count: it bounds the copies of each message.
func (r *rig) auditCopies(receipts map[string]int, most int) {
	r.t.Helper()
	orders := r.orders()
	confirmed := r.withStatus(reliable.Confirmed)
	for id, n := range receipts {
		assert.True(r.t, orders[id], "sent, but never committed: %s", id)
		assert.LessOrEqual(r.t, n, most, "copies of %s", id)
	}
	for id := range orders {
		assert.NotZero(r.t, receipts[id], "committed, but not delivered: %s", id)
		assert.True(r.t, confirmed[id], "delivered, but not recorded: %s", id)
	}
}
