//go:build services

package delayedcheck_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// marking is a store in the business's database that keeps a row for each transaction.
type marking interface {
	reliable.Transactor
	reliable.Marker
	Migrate(ctx context.Context) error
}

func TestSender_deletesOldMarkers(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) (*sql.DB, marking){
		"mariadb": func(t *testing.T) (*sql.DB, marking) {
			db := opened(t, "mysql", testenv.MariaDB(t), "").db
			store, err := mysqlstore.New(db)
			require.NoError(t, err)
			return db, store
		},
		"postgres": func(t *testing.T) (*sql.DB, marking) {
			db := opened(t, "pgx", testenv.Postgres(t), "").db
			store, err := postgresstore.New(db)
			require.NoError(t, err)
			return db, store
		},
		"sqlite": func(t *testing.T) (*sql.DB, marking) {
			store, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "shop.db"))
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, store.Close()) })
			return store.DB(), store
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, store := open(t)
			require.NoError(t, store.Migrate(t.Context()))
			witness, err := store.MarkerWitness(time.Hour)
			require.NoError(t, err)
			mark := func() reliable.Token {
				tx, err := store.Begin(t.Context(), db)
				require.NoError(t, err)
				token, err := witness.Mark(t.Context(), tx.Native())
				require.NoError(t, err)
				require.NoError(t, tx.Commit(t.Context()))
				return token
			}
			age := func(by time.Duration) {
				_, err := db.ExecContext(t.Context(), "UPDATE waybill_marker SET at = at - "+strconv.FormatInt(by.Microseconds(), 10))
				require.NoError(t, err)
			}
			mark()
			age(2 * time.Hour)
			young := mark()
			age(2 * time.Hour)

			broker := membroker.New()
			t.Cleanup(func() { require.NoError(t, broker.Close()) })
			sender, err := delayedcheck.NewSender(broker, broker, broker.Scheduler(), delayedcheck.WithGroups("billing"),
				delayedcheck.WithTransactions(store), delayedcheck.WithWitness(witness), delayedcheck.WithMarkerRetention(3*time.Hour))
			require.NoError(t, err)
			stop := running(sender)
			defer func() { require.NoError(t, stop()) }()
			require.Eventually(t, func() bool { return sender.Stats().MarkersPurged == 1 }, patience, 10*time.Millisecond)

			fate, err := witness.Ask(t.Context(), "order-1", young)
			require.NoError(t, err)
			assert.Equal(t, reliable.FateCommitted, fate, "it is kept, and says so")
			var left int
			require.NoError(t, db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM waybill_marker").Scan(&left))
			assert.Equal(t, 1, left)
		})
	}
}
