//go:build services

package delayedcheck_test

import (
	"net/url"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/testenv"
)

func TestService_onMariaDB(t *testing.T) { onLedger(t, mariaDBURL(t)) }

func TestService_onPostgreSQL(t *testing.T) { onLedger(t, testenv.Postgres(t)) }

func TestService_paceOnMariaDB(t *testing.T) {
	t.Parallel()
	pacedOn(t, mariaDBURL(t))
}

func TestService_paceOnPostgreSQL(t *testing.T) {
	t.Parallel()
	pacedOn(t, testenv.Postgres(t))
}

// mariaDBURL makes a database and returns its URL.
func mariaDBURL(t testing.TB) string {
	t.Helper()
	config, err := mysql.ParseDSN(testenv.MariaDB(t))
	require.NoError(t, err)
	return (&url.URL{Scheme: "mysql", User: url.UserPassword(config.User, config.Passwd), Host: config.Addr, Path: "/" + config.DBName}).String()
}
