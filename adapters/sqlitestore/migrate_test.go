package sqlitestore

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// A fleet is rolled over with old and new programs side by side.
func TestMigrate_fromVersion1KeepsWhatIsThereAndWhoIsThere(t *testing.T) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "waybill.db")+"?_txlock=immediate")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	store, err := New(db)
	require.NoError(t, err)
	first := migrations("waybill_")[0]
	for _, statement := range append(first.Statements, first.Record) {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	err = store.Check(t.Context())
	require.ErrorIs(t, err, reliable.ErrSchema)
	require.ErrorContains(t, err, "schema version 1, need 4: run Migrate")
	_, err = db.ExecContext(t.Context(), `INSERT INTO waybill_outbox (id, topic, okey, metadata, size, status, due, stored_at,
		fence, attempts, flags, deadline, worker, payload) VALUES ('a', 'orders', '', '', 1, 2, 1, 1, 2, 1, 24, 0, 'w', '')`)
	require.NoError(t, err)
	for fence, worker := range []string{"", "w"} { // given up behind a hold; what came of a compensation
		_, err = db.ExecContext(t.Context(), `INSERT INTO waybill_history VALUES ('a', ?, 1, 3, 0, 2, 'why', ?, ?)`, fence+1, worker, fence+1)
		require.NoError(t, err)
	}

	require.NoError(t, store.Migrate(t.Context()))
	require.NoError(t, store.Migrate(t.Context()), "it can be repeated")
	var version, usableBy int
	require.NoError(t, db.QueryRowContext(t.Context(), statements("waybill_").Version.Text()).Scan(&version, &usableBy))
	require.Equal(t, 4, version)
	require.Equal(t, 1, usableBy, "programs of version 1 go on")
	results, err := store.Decide(t.Context(), reliable.Decision{
		Action: reliable.Requeue, IDs: []reliable.ID{"a"}, Who: "ann", Why: "the route is repaired",
	})
	require.NoError(t, err)
	require.Equal(t, reliable.Decided, results[0].Verdict)
	attempts, err := store.Claim(t.Context(), reliable.ClaimRequest{Worker: "w", Max: 1, Lease: time.Minute})
	require.NoError(t, err)
	require.Len(t, attempts, 1)
	records, err := store.Lookup(t.Context(), "a")
	require.NoError(t, err)
	var kinds []reliable.HistoryKind
	for _, e := range records[0].History {
		kinds = append(kinds, e.Kind)
	}
	require.Equal(t, []reliable.HistoryKind{reliable.GivenUp, reliable.CompensationFailed, reliable.OperatorDecided}, kinds)
}
