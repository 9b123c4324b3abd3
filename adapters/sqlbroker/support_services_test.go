//go:build services

package sqlbroker_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

// patience is how long a test waits for what must happen, on a loaded machine.
const patience = time.Minute

// database is an empty database on a test server, reached directly and through a proxy.
type database struct {
	kind  sqlbroker.Dialect
	db    *sql.DB
	dsn   string
	proxy *faultproxy.Proxy
	via   *sql.DB
	// another opens a pool through the proxy, which the caller closes.
	another func() *sql.DB
}

// databases are the makers of databases, by name.
var databases = map[string]func(testing.TB) *database{"MariaDB": mariaDB, "PostgreSQL": postgres}

func mariaDB(t testing.TB) *database {
	t.Helper()
	config, err := mysql.ParseDSN(testenv.MariaDB(t))
	require.NoError(t, err)
	config.InterpolateParams = true
	proxy := faultproxy.New(t, config.Addr)
	behind := config.Clone()
	behind.Addr = proxy.Addr()
	return newDatabase(t, sqlbroker.MySQL, "mysql", config.FormatDSN(), behind.FormatDSN(), proxy)
}

func postgres(t testing.TB) *database {
	t.Helper()
	dsn := testenv.Postgres(t)
	address, err := url.Parse(dsn)
	require.NoError(t, err)
	proxy := faultproxy.New(t, address.Host)
	address.Host = proxy.Addr()
	return newDatabase(t, sqlbroker.Postgres, "pgx", dsn, address.String(), proxy)
}

func newDatabase(t testing.TB, kind sqlbroker.Dialect, driver, dsn, behind string, proxy *faultproxy.Proxy) *database {
	t.Helper()
	open := func(dsn string) *sql.DB {
		db, err := sql.Open(driver, dsn)
		require.NoError(t, err)
		db.SetMaxIdleConns(10)
		return db
	}
	d := &database{kind: kind, dsn: dsn, proxy: proxy, db: open(dsn), via: open(behind), another: func() *sql.DB { return open(behind) }}
	t.Cleanup(func() { assert.NoError(t, errors.Join(d.via.Close(), d.db.Close())) })
	return d
}

// each runs a test on every database.
func each(t *testing.T, test func(t *testing.T, d *database)) {
	t.Helper()
	for name, makeDatabase := range databases {
		t.Run(name, func(t *testing.T) { test(t, makeDatabase(t)) })
	}
}

// broker returns a broker on db, with the tables of topics.
func (d *database) broker(t testing.TB, db *sql.DB, topics []string, opts ...sqlbroker.Option) *sqlbroker.Broker {
	t.Helper()
	b, err := sqlbroker.New(d.kind, db, append([]sqlbroker.Option{
		sqlbroker.WithReconnectWait(5*time.Millisecond, 100*time.Millisecond), sqlbroker.WithLogger(quiet(t)),
	}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	require.NoError(t, b.Declare(within(t), topics...))
	return b
}

func quiet(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
}

var topics atomic.Int64

func topicName(kind string) string { return fmt.Sprint(kind, topics.Add(1)) }

// within returns a context that ends when the test's patience does.
func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func attempts(topic string, n int) []reliable.Attempt {
	batch := make([]reliable.Attempt, n)
	for i := range batch {
		batch[i] = reliable.Attempt{
			Envelope: reliable.Envelope{ID: reliable.NewID(), Topic: topic, Payload: []byte("payload")}, Fence: 1, Attempts: 1,
		}
	}
	return batch
}

func publish(t testing.TB, b *sqlbroker.Broker, batch []reliable.Attempt) {
	t.Helper()
	n, err := b.Publish(within(t), batch)
	require.NoError(t, err)
	require.Equal(t, len(batch), n)
}

// receive returns n confirms by ID, each of which must be the only one.
func receive(t testing.TB, b *sqlbroker.Broker, n int) map[reliable.ID]reliable.Confirm {
	t.Helper()
	ctx := within(t)
	confirms := make(map[reliable.ID]reliable.Confirm, n)
	for len(confirms) < n {
		got, err := b.Receive(ctx, n-len(confirms))
		require.NoError(t, err, "%d of %d confirms came", len(confirms), n)
		for _, confirm := range got {
			require.NotContains(t, confirms, confirm.ID, "confirmed twice")
			confirms[confirm.ID] = confirm
		}
	}
	return confirms
}

// outcome publishes one attempt and returns its confirm.
func outcome(t testing.TB, b *sqlbroker.Broker, env reliable.Envelope) reliable.Confirm {
	t.Helper()
	if env.ID == "" {
		env.ID = reliable.NewID()
	}
	publish(t, b, []reliable.Attempt{{Envelope: env, Fence: 1, Attempts: 1}})
	return receive(t, b, 1)[env.ID]
}

// stored returns how often each ID is in a topic's table.
func (d *database) stored(t testing.TB, topic string) map[string]int {
	t.Helper()
	rows, err := d.db.QueryContext(within(t), "SELECT uuid FROM "+d.quoted("watermill_"+topic))
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	ids := make(map[string]int)
	for rows.Next() {
		var id string
		require.NoError(t, rows.Scan(&id))
		ids[id]++
	}
	require.NoError(t, rows.Err())
	return ids
}

func (d *database) quoted(name string) string {
	if d.kind == sqlbroker.MySQL {
		return "`" + name + "`"
	}
	return `"` + name + `"`
}

func (d *database) exec(t testing.TB, statement string) {
	t.Helper()
	_, err := d.db.ExecContext(within(t), strings.ReplaceAll(statement, `"`, d.quoted("")[:1]))
	require.NoError(t, err, statement)
}
