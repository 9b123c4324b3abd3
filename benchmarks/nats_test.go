//go:build services

package benchmarks

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/benchmarks/pairs"
)

// rawNATS is how many messages a publisher without a store moves.
const rawNATS = 100_000

// startNATS runs a server on a port of the loopback interface. It is in this process, and takes its share of the processors
// from both sides alike.
func startNATS(b *testing.B) *embedded.Server {
	b.Helper()
	server, err := embedded.StartServer(context.Background(), b.TempDir(), embedded.WithListener(0))
	require.NoError(b, err)
	b.Cleanup(server.Stop)
	return server
}

// emptyStream makes a stream for the subject of its name. end deletes it, so that neither side of a pair pays for what the
// other stored and for the ids that the server remembers.
func emptyStream(b *testing.B, server *embedded.Server) (name string, stored func() int, end func()) {
	b.Helper()
	ctx := context.Background()
	nc, err := nats.Connect(server.URL())
	require.NoError(b, err)
	js, err := jetstream.New(nc)
	require.NoError(b, err)
	name = fmt.Sprint(topic, "-", time.Now().UnixNano())
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}})
	require.NoError(b, err)
	stored = func() int {
		info, err := stream.Info(ctx)
		require.NoError(b, err)
		return int(info.State.Msgs)
	}
	return name, stored, func() {
		require.NoError(b, js.DeleteStream(ctx, name))
		nc.Close()
	}
}

// bareNATS returns P: confirmed publishes per second of a bare nats.go client, of messages that carry an id which the
// server deduplicates by, and a window of unconfirmed ones.
func bareNATS(b *testing.B, server *embedded.Server) float64 {
	b.Helper()
	name, stored, end := emptyStream(b, server)
	defer end()
	nc, err := nats.Connect(server.URL())
	require.NoError(b, err)
	defer nc.Close()
	free := make(chan struct{}, window)
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(window),
		jetstream.WithPublishAsyncAckHandler(func(jetstream.JetStream, *nats.Msg, *jetstream.PubAck) { <-free }))
	require.NoError(b, err)

	payload := make([]byte, payloadBytes)
	start, used := time.Now(), pairs.StartMeter()
	for i := range rawNATS {
		free <- struct{}{}
		_, err := js.PublishMsgAsync(&nats.Msg{
			Subject: name, Data: payload, Header: nats.Header{nats.MsgIdHdr: {fmt.Sprintf("bare-%032d", i)}},
		})
		require.NoError(b, err)
	}
	<-js.PublishAsyncComplete()
	elapsed := time.Since(start)
	used.Log(b, "P", rawNATS)
	require.Equal(b, rawNATS, stored())
	return rawNATS / elapsed.Seconds()
}

func publishRawNATS(b *testing.B, server *embedded.Server) float64 {
	b.Helper()
	to := onNATS(b, server)
	defer to.close()
	rate := publishRaw(b, to, rawNATS)
	require.Equal(b, rawNATS, to.stored())
	return rate
}

// onNATS is a broker with an empty stream.
func onNATS(b *testing.B, server *embedded.Server) broker {
	b.Helper()
	name, stored, end := emptyStream(b, server)
	n, err := natsbroker.New(natsbroker.Config{URL: server.URL()}, natsbroker.WithWindow(window))
	require.NoError(b, err)
	require.NoError(b, n.Ping(context.Background()))
	return broker{name, n, n, stored, func() { require.NoError(b, n.Close()); end() }}
}

func BenchmarkPublishNATS(b *testing.B) {
	server := startNATS(b)
	pairs.Compare(b, "publish-nats", "confirmed publish through natsbroker", "bare nats.go",
		func(b *testing.B) float64 { return bareNATS(b, server) },
		func(b *testing.B) float64 { return publishRawNATS(b, server) })
}
