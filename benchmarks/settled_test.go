//go:build services && soak

package benchmarks

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/reliable"
)

// BenchmarkClaimBesideSettledRows claims and settles a hundred due rows at a time, in an empty table and beside a million
// rows that are settled: what a claim costs follows what is due and not what is stored. A million rows in a minute leave
// PostgreSQL with the work of several minutes, which its autovacuum does on the processors that the claims want: it is done
// before they are measured, and claims beside it are reported too.
func BenchmarkClaimBesideSettledRows(b *testing.B) {
	const due, rounds, million = 100, 50, 1_000_000
	for _, d := range []database{mariaDB, postgres, sqlite} {
		b.Run(d.name, func(b *testing.B) {
			db, store := d.open(b)
			for b.Loop() {
				empty := claims(b, store, due, rounds)
				settle(b, store, million)
				if d.name == postgres.name {
					b.ReportMetric(claims(b, store, due, rounds), "ms/claim-1M-unvacuumed")
					_, err := db.Exec("VACUUM ANALYZE waybill_outbox")
					require.NoError(b, err)
				}
				full := claims(b, store, due, rounds)
				b.ReportMetric(empty, "ms/claim-empty")
				b.ReportMetric(full, "ms/claim-1M")
				pairs.Report("ratio claim-1m-%s %.2f (claim of %d beside 1 M settled rows / in an empty table) %.2f ms / %.2f ms",
					d.name, full/empty, due, full, empty)
			}
		})
	}
}

// claims returns the median time of a claim in milliseconds.
func claims(b *testing.B, store reliable.Store, due, rounds int) float64 {
	b.Helper()
	ctx := context.Background()
	times := make([]float64, 0, rounds)
	for range rounds {
		enqueue(b, store, due, 0)
		start := time.Now()
		attempts, err := store.Claim(ctx, reliable.ClaimRequest{Worker: "bench", Max: due, Lease: time.Minute})
		times = append(times, float64(time.Since(start))/float64(time.Millisecond))
		require.NoError(b, err)
		require.Len(b, attempts, due)
		confirm(b, store, attempts)
	}
	return pairs.Median(times)
}

// settle stores n rows and confirms them.
func settle(b *testing.B, store reliable.Store, n int) {
	b.Helper()
	for done := 0; done < n; done += 1000 {
		confirm(b, store, enqueue(b, store, 1000, time.Minute))
	}
}

func enqueue(b *testing.B, store reliable.Store, n int, lease time.Duration) []reliable.Attempt {
	b.Helper()
	envs := make([]reliable.Envelope, n)
	for i := range envs {
		envs[i] = reliable.Envelope{ID: reliable.NewID(), Topic: topic, Payload: []byte(fmt.Sprint(i))}
	}
	stored, err := store.Enqueue(context.Background(), reliable.EnqueueRequest{Worker: "bench", Lease: lease}, envs...)
	require.NoError(b, err)
	attempts := make([]reliable.Attempt, n)
	for i := range stored {
		attempts[i] = stored[i].Attempt
	}
	return attempts
}

func confirm(b *testing.B, store reliable.Store, attempts []reliable.Attempt) {
	b.Helper()
	ss := make([]reliable.Settlement, len(attempts))
	for i := range attempts {
		ss[i] = reliable.Settlement{
			ID: attempts[i].ID, Fence: attempts[i].Fence, Topic: attempts[i].Topic,
			Sent: true, Outcome: reliable.Acked, To: reliable.Confirmed,
		}
	}
	_, err := store.Settle(context.Background(), ss...)
	require.NoError(b, err)
}
