//go:build services

package benchmarks

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
	"github.com/waybillmq/waybill/strategies/tagging"
)

const (
	// checkDelay is so long that no check comes due while anything is measured.
	checkDelay  = 10 * time.Minute
	delayShards = 8
	// checkedMessages is how many messages one side of a pair moves, each with its check.
	checkedMessages = 20_000
)

// checked is a RabbitMQ with a quorum queue for messages and the queues in which checks wait.
type checked struct {
	broker
	url   string
	later *rabbitmqbroker.Scheduler
}

// delayQueue is what the scheduler calls the exchange and the queue of a shard.
func delayQueue(shard int) string { return fmt.Sprintf("waybill.delay.%v.%d", checkDelay, shard) }

func rabbitWithChecks(b *testing.B) checked {
	b.Helper()
	url := testenv.RabbitMQ(b)
	to := rabbit(b, url)
	later, err := to.publisher.(*rabbitmqbroker.Broker).Scheduler([]time.Duration{checkDelay}, rabbitmqbroker.WithShards(delayShards))
	require.NoError(b, err)
	for range delayShards { // each is declared when it is first used
		require.NoError(b, later.Schedule(context.Background(), checkDelay,
			reliable.Envelope{ID: reliable.NewID(), Topic: delayedcheck.DefaultCheckTopic}))
	}
	closeBroker := to.close
	to.close = func() { require.NoError(b, later.Close()); closeBroker() }
	return checked{to, url, later}
}

// empty takes out what earlier runs left, so that neither side of a pair pays for the messages of the other.
func (c checked) empty(b *testing.B) {
	b.Helper()
	conn, err := amqp.Dial(c.url)
	require.NoError(b, err)
	defer func() { require.NoError(b, conn.Close()) }()
	channel, err := conn.Channel()
	require.NoError(b, err)
	_, err = channel.QueuePurge(topic, false)
	require.NoError(b, err)
	for shard := range delayShards {
		_, err := channel.QueuePurge(delayQueue(shard), false)
		require.NoError(b, err)
	}
}

// sending runs a sender while body works, and stops it, which waits for what is on its way.
func (c checked) sending(b *testing.B, body func(s *delayedcheck.Sender), opts ...delayedcheck.SenderOption) {
	b.Helper()
	s, err := delayedcheck.NewSender(c.publisher, c.confirms, c.later, append([]delayedcheck.SenderOption{
		delayedcheck.WithGroups("billing"), delayedcheck.WithCheckDelay(checkDelay), delayedcheck.WithWindow(window),
		delayedcheck.WithCheckTimeout(30 * time.Second), // what is measured here is no sick broker
	}, opts...)...)
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	body(s)
	cancel()
	require.NoError(b, <-ran)
	stats := s.Stats()
	require.Equal(b, stats.Checks, stats.Acked)
	require.Zero(b, stats.ChecksFailed+stats.Unconfirmed+stats.LeftToCheck)
}

