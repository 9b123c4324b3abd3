//go:build services

package mysqlstore_test

import (
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/internal/servertest"
	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

var anHour = reliable.ClaimRequest{Worker: "w", Max: 10, Lease: time.Hour}

// failedHead stores an envelope with a key, fails it and claims it for compensation.
func failedHead(t *testing.T, store *mysqlstore.Store) reliable.Record {
	t.Helper()
	_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, servertest.Keyed("head", "k"))
	require.NoError(t, err)
	attempts, err := store.Claim(t.Context(), anHour)
	require.NoError(t, err)
	require.Len(t, attempts, 1)
	a := attempts[0]
	_, err = store.Settle(t.Context(), reliable.Settlement{
		ID: a.ID, Fence: a.Fence, Topic: a.Topic, Key: a.Key, Sent: true, Outcome: reliable.Rejected, To: reliable.Failed,
	})
	require.NoError(t, err)
	records, err := store.ClaimFailed(t.Context(), anHour, a.Topic)
	require.NoError(t, err)
	require.Len(t, records, 1)
	return records[0]
}

// What a handler's transaction reads is as old as its first read. Were the key to go on by that, those of it that came
// since would wait for ever.
func TestSettleCompensation_inAnOldSnapshotLetsThoseGoOnWhoCameSince(t *testing.T) {
	db := openDB(t, testenv.MariaDB(t), recommended)
	store, err := mysqlstore.New(db)
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	head := failedHead(t, store)

	tx, err := store.Begin(t.Context(), nil)
	require.NoError(t, err)
	var rows int
	native := tx.Native().(*sql.Tx)
	require.NoError(t, native.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM waybill_outbox").Scan(&rows))
	require.Equal(t, 1, rows)
	_, err = store.Enqueue(t.Context(), reliable.EnqueueRequest{}, servertest.Keyed("second", "k"))
	require.NoError(t, err)
	attempts, err := store.Claim(t.Context(), anHour) // looks at what is new, and knows from then on that it waits
	require.NoError(t, err)
	require.Empty(t, attempts)
	_, err = store.Enqueue(t.Context(), reliable.EnqueueRequest{}, servertest.Keyed("third", "k"))
	require.NoError(t, err)

	require.NoError(t, native.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM waybill_outbox").Scan(&rows))
	require.Equal(t, 1, rows, "the snapshot is an old one")
	result, err := tx.(reliable.CompensationSettler).SettleCompensation(t.Context(), reliable.Compensation{
		ID: head.ID, Fence: head.Fence, Topic: head.Topic, Key: head.Key, Done: true,
	})
	require.NoError(t, err)
	require.Equal(t, reliable.Applied, result)
	require.NoError(t, tx.Commit(t.Context()))

	for _, id := range []reliable.ID{"second", "third"} {
		attempts, err := store.Claim(t.Context(), anHour)
		require.NoError(t, err)
		require.Len(t, attempts, 1)
		a := attempts[0]
		require.Equal(t, id, a.ID)
		_, err = store.Settle(t.Context(), reliable.Settlement{
			ID: a.ID, Fence: a.Fence, Topic: a.Topic, Key: a.Key, Sent: true, Outcome: reliable.Acked, To: reliable.Confirmed,
		})
		require.NoError(t, err)
	}
}
