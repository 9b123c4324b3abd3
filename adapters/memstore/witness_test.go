package memstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/witnesstest"
)

func TestMarkerWitness_conforms(t *testing.T) {
	witnesstest.Run(t, witnesstest.Harness{NeedsToken: true, Open: func(t testing.TB) witnesstest.Subject {
		store := memstore.New()
		witness, err := store.MarkerWitness(time.Hour)
		require.NoError(t, err)
		return witnesstest.Subject{Witness: witness, NotTx: []any{store}, Begin: func(t testing.TB) witnesstest.Business {
			begun, err := store.Begin(context.Background(), nil)
			require.NoError(t, err)
			tx := begun.Native().(*memstore.Tx)
			return witnesstest.Business{
				Tx:     tx,
				Insert: func(_ context.Context, id reliable.ID) error { return tx.Put(string(id), true) },
				Savepoint: func(ctx context.Context, fn func() error) error {
					scope, err := tx.Savepoint(ctx)
					if err != nil {
						return err
					}
					if err := fn(); err != nil {
						return err
					}
					return scope.Rollback(ctx)
				},
				Commit:   tx.Commit,
				Rollback: tx.Rollback,
			}
		}}
	}})
}
