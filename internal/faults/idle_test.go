//go:build services

package faults

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

const (
	// idleFor is how long an idle process is watched.
	idleFor = 15 * time.Second
	// idleRate is how many queries a second it may make.
	idleRate = 2
	// foundWithin is how soon a message of another process is taken up.
	foundWithin = time.Second
)

// counted is a database on a server of its own, which says how many statements it was asked.
type counted struct {
	database
	count func(t *testing.T, on *sql.Conn) int // the statement that asks is one of them
}

func countedMariaDB(t *testing.T) counted {
	t.Helper()
	d := database{Driver: "mysql", DSN: testservers.StartMariaDB(t).DSN()}
	return counted{d, func(t *testing.T, on *sql.Conn) int {
		t.Helper()
		var name, value string
		require.NoError(t, on.QueryRowContext(t.Context(), "SHOW GLOBAL STATUS LIKE 'Questions'").Scan(&name, &value))
		n, err := strconv.Atoi(value)
		require.NoError(t, err)
		return n
	}}
}

func countedPostgres(t *testing.T) counted {
	t.Helper()
	server := testservers.StartPostgres(t, "shared_preload_libraries = 'pg_stat_statements'", "pg_stat_statements.track = top")
	administer(t, "pgx", server.URL(), "CREATE EXTENSION pg_stat_statements")
	return counted{database{Driver: "pgx", DSN: server.URL()}, func(t *testing.T, on *sql.Conn) int {
		t.Helper()
		var n int
		require.NoError(t, on.QueryRowContext(t.Context(), "SELECT sum(calls)::bigint FROM pg_stat_statements").Scan(&n))
		return n
	}}
}

func TestIdle_processAsksLittleAndFindsWhatAnotherStoredSoon(t *testing.T) {
	t.Parallel()
	for kind, start := range map[string]func(*testing.T) counted{"mariadb": countedMariaDB, "postgres": countedPostgres} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d, amqpURL := start(t), testenv.RabbitMQ(t)
			declare(t, amqpURL, queue, quorum)
			r := newRig(t, rigConfig{database: d.database, amqpURL: amqpURL, outbox: []tagging.Option{
				tagging.WithRetention(time.Hour), tagging.WithFailedHandler("failing", func(context.Context, *reliable.Record) error { return nil }),
				tagging.WithHooks(tagging.Hooks{Backlog: func([]reliable.TopicStats) {}}),
			}})
			other, store, err := d.open(t.Context())
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, other.Close()) })
			sender, err := tagging.NewSender(store)
			require.NoError(t, err)
			conn, err := other.Conn(t.Context())
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, conn.Close()) })
			_, err = sender.Publish(t.Context(), order("warm"))
			require.NoError(t, err)
			r.eventuallySettled()

			before := d.count(t, conn)
			time.Sleep(idleFor)
			asked := d.count(t, conn) - before - 1
			perSecond := float64(asked) / idleFor.Seconds()
			t.Logf("%.2f queries a second", perSecond)
			assert.LessOrEqual(t, perSecond, float64(idleRate))
			assert.NotZero(t, asked, "the relay must look")

			// Recording takes a moment more than finding. A machine that is busy at the moment may be idle at another one.
			const limit = foundWithin + 500*time.Millisecond
			slowest := limit
			for round := 0; round < 10 && slowest >= limit; round++ {
				slowest = 0
				for i := range 5 {
					receipt, err := sender.Publish(t.Context(), order(fmt.Sprintf("found-%d-%d", round, i)))
					require.NoError(t, err)
					stored := time.Now()
					id := receipt.IDs()[0]
					require.Eventually(t, func() bool { return r.count(reliable.Confirmed, []reliable.ID{id}) == 1 }, patience, 5*time.Millisecond)
					slowest = max(slowest, time.Since(stored))
					time.Sleep(150 * time.Millisecond) // so that they meet the relay at different moments of its pause
				}
				t.Logf("found, sent and recorded within %v", slowest.Round(time.Millisecond))
			}
			assert.Less(t, slowest, limit)
		})
	}
}
