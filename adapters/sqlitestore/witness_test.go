package sqlitestore_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/witnesstest"
)

func TestRowWitness_conforms(t *testing.T) {
	witnesstest.Run(t, witnesstest.Harness{Open: func(t testing.TB) witnesstest.Subject {
		store := withOrders(t)
		witness, err := sqlitestore.NewRowWitness(store.DB(), promised())
		require.NoError(t, err)
		return subject(store, witness)
	}})
}

func TestMarkerWitness_conforms(t *testing.T) {
	witnesstest.Run(t, witnesstest.Harness{NeedsToken: true, Open: func(t testing.TB) witnesstest.Subject {
		store := withOrders(t)
		witness, err := store.MarkerWitness(time.Hour)
		require.NoError(t, err)
		return subject(store, witness)
	}})
}

func withOrders(t testing.TB) *sqlitestore.Store {
	t.Helper()
	store := open(t)
	_, err := store.DB().ExecContext(t.Context(), "CREATE TABLE orders (id TEXT PRIMARY KEY)")
	require.NoError(t, err)
	return store
}

func subject(store *sqlitestore.Store, witness reliable.Witness) witnesstest.Subject {
	db := store.DB()
	begin := func(t testing.TB) witnesstest.Business {
		tx, err := db.BeginTx(context.Background(), nil)
		require.NoError(t, err)
		exec := func(ctx context.Context, statement string, args ...any) error {
			_, err := tx.ExecContext(ctx, statement, args...)
			return err
		}
		return witnesstest.Business{
			Tx: tx,
			Insert: func(ctx context.Context, id reliable.ID) error {
				return exec(ctx, "INSERT INTO orders (id) VALUES (?)", string(id))
			},
			Savepoint: func(ctx context.Context, fn func() error) error {
				if err := exec(ctx, "SAVEPOINT scope"); err != nil {
					return err
				}
				if err := fn(); err != nil {
					return err
				}
				return exec(ctx, "ROLLBACK TO scope")
			},
			Commit:   func(context.Context) error { return tx.Commit() },
			Rollback: func(context.Context) error { return tx.Rollback() },
		}
	}
	return witnesstest.Subject{Witness: witness, OneWriter: true, NotTx: []any{db}, Begin: begin}
}

func promised() sqlitestore.WitnessRow {
	return sqlitestore.WitnessRow{Table: "orders", Column: "id", Promise: sqlitestore.RowPromise{
		TransactionInserts: true, KeyIsUnique: true, NeverDeletedInTime: true, SameWritableNode: true, IDDerivesFromRow: true,
	}}
}

// The wait for the lock is shortened for the question alone: connections are shared.
func TestRowWitness_leavesTheConnectionAsItWas(t *testing.T) {
	db := withOrders(t).DB()
	db.SetMaxOpenConns(1)
	timeout := func() (ms int64) {
		require.NoError(t, db.QueryRowContext(t.Context(), "PRAGMA busy_timeout").Scan(&ms))
		return ms
	}
	before := timeout()
	witness, err := sqlitestore.NewRowWitness(db, promised())
	require.NoError(t, err)
	fate, err := witness.Ask(t.Context(), "order-1", "")
	require.NoError(t, err)
	assert.Equal(t, reliable.FateAborted, fate)
	assert.Equal(t, before, timeout())
}
