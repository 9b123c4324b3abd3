//go:build services

package postgresstore

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
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
func crowded(t *testing.T) *pgx.Conn {
	t.Helper()
	return crowdedSince(t, analyzedNow)
}

// What the planner knows of a table: nothing before its first minute or so, and old news in a burst.
const (
	neverAnalyzed          = "never analyzed"
	analyzedWhenAllSettled = "analyzed when all was settled"
	analyzedWhenFew        = "analyzed when few were pending"
	analyzedNow            = "analyzed now"
)

func crowdedSince(t *testing.T, analyzed string) *pgx.Conn {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, testenv.Postgres(t))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(ctx) })
	for _, m := range migrations("waybill_") {
		for _, statement := range append(m.Statements, m.Record) {
			_, err := conn.Exec(ctx, statement)
			require.NoError(t, err)
		}
	}
	fill := func(kind string, rows int, status reliable.Status, due string) {
		_, err := conn.Exec(ctx, fmt.Sprintf("INSERT INTO waybill_outbox (id, topic, okey, size, status, due, stored_at, fence, "+
			"attempts, flags, deadline, worker, metadata, payload) SELECT '%s-' || seq, 'orders', '', 10, %d, %s, seq, 1, 1, 1, 0, "+
			"'w', '', repeat('x', 100)::bytea FROM generate_series(1, %d) AS seq", kind, status, due, rows))
		require.NoError(t, err)
	}
	execute := func(statement string) {
		_, err := conn.Exec(ctx, statement)
		require.NoError(t, err)
	}
	execute("ALTER TABLE waybill_outbox SET (autovacuum_enabled = false)")
	fill("settled", crowd, reliable.Confirmed, "seq")
	switch analyzed {
	case analyzedWhenFew:
		fill("few", 100, reliable.Pending, clock+" + 3600000000 + seq")
		execute("ANALYZE")
	case analyzedWhenAllSettled:
		execute("ANALYZE")
	}
	fill("leased", crowd, reliable.Pending, clock+" + 3600000000 + seq")
	fill("parked", crowd, reliable.Pending, fmt.Sprint(sqlstore.Parked))
	fill("held", crowd, reliable.Pending, fmt.Sprint(sqlstore.HeldBase+1))
	fill("due", 40, reliable.Pending, clock+" - seq")
	execute(`INSERT INTO waybill_lane (lane, id, ready_at, fresh)
		SELECT 'lane-1', 'parked-' || seq, 0, false FROM generate_series(1, 20000) AS seq`)
	if analyzed == analyzedNow {
		execute("ANALYZE")
	}
	return conn
}

var buffers = regexp.MustCompile(`shared hit=(\d+)(?: read=(\d+))?`)

// explained runs a statement and returns its plan, and how many pages it looked at.
func explained(t *testing.T, conn *pgx.Conn, query string, args ...any) (plan string, pages int) {
	t.Helper()
	ctx := context.Background()
	tx, err := conn.Begin(ctx)
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback(ctx)) }()
	rows, err := tx.Query(ctx, "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) "+query, args...)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	plan = strings.Join(lines, "\n")
	found := buffers.FindStringSubmatch(plan) // the first line is the sum of all
	require.NotNil(t, found, plan)
	for _, n := range found[1:] {
		if n != "" {
			more, err := strconv.Atoi(n)
			require.NoError(t, err)
			pages += more
		}
	}
	return plan, pages
}

func TestStatements_lookAtWhatTheyReturnAndNothingElse(t *testing.T) {
	conn := crowded(t)
	s := statements("waybill_")
	ids := make([]string, 500)
	for i := range ids {
		ids[i] = fmt.Sprintf("leased-%d", 1+i*7)
	}
	for _, test := range []struct {
		name      string
		statement sqlstore.Statement
		args      []any
		index     string
		pages     int
	}{
		{"look", s.Look, nil, "waybill_outbox_pending", 20},
		{"take", s.Take, []any{limit, 1, "w", 1000, 0}, "waybill_outbox_pending", 60 + 30*limit},
		{"pick held", s.PickHeld, []any{sqlstore.HeldBase + 1, limit}, "waybill_outbox_pending", 60},
		{"pick failed", s.PickFailed, []any{[]string{"orders"}, limit}, "waybill_outbox_failed", 10},
		{"pick settled", s.PickSettled, []any{1, 0, limit}, "waybill_outbox_settled", 60},
		{"fresh", s.Fresh, []any{0, 500}, "waybill_lane_fresh", 10},
		{"next", s.Order.Next, []any{[][]byte{[]byte("lane-1")}}, "waybill_lane_pkey", 10},
		{"mark lanes", s.MarkLanes, []any{[]int64{1, 500, 20_000}}, "waybill_lane_seq", 40},
		{"confirm", s.Confirm, []any{1, true, ids}, "waybill_outbox_pkey", 500 * 20},
	} {
		plan, pages := explained(t, conn, test.statement.Text(), test.args...)
		require.Contains(t, plan, test.index, test.name)
		require.NotContains(t, plan, "Seq Scan on waybill_outbox", test.name)
		require.NotContains(t, plan, "Seq Scan on waybill_lane", test.name)
		require.NotContains(t, plan, "Rows Removed by Filter", test.name)
		require.LessOrEqual(t, pages, test.pages, "%s: pages looked at\n%s", test.name, plan)
	}
}

