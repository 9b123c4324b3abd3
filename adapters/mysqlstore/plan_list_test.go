//go:build services

package mysqlstore

import (
	"database/sql"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/internal/sqlstore"
	"github.com/waybillmq/waybill/reliable"
)

// troubled adds to a crowded table many that failed, with a history each, some of another topic behind them, and many
// that are over.
func troubled(t *testing.T) *sql.DB {
	t.Helper()
	db := crowded(t)
	for _, statement := range []string{
		"INSERT INTO waybill_outbox (id, topic, okey, size, status, due, stored_at, fence, attempts, flags, deadline, worker, " +
			"metadata, payload) SELECT CONCAT('failed-', seq), IF(seq > 19900, 'rare', 'orders'), '', 10, 2, seq DIV 1000, seq, 1, " +
			"1, 16, 0, 'w', '', REPEAT('x', 100) FROM seq_1_to_20000",
		"INSERT INTO waybill_history SELECT CONCAT('failed-', seq), 1, 0, 3, 1, 2, IF(seq > 19990, 'no route', 'queue full'), " +
			"'w', seq FROM seq_1_to_20000",
		"INSERT INTO waybill_outbox (id, topic, okey, size, status, due, stored_at, fence, attempts, flags, deadline, worker, " +
			"metadata, payload) SELECT CONCAT('over-', seq), 'orders', '', 10, 3 + seq % 2, seq, seq, 1, 1, 0, 0, 'w', '', " +
			"REPEAT('x', 100) FROM seq_1_to_20000",
		"ANALYZE TABLE waybill_outbox, waybill_history",
	} {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	return db
}

// rowsReadBy counts what the storage engine was asked for by everything that call does. There is one connection.
func rowsReadBy(t *testing.T, db *sql.DB, call func()) int {
	t.Helper()
	db.SetMaxOpenConns(1)
	defer db.SetMaxOpenConns(0)
	count := func() (sum int) {
		err := db.QueryRowContext(t.Context(), "SELECT SUM(variable_value) FROM information_schema.session_status WHERE "+
			"variable_name LIKE 'HANDLER_READ%' AND variable_name <> 'HANDLER_READ_RND_NEXT'").Scan(&sum)
		require.NoError(t, err)
		return sum
	}
	before := count()
	call()
	return count() - before
}

func TestList_readsAPageAndNotTheTable(t *testing.T) {
	db := troubled(t)
	store, err := New(db)
	require.NoError(t, err)
	const page, batch = 100, 1000
	for _, test := range []struct {
		name   string
		filter reliable.Filter
		rows   int // of which a call reads so many at most
	}{
		{"pending", reliable.Filter{Status: reliable.Pending}, 4 * page},
		{"confirmed", reliable.Filter{Status: reliable.Confirmed}, 4 * page},
		{"failed", reliable.Filter{Status: reliable.Failed}, 4 * page},
		{"compensated", reliable.Filter{Status: reliable.Compensated}, 4 * page},
		{"discarded", reliable.Filter{Status: reliable.Discarded}, 4 * page},
		// Entries of the index that a filter leaves nothing of.
		{"failed of a rare topic", reliable.Filter{Status: reliable.Failed, Topic: "rare"}, 6 * batch},
		{"pending of no topic", reliable.Filter{Status: reliable.Pending, Topic: "none"}, 6 * batch},
		{"failed, old", reliable.Filter{Status: reliable.Failed, OlderThan: 100 * 365 * 24 * time.Hour}, 6 * batch},
		// And of the history, a row and the end of it for each.
		{"failed for a rare reason", reliable.Filter{Status: reliable.Failed, Reason: "no route"}, 8 * batch},
	} {
		after, calls, found := reliable.Cursor(""), 0, 0
		for {
			var listed reliable.Page
			read := rowsReadBy(t, db, func() {
				listed, err = store.List(t.Context(), reliable.ListRequest{Filter: test.filter, Limit: page, After: after})
				require.NoError(t, err)
			})
			require.LessOrEqual(t, read, test.rows, "%s: rows read by call %d", test.name, calls)
			calls++
			found += len(listed.Records)
			if after = listed.Next; after == "" {
				break
			}
			if calls%50 == 0 { // far behind the beginning, also among thousands of one due
				t.Logf("%s: %d rows read by call %d", test.name, read, calls)
			}
		}
		t.Logf("%s: %d found by %d calls", test.name, found, calls)
	}
}

func TestList_isOneRangeOfItsIndexInOrder(t *testing.T) {
	db := troubled(t)
	s := statements("waybill_")
	same := []any{int64(2), int64(7), int64(7500), int64(7500), "orders", "orders", "failed-7500", int64(limit)}
	for _, test := range []struct {
		name      string
		statement sqlstore.Statement
		args      []any
	}{
		{"from the beginning", s.ListSettled.After, []any{int64(2), int64(math.MinInt64), int64(limit)}},
		{"from a place on", s.ListSettled.After, []any{int64(2), int64(7), int64(limit)}},
		{"among those of one due", s.ListSettled.Same, same},
	} {
		t.Run(test.name, func(t *testing.T) {
			result, err := db.QueryContext(t.Context(), "EXPLAIN "+test.statement.Text(), test.args...)
			require.NoError(t, err)
			defer result.Close()
			plans := 0
			for result.Next() {
				var id, rows int
				var kind, table, access, key, keyLen, extra string
				var possible, ref sql.NullString
				require.NoError(t, result.Scan(&id, &kind, &table, &access, &possible, &key, &keyLen, &ref, &rows, &extra))
				require.Equal(t, "range", access)
				require.Equal(t, "by_due", key)
				require.Contains(t, extra, "Using index", "no row is read")
				require.NotContains(t, extra, "filesort")
				plans++
			}
			require.NoError(t, result.Err())
			require.Equal(t, 1, plans)
		})
	}
}

func TestStats_readsNoRows(t *testing.T) {
	db := troubled(t)
	result, err := db.QueryContext(t.Context(), "EXPLAIN "+statements("waybill_").Stats.Text())
	require.NoError(t, err)
	defer result.Close()
	plans := 0
	for result.Next() {
		var id sql.NullInt64
		var rows sql.NullInt64
		var kind, table, access, possible, key, keyLen, ref, extra sql.NullString
		require.NoError(t, result.Scan(&id, &kind, &table, &access, &possible, &key, &keyLen, &ref, &rows, &extra))
		if table.String == "waybill_outbox" {
			require.Equal(t, "by_due", key.String)
			require.Contains(t, extra.String, "Using index")
			plans++
		}
	}
	require.NoError(t, result.Err())
	require.Equal(t, 4, plans, "one for each status but confirmed")
}

func TestDecide_readsAndLocksWhatItDecidesAbout(t *testing.T) {
	db := troubled(t)
	store, err := New(db)
	require.NoError(t, err)
	d := reliable.Decision{Action: reliable.Requeue, Who: "ann", Why: "the route is repaired"}
	for i := range 100 {
		d.IDs = append(d.IDs, reliable.ID(fmt.Sprintf("failed-%d", 1+i*7)))
	}
	read := rowsReadBy(t, db, func() {
		results, err := store.Decide(t.Context(), d)
		require.NoError(t, err)
		for _, r := range results {
			require.Equal(t, reliable.Decided, r.Verdict)
		}
	})
	require.LessOrEqual(t, read, 10*len(d.IDs), "rows read")
	t.Logf("%d rows read to decide about %d", read, len(d.IDs))
}