// together runs work n times, from many goroutines.
func together(b *testing.B, goroutines, n int, work func(i int) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				if err := work(int(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	require.False(b, b.Failed())
}

// bareChecked is a bare client doing the same: a check confirmed, then the message confirmed, on a channel each.
func bareChecked(b *testing.B, c checked, n int) float64 {
	b.Helper()
	c.empty(b)
	conns := [2]*amqp.Connection{}
	channels := [2]*amqp.Channel{}
	for i := range channels {
		var err error
		conns[i], err = amqp.Dial(c.url)
		require.NoError(b, err)
		defer func() { require.NoError(b, conns[i].Close()) }()
		channels[i], err = conns[i].Channel()
		require.NoError(b, err)
		require.NoError(b, channels[i].Confirm(false))
	}
	check := delayedcheck.Check{
		Message: reliable.Envelope{ID: reliable.NewID(), Topic: topic, Payload: make([]byte, payloadBytes)},
		Groups:  []string{"billing"}, Round: 1, Committed: true,
	}
	asked, err := check.Envelope(delayedcheck.DefaultCheckTopic)
	require.NoError(b, err)
	ctx := context.Background()
	confirmed := func(channel *amqp.Channel, exchange, key string, i int, body []byte) error {
		confirmation, err := channel.PublishWithDeferredConfirmWithContext(ctx, exchange, key, true, false, amqp.Publishing{
			MessageId: fmt.Sprintf("bare-%032d", i), DeliveryMode: amqp.Persistent, Body: body,
		})
		if err == nil && !confirmation.Wait() {
			err = reliable.ErrNacked
		}
		return err
	}
	start, used := time.Now(), pairs.StartMeter()
	together(b, publishers, n, func(i int) error {
		if err := confirmed(channels[0], delayQueue(i%delayShards), delayedcheck.DefaultCheckTopic, i, asked.Payload); err != nil {
			return err
		}
		return confirmed(channels[1], "", topic, i, check.Message.Payload)
	})
	elapsed := time.Since(start)
	used.Log(b, "bare", n)
	return float64(n) / elapsed.Seconds()
}

func BenchmarkDelayedCheckRabbitMQ(b *testing.B) {
	c := rabbitWithChecks(b)
	defer c.close()
	pairs.Compare(b, "delayedcheck-rabbitmq", "check confirmed, then message confirmed", "a bare client doing the same",
		func(b *testing.B) float64 { return bareChecked(b, c, checkedMessages) },
		func(b *testing.B) float64 {
			c.empty(b)
			payload := make([]byte, payloadBytes)
			var elapsed time.Duration
			c.sending(b, func(s *delayedcheck.Sender) {
				start, used := time.Now(), pairs.StartMeter()
				together(b, publishers, checkedMessages, func(int) error {
					return s.Publish(context.Background(), reliable.Envelope{Topic: topic, Payload: payload})
				})
				elapsed = time.Since(start)
				used.Log(b, "delayedcheck", checkedMessages)
			})
			return checkedMessages / elapsed.Seconds()
		})
}

// witnessOf is the witness that writes nothing.
func witnessOf(b *testing.B, d database, db *sql.DB) reliable.Witness {
	b.Helper()
	var witness reliable.Witness
	var err error
	if d.name == postgres.name {
		witness, err = postgresstore.NewWitness(db)
	} else {
		witness, err = mysqlstore.NewRowWitness(db, mysqlstore.WitnessRow{
			Table: "business", Column: "id",
			Promise: mysqlstore.RowPromise{
				TransactionInserts: true, KeyIsUnique: true, NeverDeletedInTime: true, SameWritableNode: true, IDDerivesFromRow: true,
			},
		})
	}
	require.NoError(b, err)
	return witness
}

// BenchmarkDelayedCheckVsTagging sets a business transaction of one row and one message against the same one of tagging.
// Both count until the broker has confirmed everything, and tagging has recorded it.
func BenchmarkDelayedCheckVsTagging(b *testing.B) {
	for _, d := range []database{mariaDB, postgres} {
		for _, goroutines := range []int{64, 256} {
			b.Run(fmt.Sprintf("%s-%d", d.name, goroutines), func(b *testing.B) {
				db, store := d.open(b)
				db.SetMaxOpenConns(goroutines + 8) // the relay has its own
				db.SetMaxIdleConns(goroutines + 8)
				_, err := db.Exec("CREATE TABLE business (id VARCHAR(64) PRIMARY KEY)")
				require.NoError(b, err)
				insert := "INSERT INTO business (id) VALUES (" + d.placeholder(1) + ")"
				transactor, ok := reliable.Ability[reliable.Transactor](store)
				require.True(b, ok)
				c := rabbitWithChecks(b)
				defer c.close()
				payload := make([]byte, payloadBytes)
				place := func(tx *sql.Tx, send func(...reliable.Envelope) error) error {
					id := reliable.NewID()
					if _, err := tx.ExecContext(context.Background(), insert, string(id)); err != nil {
						return err
					}
					return send(reliable.Envelope{ID: id, Topic: topic, Payload: payload})
				}
				n := checkedMessages
				pairs.Compare(b, fmt.Sprintf("delayedcheck-vs-tagging-%s-%d", d.name, goroutines), "transactions with one message", "tagging's",
					func(b *testing.B) float64 {
						c.empty(b)
						empty(b, d, db)
						start, used := time.Now(), pairs.StartMeter()
						relaying(b, store, c.broker, func(o *tagging.Outbox) {
							together(b, goroutines, n, func(int) error {
								return tagging.InTx(context.Background(), o, db, func(tx *sql.Tx, out *tagging.Scope) error {
									return place(tx, out.Send)
								})
							})
						})
						elapsed := time.Since(start)
						used.Log(b, "tagging", n)
						return float64(n) / elapsed.Seconds()
					},
					func(b *testing.B) float64 {
						c.empty(b)
						start, used := time.Now(), pairs.StartMeter()
						c.sending(b, func(s *delayedcheck.Sender) {
							together(b, goroutines, n, func(int) error {
								return delayedcheck.InTx(context.Background(), s, db, func(tx *sql.Tx, out *delayedcheck.Scope) error {
									return place(tx, out.Send)
								})
							})
						}, delayedcheck.WithTransactions(transactor), delayedcheck.WithWitness(witnessOf(b, d, db)))
						elapsed := time.Since(start)
						used.Log(b, "delayedcheck", n)
						return float64(n) / elapsed.Seconds()
					})
			})
		}
	}
}
