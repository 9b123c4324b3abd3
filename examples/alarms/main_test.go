package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAlarms_areRaisedAndEnd(t *testing.T) {
	var out strings.Builder
	began := time.Now()
	err := run(t.Context(), &out)
	t.Logf("took %v\n%s", time.Since(began), out.String())
	require.NoError(t, err)
	http.DefaultClient.CloseIdleConnections()
	assert.Equal(t, strings.TrimPrefix(`
an order is placed
  live 200, ready 200, ok []
the broker goes away, and an order is placed all the same
  ALARM orders.placed has a message that waits for more than 2s
  live 200, ready 200, degraded [broker_unreachable pending_old]
the broker is back
  over: orders.placed has a message that waits for more than 2s
  live 200, ready 200, ok []
an order goes to a topic that has no stream
  ALARM orders.nowhere has more than 0 failed messages
  live 200, ready 200, degraded [failed_messages]
an operator drops it
  over: orders.nowhere has more than 0 failed messages
  live 200, ready 200, ok []
the relay stops
  live 200, ready 503, unavailable [relay_stopped]
`, "\n"), out.String())
}

// told is an outbox that says what it is told to.
type told struct {
	mu     sync.Mutex
	topics []reliable.TopicStats
	err    error
}

func (o *told) set(err error, topics ...reliable.TopicStats) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.topics, o.err = topics, err
}

func (o *told) Stats(context.Context) ([]reliable.TopicStats, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.topics, o.err
}

func TestWatch_tellsEachAlarmOnceAndWhenItIsOver(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		outbox, said := &told{}, []string(nil)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go watch(ctx, outbox, time.Second, limits{pendingAge: time.Minute, failed: 2}, func(alarm string) { said = append(said, alarm) })
		after := func(err error, topics ...reliable.TopicStats) []string {
			said = nil
			outbox.set(err, topics...)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			return said
		}
		old := reliable.TopicStats{Topic: "a", Pending: 1, OldestPending: 2 * time.Minute}
		assert.Empty(t, after(nil, reliable.TopicStats{Topic: "a", Pending: 1, OldestPending: time.Minute, Failed: 2}))
		assert.Equal(t, []string{"ALARM a has a message that waits for more than 1m0s"}, after(nil, old))
		assert.Equal(t, []string{"ALARM the store does not answer"}, after(errors.New("away")), "and nothing is said to be over")
		assert.Equal(t, []string{"over: the store does not answer"}, after(nil, old))
		assert.ElementsMatch(t, []string{"over: a has a message that waits for more than 1m0s", "ALARM b has more than 2 failed messages"},
			after(nil, reliable.TopicStats{Topic: "b", Failed: 3}))
	})
}
