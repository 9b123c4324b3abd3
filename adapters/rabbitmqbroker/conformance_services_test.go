//go:build services

package rabbitmqbroker_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/brokertest"
)

func TestConformance(t *testing.T) {
	// The broker takes less than the adapter believes, so that a payload between the two is poison. The suite tries
	// limits below 8 MiB, where this lie would show; what an honest limit does is tested in TestPublish_whatIsTooLargeIsRejectedBeforeItHarms.
	const brokersLimit, adaptersLimit = 2 << 20, 9 << 20
	server := testservers.StartRabbitMQ(t, fmt.Sprint("max_message_size = ", brokersLimit))
	for _, queues := range []string{amqp.QueueTypeClassic, amqp.QueueTypeQuorum} {
		t.Run(queues, func(t *testing.T) {
			proxy := faultproxy.New(t, server.Addr())
			channel := admin(t, server.URL())
			var topics atomic.Int64
			declared := func(t require.TestingT, kind string, args amqp.Table) string {
				name := fmt.Sprint(queues, ".", kind, ".", topics.Add(1))
				args[amqp.QueueTypeArg] = queues
				declareQueue(t, channel, name, args)
				return name
			}
			options := []rabbitmqbroker.Option{
				quiet(), rabbitmqbroker.WithMaxMessageBytes(adaptersLimit),
				rabbitmqbroker.WithReconnectBackoff(5*time.Millisecond, 50*time.Millisecond),
				rabbitmqbroker.WithoutDeclaring(),
			}
			if queues == amqp.QueueTypeQuorum {
				options = append(options, rabbitmqbroker.WithQuorumQueues())
			}
			broker := func(t brokertest.T, more ...rabbitmqbroker.Option) *rabbitmqbroker.Broker {
				b, err := rabbitmqbroker.NewFromURL(server.URLVia(proxy.Addr()), append(more, options...)...)
				require.NoError(t, err)
				return b
			}
			brokertest.Run(t, brokertest.Harness{
				Features: brokertest.Features{
					Returns: true, Nacks: true, Rejects: true, Order: true, Keys: true, Window: true, FindsPoison: true,
					MarksLost: true, OutOfProcess: true, MaxPayload: brokersLimit,
				},
				Open: func(t brokertest.T, o brokertest.Options) brokertest.Connection {
					var own []rabbitmqbroker.Option
					if o.Window > 0 {
						own = append(own, rabbitmqbroker.WithWindow(o.Window))
					}
					if o.ConfirmTimeout > 0 {
						own = append(own, rabbitmqbroker.WithConfirmTimeout(o.ConfirmTimeout),
							rabbitmqbroker.WithBlockedTimeout(o.ConfirmTimeout))
					}
					return broker(t, own...)
				},
				Topic:           func(t brokertest.T) string { return declared(t, "topic", amqp.Table{}) },
				UnroutableTopic: func(brokertest.T) string { return fmt.Sprint("nowhere.", topics.Add(1)) },
				RefusingTopic: func(t brokertest.T) string {
					name := declared(t, "full", amqp.Table{
						amqp.QueueMaxLenArg: 1, amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish,
					})
					fill(t, channel, name)
					return name
				},
				Oversize: func(brokertest.T) []byte { return make([]byte, adaptersLimit+1) },
				Poison: func(_ brokertest.T, topic string) reliable.Envelope {
					return reliable.Envelope{ID: reliable.NewID(), Topic: topic, Payload: make([]byte, brokersLimit+1)}
				},
				Cut: func(brokertest.T, brokertest.Connection) { proxy.CutAll() },
				Down: func(brokertest.T) func() {
					proxy.Refuse(true)
					proxy.CutAll()
					return func() { proxy.Refuse(false) }
				},
				Block: func(brokertest.T) func() {
					server.SetMemoryAlarm(true)
					return func() { server.SetMemoryAlarm(false) }
				},
				Received: brokertest.ReceivedBy(func(t brokertest.T) message.Subscriber {
					b, err := rabbitmqbroker.NewFromURL(server.URL(), options...)
					require.NoError(t, err)
					sub, err := b.Subscriber()
					require.NoError(t, err)
					return sub
				}, 300*time.Millisecond),
				Watermill: func(t brokertest.T) message.Publisher { return broker(t).Watermill() },
			})
		})
	}
}

// fill publishes to a queue until it refuses.
func fill(t require.TestingT, ch *amqp.Channel, queue string) {
	require.NoError(t, ch.Confirm(false))
	for range 100 {
		confirmation, err := ch.PublishWithDeferredConfirm("", queue, true, false, amqp.Publishing{Body: []byte("full")})
		require.NoError(t, err)
		if !confirmation.Wait() {
			return
		}
	}
	require.Fail(t, "the queue does not refuse")
}
