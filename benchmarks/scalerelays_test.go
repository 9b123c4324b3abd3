//go:build services && soak

package benchmarks

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

// BenchmarkScaleRelays drains a backlog by 1, 2 and 4 processes. What others gain from them is that one may die: where one
// can use the whole machine, two are no faster.
func BenchmarkScaleRelays(b *testing.B) {
	var worst float64
	n := sized(200_000)
	for _, d := range []struct {
		database
		dsn func(testing.TB) string
		on  func(b *testing.B, dsn string) (*sql.DB, reliable.Store)
	}{{mariaDB, testenv.MariaDB, onMariaDB}, {postgres, testenv.Postgres, onPostgres}} {
		b.Run(d.name, func(b *testing.B) {
			dsn, url := d.dsn(b), testenv.RabbitMQ(b)
			db, store := d.on(b, dsn)
			by := func(processes int) func(b *testing.B) float64 {
				return func(b *testing.B) float64 {
					empty(b, d.database, db)
					fill(b, d.database, db, store, n, false)
					to := rabbit(b, url)
					defer to.close()
					rate := drainBy(b, processes, d.name, dsn, url, n)
					nothingLost(b, db, to, n)
					return rate
				}
			}
			var medians pairs.Medians
			b.Run("2", func(b *testing.B) {
				medians = pairs.Compare(b, "relays-2-"+d.name, "draining by two processes", "by one", by(1), by(2))
			})
			point(b, "1", map[string]float64{"msg/s": medians.Yardstick})
			point(b, "4", map[string]float64{"msg/s": median(rounds, func() float64 { return by(4)(b) })})
			if worst == 0 || medians.Ratio < worst {
				worst = medians.Ratio
			}
		})
	}
	pairs.Report("ratio relays-2 %.2f (draining by two processes / by one, the lower one of both databases)", worst)
}

// BenchmarkScaleOldTransaction sends while a transaction stays open that saw the outbox before: the database keeps for it
// whatever rows were since, and each later claim may have to step over them. It tells the time of a claim too.
func BenchmarkScaleOldTransaction(b *testing.B) {
	const after = 5
	for _, d := range []database{mariaDB, postgres} {
		b.Run(d.name, func(b *testing.B) {
			url := testenv.RabbitMQ(b)
			for _, state := range []string{"without", "open"} { // one after the other: MariaDB keeps for all its databases
				db, store := d.open(b)
				if state == "open" {
					end := holdSnapshot(b, d, db)
					defer end()
				}
				payload := make([]byte, payloadBytes)
				for i := range after {
					to := rabbit(b, url)
					rate := publishMore(b, store, to, endToEnd, func(int) reliable.Envelope {
						return reliable.Envelope{Topic: topic, Payload: payload}
					})
					delivered(b, to, endToEnd)
					to.close()
					claim := claims(b, store, 100, 20)
					point(b, fmt.Sprintf("%s/%d", state, (i+1)*60_000), map[string]float64{"msg/s": rate, "ms/claim": claim})
				}
			}
		})
	}
}

// holdSnapshot opens a transaction that sees the outbox as it is now, and returns what ends it.
func holdSnapshot(b *testing.B, d database, db *sql.DB) (end func()) {
	b.Helper()
	ctx := context.Background()
	conn, err := db.Conn(ctx)
	require.NoError(b, err)
	begin := "START TRANSACTION WITH CONSISTENT SNAPSHOT"
	if d.name == postgres.name {
		begin = "BEGIN ISOLATION LEVEL REPEATABLE READ"
	}
	var rows int
	_, err = conn.ExecContext(ctx, begin)
	require.NoError(b, err)
	require.NoError(b, conn.QueryRowContext(ctx, "SELECT COUNT(*) FROM waybill_outbox").Scan(&rows))
	return func() {
		_, err := conn.ExecContext(ctx, "ROLLBACK")
		require.NoError(b, err)
		require.NoError(b, conn.Close())
	}
}
