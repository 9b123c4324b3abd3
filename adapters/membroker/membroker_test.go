package membroker_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/reliable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func batchOf(topic string, n int) []reliable.Attempt {
	batch := make([]reliable.Attempt, n)
	for i := range batch {
		batch[i] = reliable.Attempt{
			Envelope: reliable.Envelope{ID: reliable.ID(fmt.Sprintf("%s-%d", topic, i)), Topic: topic, Payload: []byte("x")},
			Fence:    1,
		}
	}
	return batch
}

func BenchmarkPublishReceive(b *testing.B) {
	for _, size := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			broker := membroker.New(membroker.WithDiscard())
			b.Cleanup(func() { _ = broker.Close() })
			batch := batchOf("orders", size)
			ctx := context.Background()
			for n := 0; n < b.N; n += size {
				if _, err := broker.Publish(ctx, batch); err != nil {
					b.Fatal(err)
				}
				for got := 0; got < size; {
					confirms, err := broker.Receive(ctx, size)
					if err != nil {
						b.Fatal(err)
					}
					got += len(confirms)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "attempts/s")
		})
	}
}

func TestPublish_isAnsweredAtOnce(t *testing.T) {
	broker := membroker.New()
	n, err := broker.Publish(t.Context(), batchOf("orders", 3))
	require.NoError(t, err)
	require.Equal(t, 3, n)
	confirms, err := broker.Receive(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, confirms, 3)
	for _, confirm := range confirms {
		require.Equal(t, reliable.Acked, confirm.Outcome)
	}
	require.Len(t, broker.Delivered("orders"), 3)
	require.NoError(t, broker.Close())
}
