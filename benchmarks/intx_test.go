//go:build services

package benchmarks

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// businessTransactions is how many transactions one side of a pair makes for each connection.
const businessTransactions = 4000

// BenchmarkInTx sets a business transaction with one message against the same transaction without it.
func BenchmarkInTx(b *testing.B) {
	for _, d := range []database{mariaDB, postgres} {
		for _, connections := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s-%d", d.name, connections), func(b *testing.B) {
				db, store := d.open(b)
				db.SetMaxOpenConns(connections + 8) // the relay has its own
				_, err := db.Exec("CREATE TABLE business (id VARCHAR(64) PRIMARY KEY)")
				require.NoError(b, err)
				insert := "INSERT INTO business (id) VALUES (" + d.placeholder(1) + ")"
				to := instant(b)
				defer to.close()
				sent := 0
				relaying(b, store, to, func(o *tagging.Outbox) {
					pairs.Compare(b, fmt.Sprintf("intx-%s-%d", d.name, connections), "transactions with one message", "the same without it",
						func(b *testing.B) float64 {
							rate, _ := transactions(b, connections, func(ctx context.Context, id string) error {
								tx, err := db.BeginTx(ctx, nil)
								if err != nil {
									return err
								}
								if _, err := tx.ExecContext(ctx, insert, id); err != nil {
									return err
								}
								return tx.Commit()
							})
							return rate
						},
						func(b *testing.B) float64 {
							payload := make([]byte, payloadBytes)
							sent += total(connections)
							rate, took := transactions(b, connections, func(ctx context.Context, id string) error {
								return tagging.InTx(ctx, o, db, func(tx *sql.Tx, out *tagging.Scope) error {
									if _, err := tx.ExecContext(ctx, insert, id); err != nil {
										return err
									}
									return out.Send(reliable.Envelope{Topic: topic, Payload: payload})
								})
							})
							report(b, took.metrics())
							return rate
						})
				}) // which waits for what is on its way
				nothingLost(b, db, to, sent)
			})
		}
	}
}

// total is how many transactions one side of a pair makes.
func total(connections int) int {
	return sized(max(businessTransactions, businessTransactions*connections/8))
}

// transactions runs work from as many goroutines as there are connections, and returns how often it ran per second and how
// long each took.
func transactions(b *testing.B, connections int, work func(ctx context.Context, id string) error) (rate float64, took calls) {
	b.Helper()
	n, start := total(connections), time.Now()
	took = together(b, connections, n, func(int) error { return work(context.Background(), string(reliable.NewID())) })
	return float64(n) / time.Since(start).Seconds(), took
}

// BenchmarkLatency places orders at a steady 1,000 a second and reports how long after COMMIT's return the broker's
// confirm came.
func BenchmarkLatency(b *testing.B) {
	for _, d := range []database{mariaDB, postgres} {
		b.Run(d.name, func(b *testing.B) {
			db, store := d.open(b)
			to := rabbit(b, testenv.RabbitMQ(b))
			defer to.close()
			var mu sync.Mutex
			var waits []float64
			measuring := false
			hooks := tagging.Hooks{Answered: func(_ *reliable.Attempt, c *reliable.Confirm, since time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				if c.Outcome == reliable.Acked && measuring {
					waits = append(waits, float64(since)/float64(time.Millisecond))
				}
			}}
			const rate, warming, seconds = 1000, 2, 10
			for b.Loop() {
				empty(b, d, db)
				waits, measuring = nil, false
				relaying(b, store, to, func(o *tagging.Outbox) {
					pace := time.NewTicker(4 * time.Second / rate)
					defer pace.Stop()
					payload := make([]byte, payloadBytes)
					var wg sync.WaitGroup
					for tick := range rate * (warming + seconds) / 4 {
						<-pace.C
						if tick == rate*warming/4 { // by now the pool has its connections, which a server takes long to make
							mu.Lock()
							measuring = true
							mu.Unlock()
						}
						for range 4 {
							wg.Go(func() {
								err := tagging.InTx(context.Background(), o, db, func(_ *sql.Tx, out *tagging.Scope) error {
									return out.Send(reliable.Envelope{Topic: topic, Payload: payload})
								})
								if err != nil {
									b.Error(err)
								}
							})
						}
					}
					wg.Wait()
				}, tagging.WithHooks(hooks))
				nothingLost(b, db, to, rate*(warming+seconds))
				p50, p99, p999 := pairs.Percentile(waits, 0.5), pairs.Percentile(waits, 0.99), pairs.Percentile(waits, 0.999)
				b.ReportMetric(p50, "p50-ms")
				b.ReportMetric(p99, "p99-ms")
				b.ReportMetric(p999, "p99.9-ms")
				pairs.Report("latency commit-to-confirm-%s at %d msg/s: p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms", d.name, rate, p50, p99, p999)
			}
		})
	}
}
