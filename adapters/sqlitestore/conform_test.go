package sqlitestore_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open makes an empty store in a file of its own. The tests care for transactions, not for power losses.
func open(t testing.TB) *sqlitestore.Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "waybill.db")
	store, err := sqlitestore.Open(context.Background(), path, sqlitestore.WithSynchronousNormal())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

func TestStore_conforms(t *testing.T) {
	storetest.Run(t, storetest.Harness{
		Open: func(t testing.TB) reliable.Store { return open(t) },
		Reopen: func(t testing.TB, store reliable.Store) reliable.Store {
			again, err := sqlitestore.New(store.(*sqlitestore.Store).DB())
			require.NoError(t, err)
			return again
		},
		Begin: func(t testing.TB, store reliable.Store) storetest.Native {
			tx, err := store.(*sqlitestore.Store).DB().Begin()
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
		NotTx:     func(store reliable.Store) []any { return []any{store.(*sqlitestore.Store).DB()} },
		Expect:    storetest.AllAbilities(),
		OneWriter: true,
	})
}
