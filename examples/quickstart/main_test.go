package main

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/examples/internal/orders"
	"github.com/waybillmq/waybill/reliable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long nothing may happen on a loaded machine before it counts as lost.
const patience = 20 * time.Second

func TestQuickstart_losesNothingOverAnOutage(t *testing.T) {
	var out strings.Builder
	result, err := run(t.Context(), config{plan: orders.Plan{Orders: 300, Outage: 500 * time.Millisecond, Patience: patience}}, &out)
	t.Log("\n" + out.String())
	require.NoError(t, err)
	require.NoError(t, result.Err())
	line := regexp.MustCompile(`(?m)^orders=300 confirmed=299 failed=1 pending=0 delivered=299 duplicates=\d+ lost=0$`)
	assert.Regexp(t, line, out.String())
	assert.Contains(t, out.String(), `to "orders.nowhere"`)
	assert.Contains(t, out.String(), "rolled back: order-declined, was never sent")
}

func TestQuickstart_noticesAMessageThatIsDroppedAndAcked(t *testing.T) {
	var out strings.Builder
	result, err := run(t.Context(), config{
		plan: orders.Plan{Orders: 30, Outage: 100 * time.Millisecond, Patience: 3 * time.Second},
		wrap: func(honest broker) broker { return newLiar(honest, "order-000007") },
	}, &out)
	t.Log("\n" + out.String())
	require.NoError(t, err)
	require.Error(t, result.Err(), "the program exits with 0")
	assert.Contains(t, out.String(), "orders=30 confirmed=29 failed=1 pending=0 delivered=28 duplicates=0 lost=1\n")
}

// liar drops one message and acks it.
type liar struct {
	broker
	drop reliable.ID
	lie  chan reliable.Confirm // holds one

	told context.Context //nolint:containedctx // ends when the lie is told, and with that a Receive that waits
	tell context.CancelFunc
}

func newLiar(honest broker, drop reliable.ID) *liar {
	l := &liar{broker: honest, drop: drop, lie: make(chan reliable.Confirm, 1)}
	l.told, l.tell = context.WithCancel(context.Background())
	return l
}

func (l *liar) Unwrap() any { return l.broker }

func (l *liar) Publish(ctx context.Context, batch []reliable.Attempt) (int, error) {
	at := slices.IndexFunc(batch, func(a reliable.Attempt) bool { return a.ID == l.drop })
	if at < 0 {
		return l.broker.Publish(ctx, batch)
	}
	if n, err := l.broker.Publish(ctx, batch[:at]); n < at {
		return n, err
	}
	l.lie <- reliable.Confirm{ID: l.drop, Fence: batch[at].Fence, Outcome: reliable.Acked}
	l.tell()
	n, err := l.broker.Publish(ctx, batch[at+1:])
	return at + 1 + n, err
}

func (l *liar) Receive(ctx context.Context, limit int) ([]reliable.Confirm, error) {
	waiting := ctx
	if l.told.Err() == nil {
		var interrupt context.CancelFunc
		waiting, interrupt = context.WithCancel(ctx)
		defer interrupt()
		defer context.AfterFunc(l.told, interrupt)()
	}
	select {
	case lie := <-l.lie:
		return []reliable.Confirm{lie}, nil
	default:
	}
	confirms, err := l.broker.Receive(waiting, limit)
	if err != nil && ctx.Err() == nil && l.told.Err() != nil {
		return nil, nil // come again for the lie
	}
	return confirms, err
}
