package servertest

import (
	"database/sql"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

func (s Server) schema(t *testing.T) {
	t.Run("many processes migrate at once", s.migrateTogether)
	t.Run("an interrupted migration is completed", s.migrateAgain)
	t.Run("it can be applied by hand and twice", s.applyByHand)
	t.Run("a check says what to do", s.checkSays)
	t.Run("stores of two prefixes know nothing of each other", s.twoPrefixes)
	t.Run("transactions that embed one are taken", s.embeddedTransactions)
}

func (s Server) migrateTogether(t *testing.T) {
	address := s.Database(t)
	var group sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		store := s.On(t, s.Open(t, address), "")
		group.Go(func() { errs[i] = store.Migrate(t.Context()) })
	}
	group.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

func (s Server) migrateAgain(t *testing.T) {
	db, store := s.onNew(t)
	for _, statement := range []string{"DROP TABLE waybill_hold", "DELETE FROM waybill_schema"} {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	require.ErrorIs(t, store.Check(t.Context()), reliable.ErrSchema)
	require.NoError(t, store.Migrate(t.Context()))
	_, err := store.Holds(t.Context())
	require.NoError(t, err)
}

func (s Server) applyByHand(t *testing.T) {
	db := s.Open(t, s.Database(t))
	script, err := s.Schema()
	require.NoError(t, err)
	for range 2 {
		for statement := range strings.SplitSeq(script, ";\n") {
			if statement = strings.TrimSpace(statement); statement != "" {
				_, err := db.ExecContext(t.Context(), statement)
				require.NoError(t, err, statement)
			}
		}
	}
	require.NoError(t, s.On(t, db, "").Check(t.Context()))
}

func (s Server) checkSays(t *testing.T) {
	db := s.Open(t, s.Database(t))
	store := s.On(t, db, "")
	missing := func(err error) {
		t.Helper()
		require.ErrorIs(t, err, reliable.ErrSchema)
		require.ErrorContains(t, err, "run Migrate or apply the output of Schema")
	}
	missing(store.Check(t.Context()))
	_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, Envelope("a"))
	missing(err)
	require.ErrorIs(t, err, reliable.ErrNotStored)
	_, err = store.Stats(t.Context())
	missing(err)

	require.NoError(t, store.Migrate(t.Context()))
	set := func(version, usableBy int) {
		_, err := db.ExecContext(t.Context(), "DELETE FROM waybill_schema")
		require.NoError(t, err)
		_, err = db.ExecContext(t.Context(), s.Version, version, usableBy)
		require.NoError(t, err)
	}
	set(0, 0)
	missing(store.Check(t.Context()))
	set(7, 1)
	require.NoError(t, store.Check(t.Context()), "a newer program has migrated, and says that this one can go on")
	set(7, 6)
	err = store.Check(t.Context())
	require.ErrorIs(t, err, reliable.ErrSchema)
	require.ErrorContains(t, err, "update it")
}

func (s Server) twoPrefixes(t *testing.T) {
	db := s.Open(t, s.Database(t))
	one, other := s.On(t, db, "a_"), s.On(t, db, "b_")
	require.NoError(t, one.Migrate(t.Context()))
	require.NoError(t, other.Migrate(t.Context()))
	_, err := one.Enqueue(t.Context(), reliable.EnqueueRequest{}, Envelope("a"), Keyed("b", "k"))
	require.NoError(t, err)
	stats, err := other.Stats(t.Context())
	require.NoError(t, err)
	require.Empty(t, stats)
}

func (s Server) embeddedTransactions(t *testing.T) {
	db, store := s.onNew(t)
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	wrapped := struct{ *sql.Tx }{tx} // as sqlx and bun do
	for i, handle := range []any{wrapped, &wrapped, tx} {
		bound, err := store.Bind(handle)
		require.NoError(t, err)
		_, err = bound.Enqueue(t.Context(), reliable.EnqueueRequest{}, Envelope(string(rune('a'+i))))
		require.NoError(t, err)
	}
	require.NoError(t, tx.Commit())
	require.True(t, Stored(t, store, "c"))

	bound, err := store.WithTx(tx)
	require.NoError(t, err)
	_, err = bound.Enqueue(t.Context(), reliable.EnqueueRequest{}, Envelope("d"))
	require.ErrorIs(t, err, reliable.ErrNotStored)
	require.ErrorIs(t, err, sql.ErrTxDone)
}
