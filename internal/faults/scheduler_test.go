//go:build services

package faults

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/reliable"
)

// What JetStream has accepted waits on its disk: a server that is killed with SIGKILL delivers it when it is back, none early
// and none lost. The other brokers are killed by the conformance suite of their own schedulers.
func TestNATS_whatWaitsInASchedulerOutlivesAKill(t *testing.T) {
	server := startNATS(t)
	broker, err := natsbroker.New(natsbroker.Config{URL: server.url}, natsbroker.WithStream("orders", "orders.>"),
		natsbroker.WithReconnectWait(20*time.Millisecond, 200*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, broker.Close()) })
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	require.NoError(t, broker.Declare(ctx))
	scheduler := broker.Scheduler()
	t.Cleanup(func() { assert.NoError(t, scheduler.Close()) })

	const messages, delay = 200, 3 * time.Second
	began := time.Now()
	due := make(map[string]time.Time, messages)
	for i := range messages {
		env := reliable.Envelope{ID: reliable.ID(fmt.Sprint("check-", i)), Topic: "orders.checks"}
		due[string(env.ID)] = time.Now().Add(delay)
		require.NoError(t, scheduler.Schedule(ctx, delay, env))
	}
	server.kill()
	t.Logf("killed %v after the first of %d was scheduled", time.Since(began).Round(time.Millisecond), messages)
	server.start()

	subscriber, err := broker.Subscriber("service", natsbroker.WithConcurrency(20))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, subscriber.Close()) })
	seen, err := subscriber.Subscribe(ctx, "orders.checks")
	require.NoError(t, err)
	for left := due; len(left) > 0; {
		select {
		case msg := <-seen:
			if at, waits := left[msg.UUID]; waits {
				assert.False(t, time.Now().Before(at), "%s came early", msg.UUID)
				delete(left, msg.UUID)
			}
			msg.Ack()
		case <-ctx.Done():
			require.Empty(t, left, "lost")
		}
	}
}
