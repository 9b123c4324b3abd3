//go:build services

package faults

import (
	"context"
	"database/sql"
	"net/url"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testservers"
)

// privateServer is a database server of the test's own.
type privateServer interface {
	Addr() string
	Start()
	Stop()
	Kill()
	Pause()
	Resume()
}

// privateDatabase is a database on a server of the test's own, for what stops, pauses or locks the server.
type privateDatabase struct {
	privateServer
	database // reached directly, by an account that cannot write when the server is read-only

	via      func(addr string) database // reached through a proxy
	readOnly func(t testing.TB, on bool)
}

// privateDatabases are the makers of the private databases, by name.
var privateDatabases = map[string]func(testing.TB) *privateDatabase{"mariadb": privateMariaDB, "postgres": privatePostgres}

func privateMariaDB(t testing.TB) *privateDatabase {
	t.Helper()
	server := testservers.StartMariaDB(t)
	adminDSN := server.DSN()
	// An administrator writes in spite of read_only.
	administer(t, "mysql", adminDSN, "CREATE USER plain@'127.0.0.1' IDENTIFIED BY 'plain'", "GRANT ALL ON waybill.* TO plain@'127.0.0.1'")
	via := func(addr string) database {
		config, err := mysql.ParseDSN(server.DSNVia(addr))
		require.NoError(t, err)
		config.User, config.Passwd = "plain", "plain"
		return database{Driver: "mysql", DSN: config.FormatDSN()}
	}
	return &privateDatabase{server, via(server.Addr()), via, func(t testing.TB, on bool) {
		administer(t, "mysql", adminDSN, map[bool]string{true: "SET GLOBAL read_only = ON", false: "SET GLOBAL read_only = OFF"}[on])
	}}
}

func privatePostgres(t testing.TB) *privateDatabase {
	t.Helper()
	server := testservers.StartPostgres(t)
	via := func(addr string) database { return database{Driver: "pgx", DSN: server.URLVia(addr)} }
	return &privateDatabase{server, via(server.Addr()), via, func(t testing.TB, on bool) {
		// The setting can be changed all the same: it concerns what an open transaction may do.
		value := map[bool]string{true: "on", false: "off"}[on]
		administer(t, "pgx", server.URL(), "ALTER SYSTEM SET default_transaction_read_only = "+value, "SELECT pg_reload_conf()")
		awaitSetting(t, server.URL(), "default_transaction_read_only", value)
	}}
}

// awaitSetting waits until new connections have a setting. The server tells the old ones before it takes new ones, and they
// look before their next statement.
func awaitSetting(t testing.TB, url, name, value string) {
	t.Helper()
	require.Eventually(t, func() bool {
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			return false
		}
		defer conn.Close(t.Context())
		var now string
		err = conn.QueryRow(t.Context(), "SHOW "+name).Scan(&now)
		return err == nil && now == value
	}, patience, 10*time.Millisecond)
}

// administer runs statements on a connection of its own.
func administer(t testing.TB, driver, dsn string, statements ...string) {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := db.Conn(ctx)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	for _, statement := range statements {
		_, err := conn.ExecContext(ctx, statement)
		require.NoError(t, err, statement)
	}
}

// through puts a proxy before a broker and returns the URL that leads through it.
func through(t testing.TB, amqpURL string) (string, *faultproxy.Proxy) {
	t.Helper()
	address, err := url.Parse(amqpURL)
	require.NoError(t, err)
	proxy := faultproxy.New(t, address.Host)
	address.Host = proxy.Addr()
	return address.String(), proxy
}
