//go:build services

package mysqlstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/witnesstest"
)

func promised() mysqlstore.WitnessRow {
	return mysqlstore.WitnessRow{Table: "orders", Column: "id", Promise: mysqlstore.RowPromise{
		TransactionInserts: true, KeyIsUnique: true, NeverDeletedInTime: true, SameWritableNode: true, IDDerivesFromRow: true,
	}}
}

func orders(t testing.TB) (*sql.DB, *mysqlstore.RowWitness) {
	t.Helper()
	db := openDB(t, testenv.MariaDB(t), recommended)
	_, err := db.ExecContext(t.Context(), "CREATE TABLE orders (id VARBINARY(128) PRIMARY KEY, total INT NOT NULL DEFAULT 0)")
	require.NoError(t, err)
	witness, err := mysqlstore.NewRowWitness(db, promised())
	require.NoError(t, err)
	return db, witness
}

// begin starts business transactions.
func begin(db *sql.DB) func(testing.TB) witnesstest.Business {
	return func(t testing.TB) witnesstest.Business {
		tx, err := db.BeginTx(context.Background(), nil)
		require.NoError(t, err)
		var connection int64
		require.NoError(t, tx.QueryRowContext(t.Context(), "SELECT CONNECTION_ID()").Scan(&connection))
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
				return exec(ctx, "ROLLBACK TO SAVEPOINT scope")
			},
			Commit:   func(context.Context) error { return tx.Commit() },
			Rollback: func(context.Context) error { return tx.Rollback() },
			Kill: func(t testing.TB) {
				_, err := db.ExecContext(t.Context(), "KILL CONNECTION ?", connection)
				require.NoError(t, err)
			},
		}
	}
}

func TestRowWitness_conforms(t *testing.T) {
	witnesstest.Run(t, witnesstest.Harness{Open: func(t testing.TB) witnesstest.Subject {
		db, witness := orders(t)
		return witnesstest.Subject{Witness: witness, NotTx: []any{db}, Begin: begin(db)}
	}})
}

func TestMarkerWitness_conforms(t *testing.T) {
	witnesstest.Run(t, witnesstest.Harness{NeedsToken: true, Open: func(t testing.TB) witnesstest.Subject {
		db, _ := orders(t)
		witness := marking(t, db)
		return witnesstest.Subject{Witness: witness, NotTx: []any{db}, Begin: begin(db)}
	}})
}

func marking(t testing.TB, db *sql.DB) reliable.Witness {
	t.Helper()
	store, err := mysqlstore.New(db)
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	witness, err := store.MarkerWitness(time.Hour)
	require.NoError(t, err)
	return witness
}

// A marker that is not there may have been purged once its horizon has passed; before that it means that there was no
// commit.
func TestMarkerWitness_knowsNothingBeyondItsHorizon(t *testing.T) {
	db, _ := orders(t)
	witness := marking(t, db)
	var now int64
	require.NoError(t, db.QueryRowContext(t.Context(),
		"SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))").Scan(&now))
	for age, want := range map[time.Duration]reliable.Fate{
		30 * time.Minute: reliable.FateAborted, 61 * time.Minute: reliable.FateUnknowable, -time.Hour: reliable.FateUnknowable,
	} {
		token := reliable.Token(fmt.Sprintf("mk1:%032x:%d", int64(age+2*time.Hour), now-age.Microseconds()))
		fate, err := witness.Ask(t.Context(), "order-1", token)
		require.NoError(t, err)
		assert.Equal(t, want, fate, "%v", age)
	}
}

// A row that a transaction breaks a deadlock by giving up is gone with it; the retry has the same id.
func TestRowWitness_afterADeadlockTellsWhatTheRetryDid(t *testing.T) {
	db, witness := orders(t)
	ctx := t.Context()
	_, err := db.ExecContext(ctx, "INSERT INTO orders (id) VALUES ('a'), ('b')")
	require.NoError(t, err)
	victim, err := db.BeginTx(ctx, nil)
	require.NoError(t, err)
	winner, err := db.BeginTx(ctx, nil)
	require.NoError(t, err)
	for _, step := range []struct {
		tx        *sql.Tx
		statement string
	}{
		{victim, "INSERT INTO orders (id) VALUES ('order-1')"},
		{victim, "UPDATE orders SET total = 1 WHERE id = 'a'"},
		// The server gives up the transaction that has changed less.
		{winner, "INSERT INTO orders (id) VALUES ('x1'), ('x2'), ('x3'), ('x4'), ('x5'), ('x6'), ('x7'), ('x8')"},
		{winner, "UPDATE orders SET total = 2 WHERE id = 'b'"},
	} {
		_, err := step.tx.ExecContext(ctx, step.statement)
		require.NoError(t, err)
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := winner.ExecContext(ctx, "UPDATE orders SET total = 2 WHERE id = 'a'")
		waiting <- err
	}()
	_, err = victim.ExecContext(ctx, "UPDATE orders SET total = 1 WHERE id = 'b'")
	require.ErrorContains(t, err, "Deadlock")
	require.NoError(t, <-waiting)
	require.NoError(t, winner.Commit())
	_ = victim.Rollback()
	fate, err := witness.Ask(ctx, "order-1", "")
	require.NoError(t, err)
	assert.Equal(t, reliable.FateAborted, fate)

	retry, err := db.BeginTx(ctx, nil)
	require.NoError(t, err)
	_, err = retry.ExecContext(ctx, "INSERT INTO orders (id) VALUES ('order-1')")
	require.NoError(t, err)
	fate, err = witness.Ask(ctx, "order-1", "")
	require.NoError(t, err)
	assert.Equal(t, reliable.FateOpen, fate)
	require.NoError(t, retry.Commit())
	fate, err = witness.Ask(ctx, "order-1", "")
	require.NoError(t, err)
	assert.Equal(t, reliable.FateCommitted, fate)
}

func TestRowWitness_asksByWhatTheColumnHolds(t *testing.T) {
	db, _ := orders(t)
	_, err := db.ExecContext(t.Context(), "INSERT INTO orders (id) VALUES ('17')")
	require.NoError(t, err)
	row := promised()
	row.Value = func(id reliable.ID) any { return string(id[len("order-"):]) }
	witness, err := mysqlstore.NewRowWitness(db, row)
	require.NoError(t, err)
	fate, err := witness.Ask(t.Context(), "order-17", "")
	require.NoError(t, err)
	assert.Equal(t, reliable.FateCommitted, fate)
}

func TestRowWitness_aTableThatIsNotThereIsAnErrorAndNoAnswer(t *testing.T) {
	db := openDB(t, testenv.MariaDB(t), recommended)
	witness, err := mysqlstore.NewRowWitness(db, promised())
	require.NoError(t, err)
	_, err = witness.Ask(t.Context(), "order-1", "")
	require.ErrorContains(t, err, "mysqlstore: ask")
}
