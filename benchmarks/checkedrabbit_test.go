//go:build services

package benchmarks

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

const delayShards = 8

// checkedRabbit is a RabbitMQ with a quorum queue for messages and the quorum queues in which checks wait.
type checkedRabbit struct {
	checked
	url string
}

// delayQueue is what the scheduler calls the exchange and the queue of a shard.
func delayQueue(shard int) string { return fmt.Sprintf("waybill.delay.%v.%d", checkDelay, shard) }

func rabbitWithChecks(b *testing.B) checkedRabbit {
	b.Helper()
	url := testenv.RabbitMQ(b)
	to := rabbit(b, url)
	later, err := to.publisher.(*rabbitmqbroker.Broker).Scheduler([]time.Duration{checkDelay},
		rabbitmqbroker.WithShards(delayShards), rabbitmqbroker.WithBundles())
	require.NoError(b, err)
	for range delayShards { // each is declared when it is first used
		require.NoError(b, later.Schedule(context.Background(), checkDelay,
			reliable.Envelope{ID: reliable.NewID(), Topic: delayedcheck.DefaultCheckTopic}))
	}
	closeBroker := to.close
	to.close = func() { require.NoError(b, later.Close()); closeBroker() }
	c := checkedRabbit{checked{broker: to, later: later, checkTopic: delayedcheck.DefaultCheckTopic}, url}
	c.empty = c.purge
	c.waiting = func() (n int) {
		for shard := range delayShards {
			c.onChannel(b, func(channel *amqp.Channel) { n += checksIn(b, channel, delayQueue(shard)) })
		}
		return n
	}
	return c
}

// checksIn counts the checks in a queue, those in bundles one by one. They are taken out.
func checksIn(b *testing.B, channel *amqp.Channel, queue string) (n int) {
	b.Helper()
	state, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
	require.NoError(b, err)
	deliveries, err := channel.Consume(queue, "", true, false, false, false, nil)
	require.NoError(b, err)
	for range state.Messages {
		d := <-deliveries
		size, bundled := d.Headers[reliable.HeaderBundle].(string)
		if !bundled {
			n++
			continue
		}
		checks, err := strconv.Atoi(size)
		require.NoError(b, err)
		n += checks
	}
	return n
}

func (c checkedRabbit) onChannel(b *testing.B, do func(channel *amqp.Channel)) {
	b.Helper()
	conn, err := amqp.Dial(c.url)
	require.NoError(b, err)
	defer func() { require.NoError(b, conn.Close()) }()
	channel, err := conn.Channel()
	require.NoError(b, err)
	do(channel)
}

// purge empties all queues.
func (c checkedRabbit) purge(b *testing.B) {
	b.Helper()
	c.onChannel(b, func(channel *amqp.Channel) {
		_, err := channel.QueuePurge(topic, false)
		require.NoError(b, err)
		for shard := range delayShards {
			_, err := channel.QueuePurge(delayQueue(shard), false)
			require.NoError(b, err)
		}
	})
}

// bareRabbit publishes checks and messages on a connection each.
func bareRabbit(b *testing.B, c checkedRabbit, n int) float64 {
	b.Helper()
	c.empty(b)
	var confirmed [2]func(ctx context.Context, exchange, key string, i int, body []byte) error
	for side := range confirmed {
		conn, err := amqp.Dial(c.url)
		require.NoError(b, err)
		defer func() { require.NoError(b, conn.Close()) }()
		channel, err := conn.Channel()
		require.NoError(b, err)
		require.NoError(b, channel.Confirm(false))
		confirmed[side] = func(ctx context.Context, exchange, key string, i int, body []byte) error {
			confirmation, err := channel.PublishWithDeferredConfirmWithContext(ctx, exchange, key, true, false, amqp.Publishing{
				MessageId: fmt.Sprintf("bare-%032d", i), DeliveryMode: amqp.Persistent, Body: body,
			})
			if err == nil && !confirmation.Wait() {
				err = reliable.ErrNacked
			}
			return err
		}
	}
	return c.bare(b, n, func(ctx context.Context, i int, body []byte) error {
		return confirmed[0](ctx, delayQueue(i%delayShards), c.checkTopic, i, body)
	}, func(ctx context.Context, i int, body []byte) error {
		return confirmed[1](ctx, "", topic, i, body)
	})
}
