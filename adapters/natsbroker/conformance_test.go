package natsbroker_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/reliable/brokertest"
)

func TestConformance(t *testing.T) {
	server := startServer(t)
	cutter := &cutter{server: server}
	cfg := natsbroker.Config{Connection: []nats.Option{nats.InProcessServer(cutter)}}
	var topics atomic.Int64
	name := func(kind string) string { return fmt.Sprint(kind, ".", topics.Add(1)) }
	open := func(t brokertest.T, opts ...natsbroker.Option) *natsbroker.Broker {
		t.Helper()
		b, err := natsbroker.New(cfg, append(opts, natsbroker.WithReconnectWait(5*time.Millisecond, 50*time.Millisecond))...)
		require.NoError(t, err)
		return b
	}
	admin := open(t)
	t.Cleanup(func() { _ = admin.Close() })
	require.NoError(t, admin.EnsureStream(t.Context(),
		jetstream.StreamConfig{Name: "topics", Subjects: []string{"topic.>"}},
		jetstream.StreamConfig{Name: "full", Subjects: []string{"full.>"}, MaxMsgs: 1, Discard: jetstream.DiscardNew}))
	nc, js := client(t, server)
	_, err := js.Publish(t.Context(), "full.up", nil)
	require.NoError(t, err)
	nc.Close() // or it would connect again while goroutines are counted

	brokertest.Run(t, brokertest.Harness{
		Features: brokertest.Features{
			Returns: true, Nacks: true, Rejects: true, Order: true, Keys: true, Window: true, MarksLost: true,
			MaxPayload: admin.Limits().Payload,
		},
		Open: func(t brokertest.T, o brokertest.Options) brokertest.Connection {
			var opts []natsbroker.Option
			if o.Window > 0 {
				opts = append(opts, natsbroker.WithWindow(o.Window))
			}
			if o.ConfirmTimeout > 0 {
				opts = append(opts, natsbroker.WithConfirmTimeout(o.ConfirmTimeout))
			}
			return open(t, opts...)
		},
		Topic:           func(brokertest.T) string { return name("topic") },
		UnroutableTopic: func(brokertest.T) string { return name("nowhere") },
		RefusingTopic:   func(brokertest.T) string { return name("full") },
		Oversize:        func(brokertest.T) []byte { return make([]byte, 1<<20) },
		Cut:             func(brokertest.T, brokertest.Connection) { cutter.cut() },
		Down: func(t brokertest.T) func() {
			server.Stop()
			return func() { require.NoError(t, server.Restart(t.Context())) }
		},
		Block: func(brokertest.T) func() { return cutter.block() },
		Received: brokertest.ReceivedBy(func(t brokertest.T) message.Subscriber {
			sub, err := admin.Subscriber("suite", natsbroker.WithAckWait(2*time.Second))
			require.NoError(t, err)
			return sub
		}, 100*time.Millisecond),
		Watermill: func(brokertest.T) message.Publisher { return admin.Watermill() },
		Volume:    5000,
	})
}
