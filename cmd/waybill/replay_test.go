package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

const deadOrders = "orders.poison"

// poisoned starts a broker with the topic "orders" and a poison topic that holds order-1 to order-3, and returns its URL.
func poisoned(t *testing.T) (address string, broker backend.Broker) {
	t.Helper()
	server, err := embedded.StartServer(t.Context(), t.TempDir(), embedded.WithListener(0))
	require.NoError(t, err)
	t.Cleanup(server.Stop)
	broker, err = brokers().Open(t.Context(), server.URL())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, broker.Close()) })
	require.NoError(t, broker.Declare(t.Context(), "orders", deadOrders))
	publisher := broker.Watermill()
	defer publisher.Close()
	for id, reason := range map[string]string{"order-1": "connection refused", "order-2": "no such\tcustomer", "order-3": "connection refused"} {
		msg := message.NewMessage(id, []byte("the secret of "+id))
		msg.Metadata = message.Metadata{
			"customer": "metadata of " + id, reliable.HeaderFailureTopic: "orders", reliable.HeaderFailureGroup: "billing",
			reliable.HeaderFailureAttempts: "4", reliable.HeaderFailureReason: reason, reliable.HeaderFailureLast: "2026-01-02T03:04:05Z",
		}
		require.NoError(t, publisher.Publish(deadOrders, msg))
	}
	return server.URL(), broker
}

func replayed(t *testing.T, address string, args ...string) ran {
	t.Helper()
	return replayedFor(t, 2*time.Second, address, args...)
}

func replayedFor(t *testing.T, idle time.Duration, address string, args ...string) ran {
	t.Helper()
	args = append([]string{"replay", deadOrders, "--idle", idle.String()}, args...)
	return finish(t, command(t, []string{"WAYBILL_BROKER=" + address}, args...))
}

// replayedUntil replays until a run's output says what it should. On a busy machine messages may take longer to come, or to
// come back from the run before, than a replay waits: they are there for the next one.
func replayedUntil(t *testing.T, says, address string, args ...string) ran {
	t.Helper()
	var result ran
	for idle := 2 * time.Second; idle < patience/2; idle *= 2 {
		result = replayedFor(t, idle, address, args...)
		if strings.Contains(result.stdout, says) {
			return result
		}
		require.Contains(t, []int{0, exitNothing, exitPartly}, result.code, "%v", result)
	}
	require.Fail(t, "not replayed", "%q: %v", says, result)
	return result
}

func TestReplay_rehearsesThenReplaysOneThenAll(t *testing.T) {
	address, broker := poisoned(t)
	result := replayedUntil(t, "would replay 3 messages; kept 0", address, "--dry-run", "--through")
	require.Zero(t, result.code, "%v", result)
	assert.Regexp(t, `order-1 +orders +billing +4 +0 +2026-01-02T03:04:05Z +replayed +connection refused`, result.stdout)
	assert.NotContains(t, result.stdout+result.stderr, "secret")
	assert.NotContains(t, result.stdout+result.stderr, "metadata of")

	result = replayedUntil(t, "replayed 1 message;", address, "order-2")
	require.Zero(t, result.code, "%v", result)
	result = replayed(t, address, "--reason", "disk full", "--yes")
	assert.Equal(t, exitNothing, result.code, "%v", result)
	left := map[reliable.ID]string{"order-1": "connection refused", "order-3": "connection refused"}
	for deadline := time.Now().Add(patience); len(left) > 0 && time.Now().Before(deadline); {
		result = replayed(t, address, "--from", "orders", "--failed-group", "billing", "--yes", "-o", "json")
		require.Contains(t, []int{0, exitNothing}, result.code, "%v", result)
		for _, m := range parsed[replayDocument](t, result).Messages {
			assert.Equal(t, left[m.ID], m.Reason, "%q", m.ID)
			assert.Equal(t, middleware.Replayed, m.Result)
			delete(left, m.ID)
		}
	}
	require.Empty(t, left)

	subscriber, err := broker.Subscribe("billing")
	require.NoError(t, err)
	defer subscriber.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	messages, err := subscriber.Subscribe(ctx, "orders")
	require.NoError(t, err)
	got := make(map[string]string)
	for range 3 {
		msg := <-messages
		require.NotNil(t, msg)
		got[msg.UUID] = string(msg.Payload) + ", " + msg.Metadata["customer"] + ", " + msg.Metadata[reliable.HeaderReplays]
		msg.Ack()
	}
	assert.Equal(t, map[string]string{
		"order-1": "the secret of order-1, metadata of order-1, 1", "order-2": "the secret of order-2, metadata of order-2, 1",
		"order-3": "the secret of order-3, metadata of order-3, 1",
	}, got)
}

func TestReplay_saysWhatItLeft(t *testing.T) {
	address, _ := poisoned(t)
	result := replayedUntil(t, "refused 3", address, "--to", "nowhere", "--yes")
	assert.Equal(t, exitPartly, result.code, "%v", result)
	assert.Contains(t, result.stderr, "nowhere")
	result = replayedUntil(t, "replayed 1 message;", address, "--limit", "1", "--yes")
	assert.Equal(t, exitPartly, result.code, "%v", result)
	assert.Contains(t, result.stderr, "stopped at --limit 1")
}
