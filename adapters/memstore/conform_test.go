package memstore_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore_conforms(t *testing.T) {
	storetest.Run(t, storetest.Harness{
		Open:   func(testing.TB) reliable.Store { return memstore.New() },
		Begin:  beginNative,
		NotTx:  func(reliable.Store) []any { return []any{(*memstore.Tx)(nil), beginOther(t)} },
		Expect: storetest.AllAbilities(),
		Bubble: virtualtime.Test,
	})
}

func beginNative(t testing.TB, store reliable.Store) storetest.Native {
	tx, err := store.(*memstore.Store).Begin(t.Context(), nil)
	require.NoError(t, err)
	savepoints := make(map[string]reliable.Savepoint)
	return storetest.Native{
		Tx: tx, Commit: tx.Commit, Rollback: tx.Rollback,
		Exec: func(ctx context.Context, statement string) error {
			if statement == "SAVEPOINT mine" {
				savepoints["mine"], err = tx.Savepoint(ctx)
				return err
			}
			return savepoints["mine"].Rollback(ctx)
		},
	}
}

// beginOther begins a transaction on another store.
func beginOther(t testing.TB) any {
	tx, err := memstore.New().Begin(t.Context(), nil)
	require.NoError(t, err)
	return tx.Native()
}
