//go:build services

package testenv_test

import (
	"context"
	"database/sql"
	"net/http"
	"net/url"
	"strings"
	"testing"

	_ "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMariaDB_isEmptyAndGoneAfterTheTest(t *testing.T) {
	var dsns []string
	for _, name := range []string{"first", "second"} {
		t.Run(name, func(t *testing.T) {
			dsn := testenv.MariaDB(t)
			dsns = append(dsns, dsn)
			db := openMariaDB(t, dsn)
			_, err := db.Exec("CREATE TABLE things (id INT PRIMARY KEY)")
			require.NoError(t, err, "the database is not empty, or not writable")
		})
	}
	assert.NotEqual(t, dsns[0], dsns[1])
	for _, dsn := range dsns {
		assert.ErrorContains(t, openMariaDB(t, dsn).Ping(), "Unknown database")
	}
}

func TestMariaDB_isDurable(t *testing.T) {
	var name, value string
	db := openMariaDB(t, testenv.MariaDB(t))
	require.NoError(t, db.QueryRow("SHOW VARIABLES LIKE 'innodb_flush_log_at_trx_commit'").Scan(&name, &value))
	assert.Equal(t, "1", value, "a test that kills the server would prove nothing")
}

func TestPostgres_isEmptyAndGoneAfterTheTest(t *testing.T) {
	ctx := t.Context()
	var urls []string
	for _, name := range []string{"first", "second"} {
		t.Run(name, func(t *testing.T) {
			server := testenv.Postgres(t)
			urls = append(urls, server)
			conn, err := pgx.Connect(ctx, server)
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, conn.Close(context.WithoutCancel(ctx))) })
			_, err = conn.Exec(ctx, "CREATE TABLE things (id INT PRIMARY KEY)")
			require.NoError(t, err, "the database is not empty, or not writable")
		})
	}
	assert.NotEqual(t, urls[0], urls[1])
	for _, server := range urls {
		_, err := pgx.Connect(ctx, server)
		assert.ErrorContains(t, err, "does not exist")
	}
}

func TestPostgres_isDurable(t *testing.T) {
	conn, err := pgx.Connect(t.Context(), testenv.Postgres(t))
	require.NoError(t, err)
	defer func() { assert.NoError(t, conn.Close(t.Context())) }()
	for _, setting := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		var value string
		require.NoError(t, conn.QueryRow(t.Context(), "SHOW "+setting).Scan(&value))
		assert.Equal(t, "on", value, "%s: a test that kills the server would prove nothing", setting)
	}
}

func TestRabbitMQ_isEmptyAndGoneAfterTheTest(t *testing.T) {
	var urls []string
	for _, name := range []string{"first", "second"} {
		t.Run(name, func(t *testing.T) {
			broker := testenv.RabbitMQ(t)
			urls = append(urls, broker)
			conn, err := amqp.Dial(broker)
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, conn.Close()) })
			channel, err := conn.Channel()
			require.NoError(t, err)
			_, err = channel.QueueDeclare("things", true, false, false, false, nil)
			require.NoError(t, err)
		})
	}
	assert.NotEqual(t, urls[0], urls[1])
	for _, broker := range urls {
		_, err := amqp.Dial(broker)
		assert.Error(t, err)
	}
}

func TestRabbitMQAPI_answersForTheBrokerOfRabbitMQ(t *testing.T) {
	broker, err := url.Parse(testenv.RabbitMQ(t))
	require.NoError(t, err)
	response, err := http.Get(testenv.RabbitMQAPI(t) + "/api/vhosts/" + strings.TrimPrefix(broker.Path, "/"))
	require.NoError(t, err)
	defer http.DefaultClient.CloseIdleConnections()
	defer response.Body.Close()
	assert.Equal(t, http.StatusOK, response.StatusCode)
}

func openMariaDB(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db
}