// troubled adds to a crowded table many that failed, with a history each, some of another topic behind them, and many
// that are over.
func troubled(t *testing.T) *pgx.Conn {
	t.Helper()
	conn := crowded(t)
	for _, statement := range []string{
		`UPDATE waybill_outbox SET topic = 'pending only' WHERE status = 0`,
		`INSERT INTO waybill_outbox (id, topic, okey, size, status, due, stored_at, fence, attempts, flags, deadline, worker,
			metadata, payload) SELECT 'failed-' || seq, CASE WHEN seq > 19900 THEN 'rare' ELSE 'orders' END, '', 10, 2,
			seq / 1000, seq, 1, 1, 16, 0, 'w', '', repeat('x', 100)::bytea FROM generate_series(1, 20000) AS seq`,
		`INSERT INTO waybill_history SELECT 'failed-' || seq, 1, 0, 3, true, 2,
			CASE WHEN seq > 19990 THEN 'no route' ELSE 'queue full' END, 'w', seq FROM generate_series(1, 20000) AS seq`,
		`INSERT INTO waybill_outbox (id, topic, okey, size, status, due, stored_at, fence, attempts, flags, deadline, worker,
			metadata, payload) SELECT 'over-' || seq, 'orders', '', 10, 3 + seq % 2, seq, seq, 1, 1, 0, 0, 'w', '',
			repeat('x', 100)::bytea FROM generate_series(1, 20000) AS seq`,
		"VACUUM ANALYZE",
	} {
		_, err := conn.Exec(context.Background(), statement)
		require.NoError(t, err)
	}
	return conn
}

// A claim in a burst must not read and sort all that is due, since the planner expected little.
func TestStatements_lookAtWhatTheyReturnWhateverTheStatisticsSay(t *testing.T) {
	s := statements("waybill_")
	for _, analyzed := range []string{neverAnalyzed, analyzedWhenAllSettled, analyzedWhenFew} {
		t.Run(analyzed, func(t *testing.T) {
			t.Parallel()
			conn := crowdedSince(t, analyzed)
			_, err := conn.Exec(context.Background(), "UPDATE waybill_outbox SET due = stored_at WHERE id LIKE 'leased-%'")
			require.NoError(t, err)
			for _, test := range []struct {
				name      string
				statement sqlstore.Statement
				args      []any
				pages     int
			}{
				{"look", s.Look, nil, 20},
				{"take", s.Take, []any{limit, 1, "w", 1000, 0}, 60 + 30*limit},
				{"any held", s.AnyHeld, []any{sqlstore.HeldBase + 1}, 10},
				{"pick held", s.PickHeld, []any{sqlstore.HeldBase + 1, limit}, 60},
				{"pick settled", s.PickSettled, []any{1, 0, limit}, 60},
			} {
				plan, pages := explained(t, conn, test.statement.Text(), test.args...)
				require.LessOrEqual(t, pages, test.pages, "%s: pages looked at\n%s", test.name, plan)
			}
			requirePickedInOrder(t, conn, 500)

			// What is looked up by its ID is looked up by nothing else: all that is pending is little only in old statistics.
			ids := make([]string, 500)
			for i := range ids {
				ids[i] = fmt.Sprintf("leased-%d", 1+i*7)
			}
			for name, statement := range map[string]sqlstore.Statement{
				"confirm": s.Confirm, "ready": s.Ready, "try parked": s.TryParked, "known": s.OrderInside.Known,
			} {
				args := map[string][]any{"confirm": {1, true, ids}, "ready": {0, ids}}[name]
				if args == nil {
					args = []any{ids}
				}
				plan, _ := explained(t, conn, statement.Text(), args...)
				require.Contains(t, withoutLists(plan), "waybill_outbox_pkey", name)
				require.NotContains(t, withoutLists(plan), "waybill_outbox_pending", name)
			}
		})
	}
}

