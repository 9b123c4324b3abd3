package sqlitestore

import (
	"context"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/internal/sqlstore"
)

// Lists and counts are ranges of an index, in its order: nothing is sorted, and nothing is read that is not looked for.
func TestList_isARangeOfItsIndexInOrder(t *testing.T) {
	store, err := Open(context.Background(), filepath.Join(t.TempDir(), "waybill.db"), WithSynchronousNormal())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	s := statements("waybill_")
	place := []any{int64(7), int64(7), int64(7), "orders", "orders", "an id", int64(10)}
	for _, test := range []struct {
		name      string
		statement sqlstore.Statement
		args      []any
		plan      string
	}{
		{"pending", s.ListPending.After, []any{0, int64(math.MinInt64), 10}, "waybill_outbox_pending (due>?)"},
		{"pending, of one due", s.ListPending.Same, append([]any{0}, place...), "waybill_outbox_pending (due=? AND rowid>?)"},
		{"settled", s.ListSettled.After, []any{2, int64(7), 10}, "waybill_outbox_settled (status=? AND due>?)"},
		{"settled, of one due", s.ListSettled.Same, append([]any{2}, place...), "waybill_outbox_settled (status=? AND due=? AND rowid>?)"},
		{"of a topic", s.ListTopic.After, []any{2, "orders", int64(7), 10}, "waybill_outbox_topics (status=? AND topic=? AND due>?)"},
		{
			"of a topic, of one due", s.ListTopic.Same, append([]any{2, "orders"}, place...),
			"waybill_outbox_topics (status=? AND topic=? AND due=? AND rowid>?)",
		},
		{"reasons", s.HistorySays, []any{"an id", "full"}, "waybill_history USING PRIMARY KEY (id=?)"},
		{"reasons of decisions", s.DecisionsSay, []any{"an id", "full"}, "waybill_decision USING PRIMARY KEY (id=?)"},
		{"counts", s.Stats, nil, "USING COVERING INDEX waybill_outbox_topics (status>?)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := planOf(t, store, strings.ReplaceAll(test.statement.Text(), "[[?]]", "?"), test.args...)
			require.Contains(t, text, test.plan)
			require.NotContains(t, text, "TEMP B-TREE FOR ORDER BY")
			require.NotContains(t, text, "SCAN waybill_outbox\n")
		})
	}
}

func planOf(t *testing.T, store *Store, query string, args ...any) string {
	t.Helper()
	rows, err := store.DB().QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
	require.NoError(t, err)
	defer rows.Close()
	var plan strings.Builder
	for rows.Next() {
		var id, parent, unused int
		var detail string
		require.NoError(t, rows.Scan(&id, &parent, &unused, &detail))
		plan.WriteString(detail + "\n")
	}
	require.NoError(t, rows.Err())
	return plan.String()
}
