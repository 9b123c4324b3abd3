package membroker_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/brokertest"
)

func TestConformance(t *testing.T) {
	for _, latency := range []time.Duration{0, time.Millisecond} {
		t.Run(fmt.Sprint("latency=", latency), func(t *testing.T) { conform(t, latency) })
	}
}

// conform has all checks share one broker, in which every topic is their own; the window and the timeout are those of each
// connection.
func conform(t *testing.T, latency time.Duration) {
	t.Helper()
	const limit = 2 << 20
	var topics atomic.Int64
	name := func(kind string) string { return fmt.Sprint(kind, "-", topics.Add(1)) }
	broker := membroker.New(
		membroker.WithLatency(latency),
		membroker.WithLimits(reliable.Limits{Payload: limit}),
		membroker.WithScript(func(a membroker.Attempt) membroker.Verdict {
			if a.Metadata["act"] == "poison" {
				return membroker.Verdict{Act: membroker.Poison}
			}
			return membroker.Verdict{}
		}),
	)
	t.Cleanup(func() { _ = broker.Close() })

	brokertest.Run(t, brokertest.Harness{
		Features: brokertest.Features{
			Returns: true, Nacks: true, Rejects: true, Order: true, Keys: true, Window: true, FindsPoison: true, MarksLost: true,
		},
		Open: func(_ brokertest.T, o brokertest.Options) brokertest.Connection {
			return broker.Connect(membroker.ConnWindow(o.Window), membroker.ConnConfirmTimeout(o.ConfirmTimeout))
		},
		Topic: func(brokertest.T) string { return name("topic") },
		UnroutableTopic: func(brokertest.T) string {
			topic := name("unroutable")
			broker.Undeclare(topic)
			return topic
		},
		RefusingTopic: func(brokertest.T) string {
			topic := name("full")
			broker.Full(true, topic)
			return topic
		},
		Oversize: func(brokertest.T) []byte { return make([]byte, limit+1) },
		Poison: func(_ brokertest.T, topic string) reliable.Envelope {
			return reliable.Envelope{ID: reliable.NewID(), Topic: topic, Metadata: map[string]string{"act": "poison"}}
		},
		Cut:   func(_ brokertest.T, c brokertest.Connection) { c.(*membroker.Conn).Cut() },
		Down:  func(brokertest.T) func() { broker.Down(); return broker.Up },
		Block: func(brokertest.T) func() { broker.Block(); return broker.Unblock },
		Received: brokertest.ReceivedBy(func(brokertest.T) message.Subscriber {
			return broker.Subscriber("suite")
		}, 5*time.Millisecond),
		Watermill: func(brokertest.T) message.Publisher { return broker.Watermill() },
	})
}
