//go:build services

package mysqlstore_test

import (
	"database/sql"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/internal/servertest"
	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/internal/testenv"
)

var server = servertest.Server{
	Database: testenv.MariaDB,
	Host:     func(t testing.TB, dsn string) string { return parse(t, dsn).Addr },
	At: func(t testing.TB, dsn, host, password string) string {
		config := parse(t, dsn)
		config.Addr = host
		if password != "" {
			config.Passwd = password
		}
		return config.FormatDSN()
	},
	Open: func(t testing.TB, dsn string) *sql.DB { return openDB(t, dsn, recommended) },
	On:   onHandle,
	Clients: map[string]func(t testing.TB, dsn string) servertest.Store{
		"database/sql": func(t testing.TB, dsn string) servertest.Store { return onHandle(t, openDB(t, dsn, recommended), "") },
	},
	Schema:   func() (string, error) { return mysqlstore.Schema() },
	Version:  "INSERT INTO waybill_schema VALUES (?, ?, 0)",
	ReadOnly: "SET SESSION TRANSACTION READ ONLY",
	Commit:   "\x03COMMIT",
}

func parse(t testing.TB, dsn string) *mysql.Config {
	t.Helper()
	config, err := mysql.ParseDSN(dsn)
	require.NoError(t, err)
	return config
}

// onHandle is the store on a handle, with the default prefix if prefix is empty.
func onHandle(t testing.TB, db *sql.DB, prefix string) servertest.Store {
	t.Helper()
	var opts []mysqlstore.Option
	if prefix != "" {
		opts = append(opts, mysqlstore.WithTablePrefix(prefix))
	}
	store, err := mysqlstore.New(db, opts...)
	require.NoError(t, err)
	return store
}

func TestStore_onItsServer(t *testing.T) { servertest.Run(t, server) }
