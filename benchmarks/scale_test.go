//go:build services && soak

package benchmarks

import (
	"database/sql"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

// rounds is how many times a point of a curve is measured; the median counts.
const rounds = 3

// point writes the line of something that was measured before.
func point(b *testing.B, name string, metrics map[string]float64) {
	b.Run(name, func(b *testing.B) {
		b.ReportMetric(0, "ns/op") // leaves it out
		report(b, metrics)
	})
}

// BenchmarkScaleBacklog drains backlogs of different lengths. A million messages take less than 64 MiB of heap. It tells
// too how many bytes of disk a message takes that has been sent, indexes included, and how many connections to the database
// the relay has made.
func BenchmarkScaleBacklog(b *testing.B) {
	const million = 1_000_000
	for _, d := range []database{mariaDB, postgres} {
		b.Run(d.name, func(b *testing.B) {
			db, store := d.open(b)
			url := testenv.RabbitMQ(b)
			for _, all := range []int{10_000, 100_000, million} {
				var rates []float64
				var heap uint64
				for range rounds {
					empty(b, d, db)
					n := sized(all)
					fill(b, d, db, store, n, false)
					drained := drain(b, db, store, url, n)
					rates, heap = append(rates, drained.rate), max(heap, drained.heap)
				}
				mebibytes := float64(heap) / (1 << 20)
				point(b, fmt.Sprint(all), map[string]float64{
					"msg/s": pairs.Median(rates), "heap-MiB": mebibytes,
					"disk-B/msg": float64(d.onDisk(b, db)) / float64(sized(all)), "connections": float64(db.Stats().OpenConnections),
				})
				if all == million {
					pairs.Report("memory drain-1m-heap-%s: %.0f MiB of heap in use at most", d.name, mebibytes)
					require.Less(b, mebibytes, 64.0, "heap in use while a million messages are drained")
				}
			}
		})
	}
}

// BenchmarkScaleSettled drains a backlog beside settled rows, and in a database without them.
func BenchmarkScaleSettled(b *testing.B) {
	var worst float64
	for _, d := range []database{mariaDB, postgres} {
		b.Run(d.name, func(b *testing.B) {
			none, ofNone := d.open(b)
			db, store := d.open(b)
			url := testenv.RabbitMQ(b)
			relay := func(db *sql.DB, store reliable.Store) func(b *testing.B) float64 {
				return func(b *testing.B) float64 {
					n := sized(100_000)
					fill(b, d, db, store, n, false)
					return drain(b, db, store, url, n).rate
				}
			}
			var medians pairs.Medians
			filled := 0
			for _, settled := range []struct {
				rows int
				name string
			}{{1_000_000, "relay-1m-"}, {10_000_000, "relay-10m-"}} {
				fill(b, d, db, store, sized(settled.rows-filled), true)
				filled = settled.rows
				b.Run(fmt.Sprint(settled.rows), func(b *testing.B) {
					medians = pairs.Compare(b, settled.name+d.name, fmt.Sprintf("draining beside %d settled rows", settled.rows), "without them",
						relay(none, ofNone), relay(db, store))
				})
			}
			point(b, "0", map[string]float64{"msg/s": medians.Yardstick})
			if worst == 0 || medians.Ratio < worst {
				worst = medians.Ratio
			}
		})
	}
	pairs.Report("ratio relay-10m %.2f (draining beside 10 M settled rows / without them, the lower one of both databases)", worst)
}

// BenchmarkScalePayload sends payloads of different sizes.
func BenchmarkScalePayload(b *testing.B) {
	for _, d := range []database{mariaDB, postgres} {
		b.Run(d.name, func(b *testing.B) {
			db, store := d.open(b)
			url := testenv.RabbitMQ(b)
			for _, at := range []struct{ bytes, n int }{{128, 60_000}, {1 << 10, 60_000}, {16 << 10, 12_000}, {256 << 10, 1_500}} {
				payload := make([]byte, at.bytes)
				rate := median(rounds, func() float64 {
					empty(b, d, db)
					to := rabbit(b, url)
					defer to.close()
					n := sized(at.n)
					rate := publishMore(b, store, to, n, func(int) reliable.Envelope { return reliable.Envelope{Topic: topic, Payload: payload} })
					nothingLost(b, db, to, n)
					return rate
				})
				point(b, fmt.Sprint(at.bytes), map[string]float64{"msg/s": rate, "MiB/s": rate * float64(at.bytes) / (1 << 20)})
			}
		})
	}
}

// BenchmarkScaleOrder sends messages without a key, and with one of so many: a key has one message on its way at a time.
func BenchmarkScaleOrder(b *testing.B) {
	for _, d := range []database{mariaDB, postgres} {
		b.Run(d.name, func(b *testing.B) {
			_, store := d.open(b)
			url := testenv.RabbitMQ(b)
			payload := make([]byte, payloadBytes)
			for _, at := range []struct{ keys, n int }{{0, 60_000}, {10, 2_000}, {100, 10_000}, {1_000, 20_000}, {10_000, 20_000}} {
				rate := median(rounds, func() float64 {
					to := rabbit(b, url)
					defer to.close()
					n := sized(at.n)
					rate := publishMore(b, store, to, n, func(i int) reliable.Envelope {
						env := reliable.Envelope{Topic: topic, Payload: payload}
						if at.keys > 0 {
							env.Key = fmt.Sprint("customer-", i%at.keys)
						}
						return env
					})
					delivered(b, to, n)
					return rate
				})
				name := "none"
				if at.keys > 0 {
					name = fmt.Sprint(at.keys)
				}
				point(b, name, map[string]float64{"msg/s": rate})
			}
		})
	}
}

// median measures several times.
func median(rounds int, measure func() float64) float64 {
	rates := make([]float64, rounds)
	for i := range rates {
		rates[i] = measure()
	}
	return pairs.Median(rates)
}
