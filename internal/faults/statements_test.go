//go:build services

package faults

import (
	"database/sql"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/strategies/tagging"
)

// withoutWakeUps leaves out the NOTIFY by which a sender tells relays of other processes: it is no part of the transaction,
// which does not wait for it, and many share one.
func withoutWakeUps(start func(*testing.T) counted) func(*testing.T) counted {
	return func(t *testing.T) counted {
		t.Helper()
		d := start(t)
		d.count = func(t *testing.T, on *sql.Conn) int {
			t.Helper()
			var n int
			require.NoError(t, on.QueryRowContext(t.Context(),
				"SELECT sum(calls)::bigint FROM pg_stat_statements WHERE query NOT ILIKE '%notify%'").Scan(&n))
			return n
		}
		return d
	}
}

func TestInTx_costsTheTransactionOneStatement(t *testing.T) {
	t.Parallel()
	const transactions = 50
	for kind, start := range map[string]func(*testing.T) counted{"mariadb": countedMariaDB, "postgres": withoutWakeUps(countedPostgres)} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d := start(t)
			db, store, err := d.open(t.Context())
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, db.Close()) })
			sender, err := tagging.NewSender(store)
			require.NoError(t, err)
			conn, err := db.Conn(t.Context())
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, conn.Close()) })

			asked := func(prefix string, messages bool) int {
				before := d.count(t, conn)
				for i := range transactions {
					require.NoError(t, tagging.InTx(t.Context(), sender, db, func(tx *sql.Tx, out *tagging.Scope) error {
						if _, err := tx.ExecContext(t.Context(), "SELECT 1"); err != nil || !messages {
							return err
						}
						return out.Send(order(prefix + strconv.Itoa(i)))
					}))
				}
				return d.count(t, conn) - before
			}
			asked("warm", true) // what a connection is asked once
			without, with := asked("", false), asked("m", true)
			t.Logf("%d transactions: %d statements without a message, %d with one", transactions, without, with)
			assert.Equal(t, without+transactions, with)
		})
	}
}
