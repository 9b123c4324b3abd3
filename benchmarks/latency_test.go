//go:build services

package benchmarks

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

const (
	steadyRate    = 1000 // transactions a second
	steadyWarming = 1    // seconds in which the pool makes its connections, which a server takes long to make
	steadySeconds = 4
	steadyRounds  = 5
)

// BenchmarkLatency sends a steady 1,000 messages a second, each in a business transaction of its own, and reports how long
// after COMMIT's return the broker's confirm came, and how much of that passed before the message was handed to the broker's
// client; beside it how long a bare client waits that publishes after the same transactions, and the time for messages that
// are published on their own, which share transactions. Each percentile is the median of those of five rounds, in which the
// three take turns: what else a machine does in one of them is not the outbox's.
func BenchmarkLatency(b *testing.B) {
	for _, d := range []database{mariaDB, postgres} {
		b.Run(d.name, func(b *testing.B) {
			db, store, url := besideRabbitMQ(b, d)
			for b.Loop() {
				var confirmed, handed, published, bare percentiles
				for round := range steadyRounds {
					if round%2 == 0 {
						bare.add(bareLatency(b, d, db, url))
					}
					waits, before := taggingLatency(b, d, db, store, url, inTransaction(db))
					confirmed.add(waits)
					handed.add(before)
					waits, _ = taggingLatency(b, d, db, store, url, onTheirOwn)
					published.add(waits)
					if round%2 == 1 {
						bare.add(bareLatency(b, d, db, url))
					}
				}
				b.ReportMetric(pairs.Median(confirmed.p50), "p50-ms")
				b.ReportMetric(pairs.Median(confirmed.p99), "p99-ms")
				b.ReportMetric(pairs.Median(confirmed.p999), "p99.9-ms")
				pairs.Report("latency commit-to-confirm-%s at %d msg/s: %s", d.name, steadyRate, &confirmed)
				pairs.Report("latency commit-to-client-%s, the part of it before the broker's client: %s", d.name, &handed)
				pairs.Report("latency commit-to-confirm-%s-publish, of messages that are published on their own: %s", d.name, &published)
				pairs.Report("latency bare-commit-to-confirm-%s, a bare client after the same transactions: %s", d.name, &bare)
			}
		})
	}
}

// percentiles are those of each round, in milliseconds.
type percentiles struct{ p50, p99, p999 []float64 }

func (p *percentiles) add(waits []float64) {
	p.p50 = append(p.p50, pairs.Percentile(waits, 0.5))
	p.p99 = append(p.p99, pairs.Percentile(waits, 0.99))
	p.p999 = append(p.p999, pairs.Percentile(waits, 0.999))
}

func (p *percentiles) String() string {
	return fmt.Sprintf("p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms; p99 of the rounds from %.2f to %.2f ms",
		pairs.Median(p.p50), pairs.Median(p.p99), pairs.Median(p.p999), slices.Min(p.p99), slices.Max(p.p99))
}

// steadily begins work at the steady rate, whether or not what began before has ended, and sets measuring after the warming.
func steadily(measuring *atomic.Bool, work func()) {
	var wg sync.WaitGroup
	began := time.Now()
	for n := range steadyRate * (steadyWarming + steadySeconds) {
		time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / steadyRate)))
		if n == steadyRate*steadyWarming {
			measuring.Store(true)
		}
		wg.Go(work)
	}
	wg.Wait()
}

// waited is what was measured, in milliseconds.
type waited struct {
	mu        sync.Mutex
	measuring atomic.Bool
	times     []float64
}

func (w *waited) add(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.measuring.Load() {
		w.times = append(w.times, float64(d)/float64(time.Millisecond))
	}
}

// bareLatency inserts rows like the outbox's, one a transaction, publishes by a bare client and waits for the confirm.
func bareLatency(b *testing.B, d database, db *sql.DB, url string) []float64 {
	b.Helper()
	empty(b, d, db)
	channel, hangUp := confirming(b, url)
	defer hangUp()
	insert, payload, ctx := bareInsert(d, 1), make([]byte, payloadBytes), context.Background()
	var waits waited
	var publishing sync.Mutex
	order := func() error {
		id, now := string(reliable.NewID()), time.Now().UnixMicro()
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // after COMMIT this does nothing
		_, err = tx.ExecContext(ctx, insert,
			id, topic, "", []byte{}, payload, payloadBytes, now, now+60_000_000, 1, 1, 1, 0, "a-host/12345/0123456789ab")
		if err != nil {
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		committed := time.Now()
		publishing.Lock()
		confirmation, err := channel.PublishWithDeferredConfirmWithContext(ctx, "", topic, true, false, amqp.Publishing{
			MessageId: id, DeliveryMode: amqp.Persistent, Body: payload,
		})
		publishing.Unlock()
		if err != nil {
			return err
		}
		if !confirmation.Wait() {
			return amqp.ErrClosed
		}
		waits.add(time.Since(committed))
		return nil
	}
	steadily(&waits.measuring, func() {
		if err := order(); err != nil {
			b.Error(err)
		}
	})
	return waits.times
}

// inTransaction sends a message in a business transaction of its own.
func inTransaction(db *sql.DB) func(context.Context, *tagging.Outbox, reliable.Envelope) error {
	return func(ctx context.Context, o *tagging.Outbox, env reliable.Envelope) error {
		return tagging.InTx(ctx, o, db, func(_ *sql.Tx, out *tagging.Scope) error { return out.Send(env) })
	}
}

// onTheirOwn publishes a message that belongs to no business transaction.
func onTheirOwn(ctx context.Context, o *tagging.Outbox, env reliable.Envelope) error {
	_, err := o.Publish(ctx, env)
	return err
}

// taggingLatency returns the times from COMMIT to the confirm, and to the broker's client.
func taggingLatency(
	b *testing.B, d database, db *sql.DB, store reliable.Store, url string,
	send func(context.Context, *tagging.Outbox, reliable.Envelope) error,
) (confirmed, handed []float64) {
	b.Helper()
	empty(b, d, db)
	to := rabbit(b, url)
	defer to.close()
	var waits, before waited
	var at sync.Map // when an ID was handed to the client
	hooks, settled := countSettled(steadyRate * (steadyWarming + steadySeconds))
	hooks.Handed = func(attempts []reliable.Attempt) {
		now := time.Now()
		for i := range attempts {
			at.Store(attempts[i].ID, now)
		}
	}
	hooks.Answered = func(a *reliable.Attempt, c *reliable.Confirm, since time.Duration) {
		handed, known := at.LoadAndDelete(a.ID)
		if when, ok := handed.(time.Time); known && ok && c.Outcome == reliable.Acked {
			waits.add(since)
			before.add(max(since-time.Since(when), 0))
		}
	}
	relaying(b, store, to, func(o *tagging.Outbox) {
		payload := make([]byte, payloadBytes)
		steadily(&waits.measuring, func() {
			before.measuring.Store(waits.measuring.Load())
			if err := send(context.Background(), o, reliable.Envelope{Topic: topic, Payload: payload}); err != nil {
				b.Error(err)
			}
		})
		await(b, settled) // a relay that ends gives back what is queued
	}, tagging.WithHooks(hooks))
	nothingLost(b, db, to, steadyRate*(steadyWarming+steadySeconds))
	return waits.times, before.times
}
