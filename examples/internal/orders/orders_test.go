package orders

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// playOn runs 30 orders over a broker that follows script; start ends its outage.
func playOn(
	t *testing.T, out io.Writer, patience time.Duration, script func(membroker.Attempt) membroker.Verdict,
	start func(*membroker.Broker),
) Result {
	t.Helper()
	dir := t.TempDir()
	store, err := sqlitestore.Open(t.Context(), filepath.Join(dir, "shop.db"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	if script == nil {
		script = func(membroker.Attempt) membroker.Verdict { return membroker.Verdict{} }
	}
	broker := membroker.New(membroker.WithDeclaredTopicsOnly(), membroker.WithScript(script))
	t.Cleanup(func() { assert.NoError(t, broker.Close()) })

	result, err := Run(t.Context(), Backend{
		DB: store.DB(), Store: store, Publisher: broker, Confirms: broker, Subscriber: broker,
		Topic: "orders.placed", Nowhere: "orders.nowhere",
		Stop:  func(context.Context) error { broker.Down(); return nil },
		Start: func(context.Context) error { start(broker); return nil },
	}, Plan{Orders: 30, Outage: time.Millisecond, Patience: patience, Dir: dir}, out)
	require.NoError(t, err)
	return result
}

// short is the patience of those tests that wait in vain, long that of the others.
const short, long = 2 * time.Second, 30 * time.Second

func TestRun_everyOrderIsDeliveredOrVisiblyFailed(t *testing.T) {
	var out strings.Builder
	result := playOn(t, &out, long, nil, (*membroker.Broker).Up)
	require.NoError(t, result.Err())
	assert.Equal(t, "orders=30 confirmed=29 failed=1 pending=0 delivered=29 duplicates=0 lost=0", result.String())
	assert.Contains(t, out.String(), "rolled back: order-declined, was never sent")
}

func TestRun_aDuplicateIsCountedAndNoFault(t *testing.T) {
	result := playOn(t, io.Discard, long, func(a membroker.Attempt) membroker.Verdict {
		if a.ID == "order-000003" {
			return membroker.Verdict{Extra: 1}
		}
		return membroker.Verdict{}
	}, (*membroker.Broker).Up)
	require.NoError(t, result.Err())
	assert.Equal(t, 1, result.Duplicates)
	assert.Equal(t, 29, result.Delivered)
}

func TestRun_aMessageThatTheBrokerLosesIsLost(t *testing.T) {
	result := playOn(t, io.Discard, short, func(a membroker.Attempt) membroker.Verdict {
		if a.ID == "order-000003" {
			return membroker.Verdict{Act: membroker.Lie}
		}
		return membroker.Verdict{}
	}, (*membroker.Broker).Up)
	require.ErrorContains(t, result.Err(), "1 committed orders were neither delivered nor failed")
	assert.Equal(t, 29, result.Confirmed)
	assert.Equal(t, 1, result.Lost)
}

func TestRun_aBrokerThatStaysAwayLeavesMessagesPending(t *testing.T) {
	result := playOn(t, io.Discard, short, nil, func(*membroker.Broker) {})
	require.ErrorContains(t, result.Err(), "messages are still pending")
	assert.Equal(t, 30, result.Orders, "orders are placed all the same")
	assert.Zero(t, result.Failed, "an outage fails nothing")
}

func TestRun_aMessageOfTheRolledBackOrderIsAPhantom(t *testing.T) {
	var out strings.Builder
	result := playOn(t, &out, long, nil, func(broker *membroker.Broker) {
		broker.Up()
		forger := broker.Watermill()
		assert.NoError(t, forger.Publish("orders.placed", message.NewMessage("order-declined", nil)))
		assert.NoError(t, forger.Close())
	})
	require.ErrorContains(t, result.Err(), "no transaction committed")
	assert.Contains(t, out.String(), "WAS SENT")
}

func TestRun_tooFewOrdersAreRefused(t *testing.T) {
	_, err := Run(t.Context(), Backend{}, Plan{Orders: 2}, io.Discard)
	require.ErrorContains(t, err, "at least 3")
}
