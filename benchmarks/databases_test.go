//go:build services

package benchmarks

import (
	"context"
	"database/sql"
	"path/filepath"
	"strconv"
	"testing"

	_ "github.com/go-sql-driver/mysql" // the driver "mysql"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

// database is a database as the bare loops and the stores use it.
type database struct {
	name string
	// open returns a handle on an empty database of its own and a store whose tables are there.
	open func(b *testing.B) (*sql.DB, reliable.Store)
	// placeholder returns the n-th parameter, counted from 1.
	placeholder func(n int) string
}

func question(int) string { return "?" }

func dollar(n int) string { return "$" + strconv.Itoa(n) }

var (
	mariaDB  = database{name: "mariadb", open: openMariaDB, placeholder: question}
	postgres = database{name: "postgres", open: openPostgres, placeholder: dollar}
	sqlite   = database{name: "sqlite", open: openSQLite, placeholder: question}
)

func openMariaDB(b *testing.B) (*sql.DB, reliable.Store) {
	b.Helper()
	return onMariaDB(b, testenv.MariaDB(b))
}

func onMariaDB(b *testing.B, dsn string) (*sql.DB, reliable.Store) {
	b.Helper()
	db := openSQL(b, "mysql", dsn+"?interpolateParams=true")
	store, err := mysqlstore.New(db)
	require.NoError(b, err)
	require.NoError(b, store.Migrate(context.Background()))
	return db, store
}

func openPostgres(b *testing.B) (*sql.DB, reliable.Store) {
	b.Helper()
	return onPostgres(b, testenv.Postgres(b))
}

func onPostgres(b *testing.B, dsn string) (*sql.DB, reliable.Store) {
	b.Helper()
	db := openSQL(b, "pgx", dsn)
	store, err := postgresstore.New(db)
	require.NoError(b, err)
	require.NoError(b, store.Migrate(context.Background()))
	return db, store
}

// besideRabbitMQ opens a database and a broker with an empty queue.
func besideRabbitMQ(b *testing.B, d database) (db *sql.DB, store reliable.Store, url string) {
	b.Helper()
	db, store = d.open(b)
	url = testenv.RabbitMQ(b)
	declareQuorum(b, url)
	return db, store, url
}

func openSQL(b *testing.B, driver, dsn string) *sql.DB {
	b.Helper()
	db, err := sql.Open(driver, dsn)
	require.NoError(b, err)
	db.SetMaxOpenConns(40)
	db.SetMaxIdleConns(40)
	b.Cleanup(func() { require.NoError(b, db.Close()) })
	return db
}

func openSQLite(b *testing.B) (*sql.DB, reliable.Store) {
	b.Helper()
	store, err := sqlitestore.Open(context.Background(), filepath.Join(b.TempDir(), "bench.db"))
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, store.Close()) })
	require.NoError(b, store.Migrate(context.Background()))
	return store.DB(), store
}
