//go:build services

package mysqlstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/storetest"
)

// openDB opens the DSN with the settings given.
func openDB(t testing.TB, dsn string, set func(*mysql.Config)) *sql.DB {
	t.Helper()
	config, err := mysql.ParseDSN(dsn)
	require.NoError(t, err)
	if set != nil {
		set(config)
	}
	connector, err := mysql.NewConnector(config)
	require.NoError(t, err)
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(40)
	db.SetMaxIdleConns(40)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// recommended is what the package's documentation recommends.
func recommended(c *mysql.Config) { c.InterpolateParams = true }

// plain is the driver's default: statements with arguments are prepared first. This test also has the server count rows
// as other libraries want them counted.
func plain(c *mysql.Config) { c.ClientFoundRows = true }

// withPrefix is a store that remembers its tables, for a second handle on them.
type withPrefix struct {
	*mysqlstore.Store
	prefix string
}

func conforms(t *testing.T, set func(*mysql.Config)) {
	db := openDB(t, testenv.MariaDB(t), set)
	var stores atomic.Int64
	storetest.Run(t, storetest.Harness{
		Open: func(t testing.TB) reliable.Store {
			prefix := fmt.Sprintf("t%d_", stores.Add(1))
			store, err := mysqlstore.New(db, mysqlstore.WithTablePrefix(prefix))
			require.NoError(t, err)
			require.NoError(t, store.Migrate(context.Background()))
			return withPrefix{store, prefix}
		},
		Reopen: func(t testing.TB, store reliable.Store) reliable.Store {
			again, err := mysqlstore.New(db, mysqlstore.WithTablePrefix(store.(withPrefix).prefix))
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

func TestStore_conformsAsRecommended(t *testing.T) { conforms(t, recommended) }

func TestStore_conformsWithPreparedStatements(t *testing.T) { conforms(t, plain) }
