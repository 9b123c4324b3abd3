//go:build services

package mysqlstore_test

import (
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

func TestLimitIdle_serverRollsBackWhatStandsStill(t *testing.T) {
	db, err := sql.Open("mysql", testenv.MariaDB(t))
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec("CREATE TABLE standing (id INT PRIMARY KEY)")
	require.NoError(t, err)
	tx, err := db.Begin()
	require.NoError(t, err)
	var session int64
	require.NoError(t, tx.QueryRow("SELECT CONNECTION_ID()").Scan(&session))
	_, err = tx.Exec("INSERT INTO standing (id) VALUES (1)")
	require.NoError(t, err)
	require.NoError(t, mysqlstore.LimitIdle(t.Context(), tx, time.Millisecond), "rounded up to a second")

	require.Eventually(t, func() bool {
		var sessions int
		err := db.QueryRow("SELECT COUNT(*) FROM information_schema.processlist WHERE id = ?", session).Scan(&sessions)
		return err == nil && sessions == 0
	}, time.Minute, 50*time.Millisecond)
	require.Error(t, tx.Commit())
	var rows int
	require.NoError(t, db.QueryRow("SELECT COUNT(*) FROM standing").Scan(&rows))
	assert.Zero(t, rows)
	require.ErrorIs(t, mysqlstore.LimitIdle(t.Context(), db, time.Second), reliable.ErrInvalid)
}
