//go:build services

package mysqlstore_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/internal/servertest"
	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

// unprepared is a connector to a server that has no room for another prepared statement.
type unprepared struct {
	driver.Connector
	asked *atomic.Int32
}

func (u unprepared) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := u.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return unpreparedConn{conn, u.asked}, nil
}

type unpreparedConn struct {
	driver.Conn
	asked *atomic.Int32
}

func (c unpreparedConn) PrepareContext(context.Context, string) (driver.Stmt, error) {
	c.asked.Add(1)
	return nil, &mysql.MySQLError{Number: 1461, Message: "Can't create more than max_prepared_stmt_count statements"}
}

func (c unpreparedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.Conn.(driver.ExecerContext).ExecContext(ctx, query, args)
}

func (c unpreparedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
}

func (c unpreparedConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	return c.Conn.(driver.ConnBeginTx).BeginTx(ctx, opts)
}

func TestEnqueue_doesWithoutPreparingWhereTheServerDoesNot(t *testing.T) {
	config, err := mysql.ParseDSN(testenv.MariaDB(t))
	require.NoError(t, err)
	config.InterpolateParams = true
	connector, err := mysql.NewConnector(config)
	require.NoError(t, err)
	var asked atomic.Int32
	db := sql.OpenDB(unprepared{connector, &asked})
	defer func() { require.NoError(t, db.Close()) }()
	store, err := mysqlstore.New(db)
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))

	for _, id := range []string{"a", "b", "c"} {
		_, err = store.Enqueue(t.Context(), reliable.EnqueueRequest{}, servertest.Envelope(id))
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, asked.Load(), "it is not asked again for the same statement")

	tx, err := store.Begin(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.Enqueue(t.Context(), reliable.EnqueueRequest{}, servertest.Envelope("d"), servertest.Envelope("e"))
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		require.True(t, servertest.Stored(t, store, id), id)
	}
}

func TestEnqueue_preparesOnTheOnlyConnectionOfAPool(t *testing.T) {
	db := openDB(t, testenv.MariaDB(t), recommended)
	db.SetMaxOpenConns(1)
	store, err := mysqlstore.New(db)
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	for _, ids := range [][]string{{"a", "b"}, {"c", "d"}, {"e", "f"}} {
		tx, err := store.Begin(t.Context(), nil)
		require.NoError(t, err)
		_, err = tx.Enqueue(t.Context(), reliable.EnqueueRequest{}, servertest.Envelope(ids[0]), servertest.Envelope(ids[1]))
		require.NoError(t, err)
		require.NoError(t, tx.Commit(t.Context()))
	}
	require.True(t, servertest.Stored(t, store, "f"))
}
