//go:build services

package mysqlstore_test

import (
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/internal/servertest"
	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

func TestEnqueue_whoseStatementCannotBePreparedIsNotStored(t *testing.T) {
	for _, action := range []faultproxy.Action{faultproxy.LoseAnswer, faultproxy.CutBefore} {
		through, direct, proxy := server.BehindProxy(t, server.Clients["database/sql"])
		servertest.On(proxy, "INSERT INTO", action)
		_, err := through.Enqueue(t.Context(), reliable.EnqueueRequest{}, servertest.Envelope("a"))
		require.ErrorIs(t, err, reliable.ErrNotStored)
		require.NotErrorIs(t, err, reliable.ErrUnknown, "what is prepared is not carried out")
		require.False(t, servertest.Stored(t, direct, "a"))

		results, err := through.Enqueue(t.Context(), reliable.EnqueueRequest{}, servertest.Envelope("a"))
		require.NoError(t, err)
		require.True(t, results[0].New)
	}
}

// After a deadlock InnoDB has rolled everything back, and the connection commits each statement by itself: a COMMIT
// that succeeded would be a lie.
func TestCommit_afterADeadlockRefuses(t *testing.T) {
	db := openDB(t, testenv.MariaDB(t), recommended)
	store, err := mysqlstore.New(db)
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))

	begin := func() reliable.Tx {
		tx, err := store.Begin(t.Context(), nil)
		require.NoError(t, err)
		return tx
	}
	enqueue := func(tx reliable.Tx, id string) error {
		_, err := tx.Enqueue(t.Context(), reliable.EnqueueRequest{}, servertest.Envelope(id))
		return err
	}
	one, two := begin(), begin()
	require.NoError(t, enqueue(one, "a"))
	require.NoError(t, enqueue(two, "b"))
	answers := make(chan error, 2)
	go func() { answers <- enqueue(one, "b") }()
	go func() { answers <- enqueue(two, "a") }()

	victims := 0
	for range 2 {
		if err := <-answers; err != nil {
			require.ErrorIs(t, err, reliable.ErrNotStored)
			var server *mysql.MySQLError
			require.ErrorAs(t, err, &server)
			require.EqualValues(t, 1213, server.Number)
			victims++
		}
	}
	require.Equal(t, 1, victims)

	ended := 0
	for _, tx := range []reliable.Tx{one, two} {
		if err := tx.Commit(t.Context()); err != nil {
			require.NotErrorIs(t, err, reliable.ErrUnknown)
			require.ErrorContains(t, err, "rolled the transaction back")
			ended++
		}
	}
	require.Equal(t, 1, ended, "transactions that refuse to commit")
}
