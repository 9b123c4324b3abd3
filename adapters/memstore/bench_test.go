package memstore_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
)

// BenchmarkStore_cycle stores, claims and settles batches of a hundred, beside a backlog of 100,000 envelopes that wait
// behind one blocked head and as many that are leased, and says what one envelope costs.
func BenchmarkStore_cycle(b *testing.B) {
	store := memstore.New()
	enqueue := func(n int, key string, lease time.Duration) {
		envs := make([]reliable.Envelope, n)
		for i := range envs {
			envs[i] = envelope(reliable.NewID())
			envs[i].Key = key
		}
		_, err := store.Enqueue(b.Context(), reliable.EnqueueRequest{Lease: lease}, envs...)
		require.NoError(b, err)
	}
	claim := func(limit int) []reliable.Attempt {
		attempts, err := store.Claim(b.Context(), reliable.ClaimRequest{Max: limit, Lease: time.Hour})
		require.NoError(b, err)
		return attempts
	}
	enqueue(100_000, "blocked", 0)
	require.Len(b, claim(10), 1)
	enqueue(100_000, "", time.Hour)

	const batch = 100
	b.ReportAllocs()
	for b.Loop() {
		enqueue(batch, "", 0)
		attempts := claim(batch)
		ss := make([]reliable.Settlement, len(attempts))
		for i, a := range attempts {
			ss[i] = reliable.Settlement{
				ID: a.ID, Fence: a.Fence, Topic: a.Topic, Sent: true, Outcome: reliable.Acked, To: reliable.Confirmed,
			}
		}
		_, err := store.Settle(b.Context(), ss...)
		require.NoError(b, err)
		if len(ss) != batch {
			b.Fatalf("claimed %d of %d", len(ss), batch)
		}
		_, err = store.Purge(b.Context(), reliable.Confirmed, 0, batch)
		require.NoError(b, err)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/batch, "ns/envelope")
}
