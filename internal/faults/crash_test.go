//go:build services

package faults

import (
	"syscall"
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

// crashLease is the lease of both processes in these tests.
const crashLease = 8 * time.Second

// survivor is a second process on the same tables, in this one.
func survivor(t *testing.T, d database, amqpURL string) *rig {
	declare(t, amqpURL, queue, quorum)
	r := newRig(t, rigConfig{
		database: d, amqpURL: amqpURL,
		broker: []rabbitmqbroker.Option{rabbitmqbroker.WithConfirmTimeout(childConfirm), rabbitmqbroker.WithBlockedTimeout(childConfirm)},
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
				r.eventuallySettled()
				t.Logf("settled %v after the kill, with a lease of %v", time.Since(killed).Round(time.Millisecond), crashLease)

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
	const orders, before = 300, 50
	for kind, makeDatabase := range databases {
		for _, stand := range []point{beforePublish, beforeConfirm, beforeSettle} {
			t.Run(kind+"/"+string(stand), func(t *testing.T) {
				t.Parallel()
				d, amqpURL := makeDatabase(t), testenv.RabbitMQ(t)
				r := survivor(t, d, amqpURL)
				c := startChild(t, job{
					Database: d, AMQPURL: amqpURL + "?heartbeat=120", // the broker is to keep the connection of the stopped one
					Prefix: "child", Orders: orders, Stand: stand, StopAt: 1, Settled: before, Lease: crashLease,
				})
				c.await("at " + string(stand))
				looked := time.Now()
				left := r.leaseLeft()
				require.Positive(t, left, "it must be stopped with a message of its own")
				r.eventuallySettled()
				assert.GreaterOrEqual(t, time.Since(looked), left, "nobody may take a message before its lease is over")
				assert.NotZero(t, r.seen.outcome(reliable.Acked), "the survivor must have delivered the rest")
				require.Less(t, len(r.orders()), orders, "it must have been stopped on its way")

				c.signal(syscall.SIGCONT)
				c.await("placed")
				r.eventuallySettled()
				require.Len(t, r.orders(), orders)
				r.awaitCopy(amqpURL)
				r.auditCopies(consume(t, amqpURL, queue), 2)
			})
		}
	}
}

// leaseLeft returns how long the leases of what is pending still run, on the database's clock; 0 if nothing is leased.
func (r *rig) leaseLeft() (left time.Duration) {
	r.t.Helper()
	for _, record := range r.lookup(r.withStatus(reliable.Pending)) {
		if record.Status == reliable.Pending && record.LeasedBy != "" {
			left = max(left, record.DueIn)
		}
	}
	return left
}

// awaitCopy waits until the broker has more messages than there are orders. Nothing in the tables says when a process that
// was taken over has sent what it held.
func (r *rig) awaitCopy(amqpURL string) {
	r.t.Helper()
	want := len(r.orders())
	require.Eventually(r.t, func() (more bool) {
		onChannel(r.t, amqpURL, func(channel *amqp.Channel) error {
			q, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
			more = q.Messages > want
			return err
		})
		return more
	}, patience, 100*time.Millisecond, "both must have sent what the stopped one held")
}

func TestCrash_aRelayKilledWithinAKeyedBacklogLosesNothingAndKeepsTheOrder(t *testing.T) {
	t.Parallel()
	const keys, perKey = 10, 40
	for kind, makeDatabase := range databases {
		for name, kill := range map[string]job{
			"before confirm": {Stand: beforeConfirm}, "before settle": {Stand: beforeSettle},
			// It is stopped as a whole, wherever its other goroutines are.
			"anywhere": {Stand: beforeSettle, StopAt: 15},
		} {
			t.Run(kind+"/"+name, func(t *testing.T) {
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
				kill.Database, kill.AMQPURL, kill.Lease = d, amqpURL, crashLease
				c := startChild(t, kill)
				c.await("at " + string(kill.Stand))
				c.kill()
				assert.NotZero(t, left.pending(), "the relay must have been killed within the backlog")

				r := survivor(t, d, amqpURL)
				r.eventuallySettled()
				assert.Len(t, r.withStatus(reliable.Confirmed), keys*perKey)
				ids := received(t, amqpURL, queue)
				assertOrder(t, ids, keys, perKey)
				assert.LessOrEqual(t, len(ids), keys*perKey+keys, "one copy for each key's head at most")
			})
		}
	}
}

// auditCopies is audit for processes whose outcomes this one cannot count: it bounds the copies of each message.
func (r *rig) auditCopies(receipts map[string]int, most int) {
	r.t.Helper()
	orders := r.orders()
	confirmed := r.withStatus(reliable.Confirmed)
	for id := range receipts {
		assert.True(r.t, orders[id], "sent, but never committed: %s", id)
	}
	for id := range orders {
		assert.NotZero(r.t, receipts[id], "committed, but not delivered: %s", id)
		assert.True(r.t, confirmed[id], "delivered, but not recorded: %s", id)
	}
	r.assertCopies(receipts, most)
}

// assertCopies bounds the copies of each message. Those for which its history has a reason, that the broker did not answer in
// time, are not counted: a busy machine makes any number of them.
func (r *rig) assertCopies(receipts map[string]int, most int) {
	r.t.Helper()
	repeated := make(map[string]bool)
	for id, n := range receipts {
		if n > most {
			repeated[id] = true
		}
	}
	for _, record := range r.lookup(repeated) {
		unknown := 0 // the broker did not answer in time
		for _, entry := range record.History {
			if entry.Kind == reliable.AttemptEnded && entry.Outcome == reliable.Unknown {
				unknown++
			}
		}
		assert.LessOrEqual(r.t, receipts[string(record.ID)], most+unknown, "copies of %s", record.ID)
	}
}