var lists = regexp.MustCompile(`\{[^}]*\}`)

// withoutLists is a plan without the five hundred IDs in it.
func withoutLists(plan string) string { return lists.ReplaceAllString(plan, "{...}") }

func TestList_looksAtAPageAndNotAtTheTable(t *testing.T) {
	conn := troubled(t)
	s := statements("waybill_")
	first, held, someID := int64(math.MinInt64), sqlstore.HeldBase+1, "failed-7500"
	ids := make([]string, 50)
	for i := range ids {
		ids[i] = fmt.Sprintf("failed-%d", 1+i*7)
	}
	for _, test := range []struct {
		name      string
		statement sqlstore.Statement
		args      []any
		index     string
		pages     int
	}{
		{"pending", s.ListPending.After, []any{0, first, limit}, "waybill_outbox_pending", 60},
		{"pending, far in", s.ListPending.Same, []any{0, held, 9000, 9000, "pending only", "pending only", "held-9000", limit}, "waybill_outbox_pending", 60},
		{"confirmed", s.ListSettled.After, []any{1, int64(9000), limit}, "waybill_outbox_settled", 60},
		// A thousand have one due, and are put in order.
		{"failed", s.ListSettled.After, []any{2, first, limit}, "waybill_outbox_", 1200},
		{"failed, far in", s.ListSettled.Same, []any{2, int64(7), 7500, 7500, "orders", "orders", someID, limit}, "waybill_outbox_", 1200},
		{"failed of a rare topic", s.ListTopic.After, []any{2, "rare", first, limit}, "waybill_outbox_topics", 60},
		{"failed of a topic, far in", s.ListTopic.Same, []any{2, "orders", int64(7), 7500, 7500, "orders", "orders", someID, limit}, "waybill_outbox_topics", 60},
		{"discarded of a topic", s.ListTopic.After, []any{4, "orders", int64(9000), limit}, "waybill_outbox_topics", 60},
		{"of a frequent topic of which none is there", s.ListTopic.After, []any{3, "pending only", first, limit}, "waybill_outbox_topics", 60},
		{"reasons", s.HistorySays, []any{ids, "no route"}, "waybill_history_pkey", 50 * 8},
		{"reasons of decisions", s.DecisionsSay, []any{ids, "no route"}, "", 50 * 8},
		{"glance", s.Glance, []any{ids}, "waybill_outbox_pkey", 50 * 8},
	} {
		plan, pages := explained(t, conn, test.statement.Text(), test.args...)
		require.Contains(t, plan, test.index, test.name)
		require.NotContains(t, plan, "Seq Scan on waybill_outbox", test.name)
		require.NotContains(t, plan, "Seq Scan on waybill_history", test.name)
		require.LessOrEqual(t, pages, test.pages, "%s: pages looked at\n%s", test.name, plan)
		t.Logf("%s: %d pages", test.name, pages)
	}
}

func TestStats_countsWhatIsOverByItsIndex(t *testing.T) {
	plan, _ := explained(t, troubled(t), statements("waybill_").Stats.Text())
	require.Contains(t, plan, "Index Only Scan using waybill_outbox_topics", plan)
	require.NotContains(t, plan, "Index Scan using waybill_outbox_settled", plan)
}

func TestClaim_isOneRangeInOrder(t *testing.T) {
	requirePickedInOrder(t, crowded(t), limit)
}

// requirePickedInOrder fails t unless a claim of at most so many reads no more than that, in the order of the index.
func requirePickedInOrder(t *testing.T, conn *pgx.Conn, most int) {
	t.Helper()
	plan, _ := explained(t, conn, statements("waybill_").Take.Text(), most, 1, "w", 1_000_000, 0)
	_, picking, _ := strings.Cut(plan, "CTE picked")
	picking, _, _ = strings.Cut(picking, "CTE fitting")
	require.Contains(t, picking, "Index Cond: ((due >= ")
	require.Contains(t, picking, fmt.Sprintf("rows=%d ", most))
	require.NotContains(t, picking, "Sort")
}
