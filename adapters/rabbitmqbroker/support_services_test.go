//go:build services

package rabbitmqbroker_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/reliable"
)

// patience is for a busy machine; nothing here takes as long.
const patience = 3 * time.Minute

func quiet() rabbitmqbroker.Option {
	return rabbitmqbroker.WithLogger(slog.New(slog.DiscardHandler))
}

// open returns a Broker that ends with the test.
func open(t testing.TB, url string, opts ...rabbitmqbroker.Option) *rabbitmqbroker.Broker {
	t.Helper()
	b, err := rabbitmqbroker.NewFromURL(url, append([]rabbitmqbroker.Option{
		quiet(), rabbitmqbroker.WithReconnectBackoff(10*time.Millisecond, 200*time.Millisecond),
	}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	return b
}

// admin is a connection of the test's own.
func admin(t testing.TB, url string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	require.NoError(t, err)
	return ch
}

func declareQueue(t require.TestingT, ch *amqp.Channel, name string, args amqp.Table) {
	_, err := ch.QueueDeclare(name, true, false, false, false, args)
	require.NoError(t, err)
}

// depth is how many messages wait in a queue.
func depth(t testing.TB, ch *amqp.Channel, queue string) int {
	t.Helper()
	state, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	require.NoError(t, err)
	return state.Messages
}

func attempts(topic string, n int) []reliable.Attempt {
	batch := make([]reliable.Attempt, n)
	for i := range batch {
		batch[i] = reliable.Attempt{Fence: 1, Attempts: 1, Envelope: reliable.Envelope{
			ID: reliable.NewID(), Topic: topic, Payload: fmt.Appendf(nil, "message %d", i),
		}}
	}
	return batch
}

// receive returns the confirms of batch by id, and checks that no other comes with them and none twice.
func receive(t testing.TB, src reliable.ConfirmSource, batch []reliable.Attempt) map[reliable.ID]reliable.Confirm {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	wanted := make(map[reliable.ID]int64, len(batch))
	for i := range batch {
		wanted[batch[i].ID] = batch[i].Fence
	}
	confirms := make(map[reliable.ID]reliable.Confirm, len(batch))
	for len(confirms) < len(batch) {
		got, err := src.Receive(ctx, 1000)
		require.NoError(t, err, "after %d of %d confirms", len(confirms), len(batch))
		for _, c := range got {
			fence, known := wanted[c.ID]
			_, twice := confirms[c.ID]
			require.True(t, known && fence == c.Fence && !twice, "%+v: known %v, fence %d, twice %v", c, known, fence, twice)
			confirms[c.ID] = c
		}
	}
	return confirms
}

// publish hands a batch over and returns its confirms.
func publish(t testing.TB, b *rabbitmqbroker.Broker, batch ...reliable.Attempt) map[reliable.ID]reliable.Confirm {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n, err := b.Publish(ctx, batch)
	require.NoError(t, err)
	require.Len(t, batch, n)
	return receive(t, b, batch)
}

func requireOutcome(t testing.TB, want reliable.Outcome, c reliable.Confirm) {
	t.Helper()
	require.Equal(t, want.String(), c.Outcome.String(), "%v", c.Err)
}

// count returns how many confirms have the outcome.
func count(confirms map[reliable.ID]reliable.Confirm, outcome reliable.Outcome) int {
	n := 0
	for _, c := range confirms {
		if c.Outcome == outcome {
			n++
		}
	}
	return n
}

// hostOf is the host and port of an amqp:// URL.
func hostOf(t testing.TB, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	return u.Host
}

// via is the URL with another host and port.
func via(t testing.TB, address, host string) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	u.Host = host
	return u.String()
}
