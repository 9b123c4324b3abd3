package natsbroker_test

import (
	"context"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/reliable"
)

// BenchmarkConfirmed compares the broker with a bare loop of the client's own asynchronous publish, at the same window.
// The server is in this process, and takes its share of the processors.
func BenchmarkConfirmed(b *testing.B) {
	const window, size = 1000, 256
	server, err := embedded.StartServer(b.Context(), b.TempDir())
	require.NoError(b, err)
	b.Cleanup(server.Stop)
	cfg := natsbroker.Config{Connection: []nats.Option{server.ClientOption()}}
	ours, err := natsbroker.New(cfg, natsbroker.WithWindow(window), natsbroker.WithStream("bench", "bench.>"))
	require.NoError(b, err)
	b.Cleanup(func() { _ = ours.Close() })
	require.NoError(b, ours.Declare(b.Context()))
	payload := make([]byte, size)

	b.Run("waybill", func(b *testing.B) {
		var reading sync.WaitGroup
		reading.Go(func() {
			for left := b.N; left > 0; {
				confirms, err := ours.Receive(context.Background(), 512)
				if err != nil {
					b.Error(err)
					return
				}
				for _, confirm := range confirms {
					if confirm.Outcome != reliable.Acked {
						b.Error(confirm.Err)
					}
				}
				left -= len(confirms)
			}
		})
		for left := b.N; left > 0; {
			batch := attempts("bench.waybill", min(left, 100))
			for i := range batch {
				batch[i].Payload = payload
			}
			n, err := ours.Publish(b.Context(), batch)
			require.NoError(b, err)
			left -= n
		}
		reading.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	})

	b.Run("bare client", func(b *testing.B) {
		nc, err := nats.Connect("", server.ClientOption())
		require.NoError(b, err)
		defer nc.Close()
		acks := make(chan struct{}, window)
		js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(window),
			jetstream.WithPublishAsyncAckHandler(func(jetstream.JetStream, *nats.Msg, *jetstream.PubAck) { <-acks }))
		require.NoError(b, err)
		for range b.N {
			acks <- struct{}{}
			id := string(reliable.NewID())
			msg := &nats.Msg{Subject: "bench.bare", Data: payload, Header: nats.Header{nats.MsgIdHdr: {id}}}
			_, err := js.PublishMsgAsync(msg)
			require.NoError(b, err)
		}
		<-js.PublishAsyncComplete()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	})
}
