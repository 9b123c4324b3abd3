package sqlitestore_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/witnesstest"
)

func TestRowWitness_conforms(t *testing.T) {
	witnesstest.Run(t, witnesstest.Harness{Open: func(t testing.TB) witnesstest.Subject {
		db := open(t).DB()
		_, err := db.ExecContext(t.Context(), "CREATE TABLE orders (id TEXT PRIMARY KEY)")
		require.NoError(t, err)
		witness, err := sqlitestore.NewRowWitness(db, promised())
		require.NoError(t, err)
		return witnesstest.Subject{Witness: witness, OneWriter: true, NotTx: []any{db}, Begin: func(t testing.TB) witnesstest.Business {
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
		}}
	}})
}

func promised() sqlitestore.WitnessRow {
	return sqlitestore.WitnessRow{Table: "orders", Column: "id", Promise: sqlitestore.RowPromise{
		TransactionInserts: true, KeyIsUnique: true, NeverDeletedInTime: true, SameWritableNode: true, IDDerivesFromRow: true,
	}}
}

// The wait for the lock is shortened for the question alone: connections are shared.
func TestRowWitness_leavesTheConnectionAsItWas(t *testing.T) {
	db := open(t).DB()
	db.SetMaxOpenConns(1)
	_, err := db.ExecContext(t.Context(), "CREATE TABLE orders (id TEXT PRIMARY KEY)")
	require.NoError(t, err)
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
