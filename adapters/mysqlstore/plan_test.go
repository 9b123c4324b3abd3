//go:build services

package mysqlstore

import (
	"database/sql"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/internal/sqlstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

const (
	crowd = 20_000 // rows of each kind that a claim must not look at
	limit = 10
)

// crowded is a table with many rows that are leased, parked, held and settled, and forty that are due.
func crowded(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", testenv.MariaDB(t)+"?interpolateParams=true")
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	store, err := New(db)
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))

	fill := func(kind string, rows int, status reliable.Status, due string) {
		_, err := db.ExecContext(t.Context(), fmt.Sprintf("INSERT INTO waybill_outbox (id, topic, okey, size, status, due, "+
			"stored_at, fence, attempts, flags, deadline, worker, metadata, payload) SELECT CONCAT('%s-', seq), 'orders', '', 10, "+
			"%d, %s, seq, 1, 1, 1, 0, 'w', '', REPEAT('x', 100) FROM seq_1_to_%d", kind, status, due, rows))
		require.NoError(t, err)
	}
	fill("leased", crowd, reliable.Pending, clock+" + 3600000000 + seq")
	fill("parked", crowd, reliable.Pending, fmt.Sprint(sqlstore.Parked))
	fill("held", crowd, reliable.Pending, fmt.Sprint(sqlstore.HeldBase+1))
	fill("settled", crowd, reliable.Confirmed, "seq")
	fill("due", 40, reliable.Pending, clock+" - seq")
	_, err = db.ExecContext(t.Context(), "ANALYZE TABLE waybill_outbox")
	require.NoError(t, err)
	return db
}

// readCommitted begins a transaction as the store does.
func readCommitted(t *testing.T, db *sql.DB) *sql.Tx {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback() })
	return tx
}

// run reads all rows of a statement.
func run(t *testing.T, tx *sql.Tx, query string, args ...any) (rows int) {
	t.Helper()
	result, err := tx.QueryContext(t.Context(), query, args...)
	require.NoError(t, err)
	defer result.Close()
	for result.Next() {
		rows++
	}
	require.NoError(t, result.Err())
	return rows
}

// rowsRead counts what the storage engine was asked for by one statement.
func rowsRead(t *testing.T, tx *sql.Tx, query string, args ...any) (rows, read int) {
	t.Helper()
	count := func() (sum int) {
		result, err := tx.QueryContext(t.Context(), "SHOW SESSION STATUS LIKE 'Handler_read%'")
		require.NoError(t, err)
		defer result.Close()
		for result.Next() {
			var name string
			var n int
			require.NoError(t, result.Scan(&name, &n))
			if !strings.HasSuffix(name, "_rnd_next") { // SHOW STATUS itself scans a temporary table
				sum += n
			}
		}
		require.NoError(t, result.Err())
		return sum
	}
	before := count()
	rows = run(t, tx, query, args...)
	return rows, count() - before
}

// rowsLocked counts the locks of a transaction; the server refreshes this at most ten times a second.
func rowsLocked(t *testing.T, tx *sql.Tx) (locked int) {
	t.Helper()
	time.Sleep(150 * time.Millisecond) // the cache of information_schema, for which there is no signal
	err := tx.QueryRowContext(t.Context(),
		"SELECT trx_rows_locked FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = CONNECTION_ID()").Scan(&locked)
	require.NoError(t, err)
	return locked
}

func TestClaim_looksAtWhatIsDueAndAtNothingElse(t *testing.T) {
	tx := readCommitted(t, crowded(t))
	for name, statement := range map[string]sqlstore.Statement{
		"look": statements("waybill_").Look, "pick": statements("waybill_").Pick,
	} {
		args := []any{1000, 0, limit}
		if name == "look" {
			args = nil
		}
		rows, read := rowsRead(t, tx, statement.Text(), args...)
		require.Positive(t, rows)
		require.LessOrEqual(t, read, 2*limit+10, "%s: rows read", name)
	}
}

func TestClaim_usesItsIndexAsOneRange(t *testing.T) {
	db := crowded(t)
	result, err := db.QueryContext(t.Context(), "EXPLAIN "+statements("waybill_").Pick.Text(), 1000, 0, limit)
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
		require.NotContains(t, extra, "filesort")
		plans++
	}
	require.NoError(t, result.Err())
	require.Equal(t, 1, plans)
}

func TestClaim_locksWhatItReturnsAndNothingElse(t *testing.T) {
	db := crowded(t)
	tx := readCommitted(t, db)
	require.Equal(t, limit, run(t, tx, statements("waybill_").Pick.Text(), 1000, 0, limit))
	require.LessOrEqual(t, rowsLocked(t, tx), 2*(limit+1), "an index record and a row each")

	other := readCommitted(t, db)
	require.Equal(t, 30, run(t, other, statements("waybill_").Pick.Text(), 1000, 0, 1000), "the other claim gets all the rest")
}

