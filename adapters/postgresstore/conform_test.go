//go:build services

package postgresstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/storetest"
)

// prefixes gives each store of a test tables of its own in one database.
type prefixes struct{ n atomic.Int64 }

func (p *prefixes) next() string { return fmt.Sprintf("t%d_", p.n.Add(1)) }

func openDB(t testing.TB, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", url)
	require.NoError(t, err)
	db.SetMaxOpenConns(40)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func openPool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	config.MaxConns = 40
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func migrated(t testing.TB, store *postgresstore.Store, err error) *postgresstore.Store {
	t.Helper()
	require.NoError(t, err)
	require.NoError(t, store.Migrate(context.Background()))
	return store
}

// withPrefix is a store that remembers its tables, for a second handle on them.
type withPrefix struct {
	*postgresstore.Store
	prefix string
}

func TestStore_conformsOnDatabaseSQL(t *testing.T) {
	db := openDB(t, testenv.Postgres(t))
	var names prefixes
	storetest.Run(t, storetest.Harness{
		Open: func(t testing.TB) reliable.Store {
			prefix := names.next()
			store, err := postgresstore.New(db, postgresstore.WithTablePrefix(prefix))
			return withPrefix{migrated(t, store, err), prefix}
		},
		Reopen: func(t testing.TB, store reliable.Store) reliable.Store {
			again, err := postgresstore.New(db, postgresstore.WithTablePrefix(store.(withPrefix).prefix))
			require.NoError(t, err)
			return again
		},
		Begin: func(t testing.TB, _ reliable.Store) storetest.Native {
			tx, err := db.Begin()
			require.NoError(t, err)
			return storetest.Native{
				Tx:       tx,
				Commit:   func(context.Context) error { return tx.Commit() },
				Rollback: func(context.Context) error { return tx.Rollback() },
				Exec: func(ctx context.Context, statement string) error {
					_, err := tx.ExecContext(ctx, statement)
					return err
				},
			}
		},
		NotTx:  func(reliable.Store) []any { return []any{db} },
		Expect: storetest.AllAbilities(),
	})
}

func TestStore_conformsOnPgx(t *testing.T) {
	pool := openPool(t, testenv.Postgres(t))
	var names prefixes
	storetest.Run(t, storetest.Harness{
		Open: func(t testing.TB) reliable.Store {
			prefix := names.next()
			store, err := postgresstore.NewPgx(pool, postgresstore.WithTablePrefix(prefix))
			return withPrefix{migrated(t, store, err), prefix}
		},
		Reopen: func(t testing.TB, store reliable.Store) reliable.Store {
			again, err := postgresstore.NewPgx(pool, postgresstore.WithTablePrefix(store.(withPrefix).prefix))
			require.NoError(t, err)
			return again
		},
		Begin: func(t testing.TB, _ reliable.Store) storetest.Native {
			tx, err := pool.Begin(context.Background())
			require.NoError(t, err)
			return storetest.Native{
				Tx:       tx,
				Commit:   tx.Commit,
				Rollback: tx.Rollback,
				Exec: func(ctx context.Context, statement string) error {
					_, err := tx.Exec(ctx, statement)
					return err
				},
			}
		},
		NotTx:  func(reliable.Store) []any { return []any{pool} },
		Expect: storetest.AllAbilities(),
	})
}
