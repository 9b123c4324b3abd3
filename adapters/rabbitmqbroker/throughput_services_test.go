//go:build services

package rabbitmqbroker_test

import (
	"context"
	"fmt"
	"testing"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

const (
	benchWindow  = 1000
	benchPayload = 256
)

// BenchmarkPublish compares the broker with a bare loop over amqp091 that does the same: confirmed, persistent, mandatory,
// to a quorum queue, with a window of 1000.
func BenchmarkPublish(b *testing.B) {
	b.Run("waybill", func(b *testing.B) { benchmarkBroker(b) })
	b.Run("bare", func(b *testing.B) { benchmarkBare(b) })
}

func benchmarkBroker(b *testing.B) {
	broker, err := rabbitmqbroker.NewFromURL(testenv.RabbitMQ(b),
		rabbitmqbroker.WithQuorumQueues(), rabbitmqbroker.WithWindow(benchWindow))
	require.NoError(b, err)
	defer func() { require.NoError(b, broker.Close()) }()
	payload := make([]byte, benchPayload)
	publish := func(n int) {
		go func() {
			const batch = 256
			for from := 0; from < n; from += batch {
				attempts := make([]reliable.Attempt, 0, batch)
				for i := from; i < min(from+batch, n); i++ {
					attempts = append(attempts, reliable.Attempt{Fence: 1, Envelope: reliable.Envelope{
						ID: reliable.NewID(), Topic: "orders", Payload: payload,
					}})
				}
				if _, err := broker.Publish(context.Background(), attempts); err != nil {
					panic(err)
				}
			}
		}()
		for left := n; left > 0; {
			confirms, err := broker.Receive(context.Background(), 1000)
			require.NoError(b, err)
			for _, c := range confirms {
				require.Equal(b, reliable.Acked, c.Outcome, "%v", c.Err)
			}
			left -= len(confirms)
		}
	}
	publish(1000)
	b.ResetTimer()
	publish(b.N)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

func benchmarkBare(b *testing.B) {
	conn, err := amqp.Dial(testenv.RabbitMQ(b))
	require.NoError(b, err)
	defer conn.Close()
	ch, err := conn.Channel()
	require.NoError(b, err)
	_, err = ch.QueueDeclare("orders", true, false, false, false, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum})
	require.NoError(b, err)
	require.NoError(b, ch.Confirm(false))
	returns := ch.NotifyReturn(make(chan amqp.Return, benchWindow))
	go func() {
		for r := range returns {
			panic(fmt.Sprint("returned ", r.MessageId))
		}
	}()
	payload := make([]byte, benchPayload)
	publish := func(n int) {
		inFlight := make(chan *amqp.DeferredConfirmation, benchWindow)
		go func() {
			defer close(inFlight)
			for range n {
				id := string(reliable.NewID())
				confirmation, err := ch.PublishWithDeferredConfirm("", "orders", true, false, amqp.Publishing{
					Headers:   amqp.Table{wamqp.DefaultMessageUUIDHeaderKey: id, reliable.HeaderVersion: reliable.WireVersion},
					MessageId: id, DeliveryMode: amqp.Persistent, Body: payload,
				})
				if err != nil {
					panic(err)
				}
				inFlight <- confirmation
			}
		}()
		for confirmation := range inFlight {
			if !confirmation.Wait() {
				panic("not acked")
			}
		}
	}
	publish(1000)
	b.ResetTimer()
	publish(b.N)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}
