// Package testenv gives a test a place of its own on the shared test servers: an empty database, an empty virtual host,
// or a prefix for the names of topics, made for the call and dropped when the test ends. Tests that use it never see each other's rows or queues, so
// they may run in parallel.
//
// The servers are those that `make services-up` starts, unless a variable names another:
//
//	WAYBILL_TEST_MARIADB       DSN of go-sql-driver/mysql; its account must be allowed to create databases
//	WAYBILL_TEST_POSTGRES      postgres:// URL; its account must be allowed to create databases
//	WAYBILL_TEST_RABBITMQ      amqp:// URL
//	WAYBILL_TEST_RABBITMQ_API  http:// URL of the same broker's management API, with an administrator's account
//	WAYBILL_TEST_KAFKA         host:port of the brokers of one cluster, separated by commas, without encryption or login
//
// A server that cannot be reached fails the test: a suite that skips what it cannot reach proves nothing. Files that need
// a server therefore carry the build tag "services", and the commands that set it start the servers first.
package testenv

import (
	"crypto/rand"
	"os"
	"strings"
	"testing"
	"time"
)

// patience bounds every wait for a server. It is long because the machine may be busy, not because servers are slow.
const patience = 2 * time.Minute

// setting returns the environment variable name, or what make services-up provides.
func setting(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

// unreachable ends the test. It keeps err's own words, which name no password.
func unreachable(t testing.TB, server, variable string, err error) {
	t.Helper()
	t.Fatalf("testenv: %s cannot be used: %v: run `make services-up`, or set %s to a server of yours", server, err, variable)
}

// uniqueName names a database or virtual host, or begins the name of a topic. Lower case, so that it needs no quoting anywhere.
func uniqueName() string {
	return "waybill_" + strings.ToLower(rand.Text()[:16])
}