func TestSettle_locksTheRowsItSettles(t *testing.T) {
	db := crowded(t)
	for name, settle := range map[string]func(tx *sql.Tx, ids []string){
		"confirm": func(tx *sql.Tx, ids []string) {
			query, args := confirm(ids)
			result, err := tx.ExecContext(t.Context(), query, args...)
			require.NoError(t, err)
			affected, err := result.RowsAffected()
			require.NoError(t, err)
			require.EqualValues(t, len(ids), affected)
		},
		"write": func(tx *sql.Tx, ids []string) {
			query, args := write(ids)
			result, err := tx.ExecContext(t.Context(), query, args...)
			require.NoError(t, err)
			affected, err := result.RowsAffected()
			require.NoError(t, err)
			require.EqualValues(t, len(ids), affected)
		},
	} {
		tx := readCommitted(t, db)
		ids := make([]string, 500)
		for i := range ids {
			ids[i] = fmt.Sprintf("leased-%d", 1+i*7)
		}
		slices.Sort(ids)
		settle(tx, ids)
		require.LessOrEqual(t, rowsLocked(t, tx), 3*len(ids), "%s: the row and its index records", name)
		require.NoError(t, tx.Rollback())
	}
}

// confirm is the statement of 500 acks, as the store sends it.
func confirm(ids []string) (string, []any) {
	query := strings.Replace(statements("waybill_").Confirm.Text(), "[[?]]", strings.TrimSuffix(strings.Repeat("?,", len(ids)), ","), 1)
	args := []any{1, true}
	for _, id := range ids {
		args = append(args, id)
	}
	return query, args
}

// write is the statement of 500 refusals, as the store sends it.
func write(ids []string) (string, []any) {
	text := statements("waybill_").Write.Text()
	before, rest, _ := strings.Cut(text, "[[")
	group, after, _ := strings.Cut(rest, "]]")
	group, separator, _ := strings.Cut(group, "##")
	var args []any
	for _, id := range ids {
		args = append(args, id, 0, 5, 1, 1, 1, 0, 0)
	}
	return before + strings.Repeat(group+separator, len(ids)-1) + group + after, args
}

func TestOrder_looksAtOneRowOfEachKeyHoweverManyWait(t *testing.T) {
	db := crowded(t)
	for _, statement := range []string{
		"INSERT INTO waybill_lane (lane, id, ready_at, fresh) SELECT 'lane-1', CONCAT('parked-', seq), 0, 0 FROM seq_1_to_20000",
		"INSERT INTO waybill_head VALUES ('lane-1', 1, 'parked-1')",
		"ANALYZE TABLE waybill_lane, waybill_head",
	} {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	tx := readCommitted(t, db)
	query := strings.Replace(statements("waybill_").Order.Next.Text(), "[[?]]", "?", 1)
	lane := make([]byte, 16)
	copy(lane, "lane-1")
	rows, read := rowsRead(t, tx, query, lane)
	require.Equal(t, 1, rows)
	require.LessOrEqual(t, read, 20, "rows read to find the next of a key")
	rows, read = rowsRead(t, tx, statements("waybill_").Fresh.Text(), 0, 500)
	require.Zero(t, rows)
	require.LessOrEqual(t, read, 5, "rows read to find that nothing is fresh")
}

// With an old transaction open, InnoDB keeps the index entries of all that was due before.
func TestClaim_needNotReadAgainWhatClaimsHaveLeftBehind(t *testing.T) {
	db := crowded(t)
	old, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	require.NoError(t, err)
	t.Cleanup(func() { _ = old.Rollback() })
	require.Equal(t, 1, run(t, old, "SELECT COUNT(*) FROM waybill_outbox"))
	for _, update := range []string{
		"SET due = SUBSTRING(id, 8) WHERE id LIKE 'leased-%'",
		"SET due = " + clock + " + 3600000000 WHERE id LIKE 'leased-%' AND due <= 19000",
	} {
		_, err = db.ExecContext(t.Context(), "UPDATE waybill_outbox "+update)
		require.NoError(t, err)
	}

	tx := readCommitted(t, db)
	pages := func(from int64) int {
		fewest := math.MaxInt // others use the server as well
		for range 5 {
			before := pagesRead(t, tx)
			require.Equal(t, limit, run(t, tx, statements("waybill_").Pick.Text(), 1000, from, limit))
			fewest = min(fewest, pagesRead(t, tx)-before)
		}
		return fewest
	}
	require.Less(t, 5*pages(19_000), pages(0))
}

// pagesRead is how many pages everybody on the server has looked at.
func pagesRead(t *testing.T, tx *sql.Tx) (pages int) {
	t.Helper()
	var name string
	require.NoError(t, tx.QueryRowContext(t.Context(), "SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_read_requests'").Scan(&name, &pages))
	return pages
}
