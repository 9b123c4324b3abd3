//go:build services

package kafkabroker_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/brokertest"
)

// On real Kafka. Order over several partitions is by key only; with one partition it is complete.
func TestConformance(t *testing.T) {
	// The broker takes less than the adapter believes, so that a payload between the two is poison. What an honest limit
	// does is tested elsewhere: the suite tries limits below 8 MiB, where this lie would show.
	const brokersLimit, adaptersLimit = 2 << 20, 10 << 20
	server := testservers.StartKafka(t, fmt.Sprint("message.max.bytes=", brokersLimit))
	for _, c := range []struct {
		name       string
		partitions int
	}{{"one partition", 1}, {"three partitions", 3}} {
		t.Run(c.name, func(t *testing.T) {
			proxy := faultproxy.New(t, server.Addr())
			var topics atomic.Int64
			named := func(kind string) string { return fmt.Sprint(c.partitions, ".", kind, ".", topics.Add(1)) }
			broker := func(t brokertest.T, more ...kafkabroker.Option) *kafkabroker.Broker {
				b, err := kafkabroker.New(server.Brokers(), append(more, quiet(), via(proxy.Addr()),
					kafkabroker.WithMaxMessageBytes(adaptersLimit))...)
				require.NoError(t, err)
				return b
			}
			brokertest.Run(t, brokertest.Harness{
				Features: brokertest.Features{
					Returns: true, Rejects: true, Order: c.partitions == 1, KeyOrder: true, Keys: true, Window: true,
					FindsPoison: true, OutOfProcess: true, MaxPayload: brokersLimit - 1000,
				},
				Open: func(t brokertest.T, o brokertest.Options) brokertest.Connection {
					own := []kafkabroker.Option{kafkabroker.WithConfirmTimeout(10 * time.Second)}
					if o.Window > 0 {
						own = append(own, kafkabroker.WithWindow(o.Window))
					}
					if o.ConfirmTimeout > 0 {
						own = append(own, kafkabroker.WithConfirmTimeout(o.ConfirmTimeout))
					}
					return broker(t, own...)
				},
				Topic: func(brokertest.T) string {
					topic := named("topic")
					server.CreateTopic(topic, c.partitions)
					return topic
				},
				UnroutableTopic: func(brokertest.T) string { return named("nowhere") },
				Oversize:        func(brokertest.T) []byte { return make([]byte, adaptersLimit+1) },
				Poison: func(_ brokertest.T, topic string) reliable.Envelope {
					return reliable.Envelope{ID: reliable.NewID(), Topic: topic, Payload: incompressible(brokersLimit + 1000)}
				},
				Cut: func(brokertest.T, brokertest.Connection) { proxy.CutAll() },
				Down: func(brokertest.T) func() {
					proxy.Refuse(true)
					proxy.CutAll()
					return func() { proxy.Refuse(false) }
				},
				Block: func(brokertest.T) func() {
					server.Pause()
					return server.Resume
				},
				Received: brokertest.ReceivedBy(func(t brokertest.T) message.Subscriber {
					b, err := kafkabroker.New(server.Brokers(), quiet())
					require.NoError(t, err)
					sub, err := b.Subscribe("conformance")
					require.NoError(t, err)
					return sub
				}, 300*time.Millisecond),
				Watermill: func(t brokertest.T) message.Publisher { return broker(t).Watermill() },
			})
		})
	}
}
