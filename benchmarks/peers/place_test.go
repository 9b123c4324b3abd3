//go:build services

package peers

import (
	"database/sql"
	"fmt"
	"log/slog"
	"strconv"
	"testing"

	_ "github.com/go-sql-driver/mysql" // the driver "mysql"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/internal/testenv"
)

func TestMain(m *testing.M) { pairs.Main(m) }

// silent is for libraries that would log each refused connection of an outage.
var silent = slog.New(slog.DiscardHandler)

// scope is a part of a test or benchmark with an end of its own, so that nothing of one run is there in the next.
type scope struct {
	testing.TB
	cleanups []func()
}

// Cleanup registers what end does, the last first.
func (s *scope) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *scope) end() {
	for len(s.cleanups) > 0 {
		last := s.cleanups[len(s.cleanups)-1]
		s.cleanups = s.cleanups[:len(s.cleanups)-1]
		last()
	}
}

// database is an empty database.
type database struct {
	product, driver, dsn string
}

const (
	mariaDB  = "mariadb"
	postgres = "postgres"
)

// emptyDatabase makes a database on the test server of that product.
func emptyDatabase(t testing.TB, product string) database {
	t.Helper()
	if product == mariaDB {
		return database{product, "mysql", testenv.MariaDB(t) + "?interpolateParams=true"}
	}
	return database{product, "pgx", testenv.Postgres(t)}
}

// connections is how many each handle may have: one for each business transaction at a time, and some for the relay.
const connections = transacting + 16

// open returns a handle with the table of the business in the database. Parameters are for the driver, "&a=b" each.
func (d database) open(t testing.TB, parameters string) *sql.DB {
	t.Helper()
	db, err := sql.Open(d.driver, d.dsn+parameters)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	_, err = db.Exec("CREATE TABLE IF NOT EXISTS business (id BIGINT PRIMARY KEY)")
	require.NoError(t, err)
	return db
}

// placeholder is the n-th parameter of a statement, counted from 1.
func (d database) placeholder(n int) string {
	if d.product == postgres {
		return "$" + strconv.Itoa(n)
	}
	return "?"
}

// sale is the statement of the business.
func (d database) sale() string {
	return "INSERT INTO business (id) VALUES (" + d.placeholder(1) + ")"
}

const payloadBytes = 256

// payload is the content of message number i: its number, and nothing after it.
func payload(i int) []byte {
	content := make([]byte, payloadBytes)
	copy(content, fmt.Sprintf("%016d", i))
	return content
}

// messageID is the id of a message whose content is given.
func messageID(content []byte) string { return "message-" + string(content[:16]) }

// number is which message it is the content of.
func number(content []byte) (int, error) {
	if len(content) != payloadBytes {
		return 0, fmt.Errorf("a message of %d bytes came, and none was sent", len(content))
	}
	return strconv.Atoi(string(content[:16]))
}
