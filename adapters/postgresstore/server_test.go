//go:build services

package postgresstore_test

import (
	"database/sql"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/internal/servertest"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/internal/testenv"
)

var server = servertest.Server{
	Database: testenv.Postgres,
	Host:     func(t testing.TB, address string) string { return parse(t, address).Host },
	At: func(t testing.TB, address, host, password string) string {
		u := parse(t, address)
		u.Host = host
		if password != "" {
			u.User = url.UserPassword(u.User.Username(), password)
		}
		return u.String()
	},
	Open: openDB,
	On:   onHandle,
	Clients: map[string]func(t testing.TB, address string) servertest.Store{
		"database/sql": func(t testing.TB, address string) servertest.Store { return onHandle(t, openDB(t, address), "") },
		"pgx": func(t testing.TB, address string) servertest.Store {
			store, err := postgresstore.NewPgx(openPool(t, address))
			require.NoError(t, err)
			return store
		},
	},
	Schema:   func() (string, error) { return postgresstore.Schema() },
	Version:  "INSERT INTO waybill_schema VALUES ($1, $2, 0)",
	ReadOnly: "SET default_transaction_read_only = on",
	Commit:   "commit\x00",
}

func parse(t testing.TB, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	return u
}

// onHandle is the store on a handle, with the default prefix if prefix is empty.
func onHandle(t testing.TB, db *sql.DB, prefix string) servertest.Store {
	t.Helper()
	var opts []postgresstore.Option
	if prefix != "" {
		opts = append(opts, postgresstore.WithTablePrefix(prefix))
	}
	store, err := postgresstore.New(db, opts...)
	require.NoError(t, err)
	return store
}

func TestStore_onItsServer(t *testing.T) { servertest.Run(t, server) }
