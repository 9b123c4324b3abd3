//go:build services

package postgresstore_test

import (
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

func TestLimitIdle_serverRollsBackWhatStandsStill(t *testing.T) {
	db, err := sql.Open("pgx", testenv.Postgres(t))
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec(createOrders)
	require.NoError(t, err)
	tx, err := db.Begin()
	require.NoError(t, err)
	var backend int64
	require.NoError(t, tx.QueryRow(`SELECT pg_backend_pid()`).Scan(&backend))
	_, err = tx.Exec(`INSERT INTO orders (id) VALUES ('order-1')`)
	require.NoError(t, err)
	require.NoError(t, postgresstore.LimitIdle(t.Context(), tx, 100*time.Millisecond))

	require.Eventually(t, func() bool {
		var sessions int
		return db.QueryRow(`SELECT count(*) FROM pg_stat_activity WHERE pid = $1`, backend).Scan(&sessions) == nil && sessions == 0
	}, time.Minute, 50*time.Millisecond)
	require.Error(t, tx.Commit())
	var rows int
	require.NoError(t, db.QueryRow(`SELECT count(*) FROM orders`).Scan(&rows))
	assert.Zero(t, rows)
	require.ErrorIs(t, postgresstore.LimitIdle(t.Context(), db, time.Second), reliable.ErrInvalid)
}
