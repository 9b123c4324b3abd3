package orders

import (
	"context"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
)

// playChecks runs 30 orders without message rows over a broker that follows script.
func playChecks(t *testing.T, patience time.Duration, script func(membroker.Attempt) membroker.Verdict) Result {
	t.Helper()
	dir := t.TempDir()
	store, err := sqlitestore.Open(t.Context(), filepath.Join(dir, "shop.db"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	witness, err := sqlitestore.NewRowWitness(store.DB(), sqlitestore.WitnessRow{Table: "orders", Column: "id", Promise: sqlitestore.RowPromise{
		TransactionInserts: true, KeyIsUnique: true, NeverDeletedInTime: true, SameWritableNode: true, IDDerivesFromRow: true,
	}})
	require.NoError(t, err)
	broker := membroker.New(membroker.WithScript(script))
	t.Cleanup(func() { assert.NoError(t, broker.Close()) })
	processed := broker.Watermill()
	t.Cleanup(func() { assert.NoError(t, processed.Close()) })

	result, err := RunChecked(t.Context(), Backend{
		DB: store.DB(), Store: store, Publisher: broker, Confirms: broker, Subscriber: broker, Topic: "orders.placed",
		Stop:  func(context.Context) error { broker.Down(); return nil },
		Start: func(context.Context) error { broker.Up(); return nil },
	}, Checking{
		Witness: witness, Scheduler: broker.Scheduler(), Move: func(ctx context.Context) error { <-ctx.Done(); return nil },
		Delay: 500 * time.Millisecond, Processed: processed, Callback: broker,
		ProcessedTopic: "orders.processed", ChecksTopic: "orders.checks",
	}, Plan{Orders: 30, Outage: time.Millisecond, Patience: patience, Dir: dir}, io.Discard)
	require.NoError(t, err)
	return result
}

func TestRunChecked_whatTheBrokerLosesIsSentAgain(t *testing.T) {
	result := playChecks(t, long, func(a membroker.Attempt) membroker.Verdict {
		if a.ID == "order-000003" && a.OfID == 1 {
			return membroker.Verdict{Act: membroker.Lie}
		}
		return membroker.Verdict{}
	})
	require.NoError(t, result.Err())
	assert.Equal(t, 30, result.Delivered)
	assert.Equal(t, 30, result.Confirmed)
	assert.Equal(t, 30, result.Checks)
	assert.Positive(t, result.Resends)
}

func TestRunChecked_aMessageThatIsLostEachTimeIsLost(t *testing.T) {
	result := playChecks(t, short, func(a membroker.Attempt) membroker.Verdict {
		if a.ID == "order-000003" {
			return membroker.Verdict{Act: membroker.Lie}
		}
		return membroker.Verdict{}
	})
	require.ErrorContains(t, result.Err(), "1 committed orders were neither delivered nor failed")
	assert.Equal(t, 29, result.Delivered)
}
