package watermillbroker_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/watermillbroker"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/brokertest"
)

func optionsFor(o brokertest.Options) []watermillbroker.Option {
	var opts []watermillbroker.Option
	if o.Window > 0 {
		opts = append(opts, watermillbroker.WithWindow(o.Window), watermillbroker.WithConcurrency(min(o.Window, 16)))
	}
	if o.ConfirmTimeout > 0 {
		opts = append(opts, watermillbroker.WithTimeout(o.ConfirmTimeout))
	}
	return opts
}

// A publisher that says what became of each message loses nothing on its way through this package.
func TestConformance_overAPublisherThatTellsOutcomes(t *testing.T) {
	const limit = 2 << 20
	var topics atomic.Int64
	name := func(kind string) string { return fmt.Sprint(kind, "-", topics.Add(1)) }
	broker := membroker.New(membroker.WithLimits(reliable.Limits{Payload: limit}))
	t.Cleanup(func() { _ = broker.Close() })

	brokertest.Run(t, brokertest.Harness{
		Features: brokertest.Features{
			Returns: true, Nacks: true, Rejects: true, KeyOrder: true, Keys: true, Window: true, MarksLost: true,
		},
		Open: func(t brokertest.T, o brokertest.Options) brokertest.Connection {
			pub := broker.Watermill()
			t.Cleanup(func() { _ = pub.Close() })
			b, err := watermillbroker.New(pub, optionsFor(o)...)
			require.NoError(t, err)
			return &closesPublisher{Broker: b, pub: pub}
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
		Cut:      func(brokertest.T, brokertest.Connection) { broker.Crash() },
		Down:     func(brokertest.T) func() { broker.Down(); return broker.Up },
		Block:    func(brokertest.T) func() { broker.Block(); return broker.Unblock },
		Received: brokertest.ReceivedBy(func(brokertest.T) message.Subscriber {
			return broker.Subscriber("suite")
		}, 5*time.Millisecond),
		Watermill: func(t brokertest.T) message.Publisher {
			pub := broker.Watermill()
			t.Cleanup(func() { _ = pub.Close() })
			b, err := watermillbroker.New(pub)
			require.NoError(t, err)
			return b.Watermill()
		},
	})
}

// closesPublisher closes the Watermill publisher, which the suite knows nothing of, after the broker.
type closesPublisher struct {
	*watermillbroker.Broker
	pub message.Publisher
}

func (c *closesPublisher) Close() error {
	if err := c.Broker.Close(); err != nil {
		return err
	}
	return c.pub.Close()
}

// Of a publisher that has nothing but nil and error, the core of the contract holds.
func TestConformance_overGoChannel(t *testing.T) {
	var topics atomic.Int64
	pubsub := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, nil)
	t.Cleanup(func() { _ = pubsub.Close() })
	taken := make(map[string]map[string]bool) // it delivers a topic from its first message on to each new subscription

	brokertest.Run(t, brokertest.Harness{
		Features: brokertest.Features{Keys: true, Window: true},
		Open: func(t brokertest.T, o brokertest.Options) brokertest.Connection {
			b, err := watermillbroker.New(pubsub, optionsFor(o)...)
			require.NoError(t, err)
			return b
		},
		Topic: func(brokertest.T) string { return fmt.Sprint("topic-", topics.Add(1)) },
		Received: func(t brokertest.T, topic string, want int) []reliable.Envelope {
			if taken[topic] == nil {
				taken[topic] = make(map[string]bool)
			}
			all := brokertest.ReceivedBy(func(brokertest.T) message.Subscriber {
				return staysOpen{pubsub}
			}, 50*time.Millisecond)(t, topic, want+len(taken[topic]))
			var arrived []reliable.Envelope
			for _, env := range all {
				if !taken[topic][string(env.ID)] {
					taken[topic][string(env.ID)] = true
					arrived = append(arrived, env)
				}
			}
			return arrived
		},
	})
}

// staysOpen is a subscriber of a Pub/Sub that others still use.
type staysOpen struct{ message.Subscriber }

func (staysOpen) Close() error { return nil }
