package kafkabroker_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/reliable"
)

// patience bounds what must happen. It is long because the machine may be busy.
const patience = time.Minute

// sarama's metrics keep one goroutine for as long as the process lives.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

func quiet() kafkabroker.Option { return kafkabroker.WithLogger(slog.New(slog.DiscardHandler)) }

// via sends all connections through one address: brokers name their own, which would go around a proxy.
func via(proxy string) kafkabroker.Option {
	return kafkabroker.WithDialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, proxy)
	})
}

func open(t testing.TB, brokers []string, opts ...kafkabroker.Option) *kafkabroker.Broker {
	t.Helper()
	b, err := kafkabroker.New(brokers, append([]kafkabroker.Option{quiet()}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	return b
}

func attempts(topic string, n int) []reliable.Attempt {
	batch := make([]reliable.Attempt, n)
	for i := range batch {
		id := reliable.NewID()
		batch[i] = reliable.Attempt{
			Envelope: reliable.Envelope{ID: id, Topic: topic, Payload: []byte("payload of " + string(id))}, Fence: 1, Attempts: 1,
		}
	}
	return batch
}

// publish hands all over and returns the confirms in the order of the batch.
func publish(t testing.TB, b *kafkabroker.Broker, batch ...reliable.Attempt) []reliable.Confirm {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n, err := b.Publish(ctx, batch)
	require.NoError(t, err)
	require.Equal(t, len(batch), n)
	return confirmsOf(t, b, batch)
}

func confirmsOf(t testing.TB, b *kafkabroker.Broker, batch []reliable.Attempt) []reliable.Confirm {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	byID := make(map[reliable.ID]reliable.Confirm)
	for len(byID) < len(batch) {
		confirms, err := b.Receive(ctx, 100)
		require.NoError(t, err, "after %d of %d confirms", len(byID), len(batch))
		for _, confirm := range confirms {
			require.NotContains(t, byID, confirm.ID, "confirmed twice")
			byID[confirm.ID] = confirm
		}
	}
	ordered := make([]reliable.Confirm, len(batch))
	for i := range batch {
		require.Contains(t, byID, batch[i].ID)
		ordered[i] = byID[batch[i].ID]
	}
	return ordered
}

func requireOutcome(t testing.TB, want reliable.Outcome, confirms ...reliable.Confirm) {
	t.Helper()
	for i, confirm := range confirms {
		require.Equal(t, want, confirm.Outcome, "confirm %d of %d: %v", i, len(confirms), confirm.Err)
	}
}

// incompressible is a payload that stays as large as it is.
func incompressible(bytes int) []byte {
	payload := make([]byte, bytes)
	source := rand.NewChaCha8([32]byte{})
	_, _ = source.Read(payload) // never fails
	return payload
}
