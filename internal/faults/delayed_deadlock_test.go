//go:build services

package faults

import (
	"database/sql"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// try is one try at a business transaction.
type try struct {
	id    reliable.ID
	tx    *sql.Tx
	token reliable.Token
}

// Two transactions that wait for each other: the server rolls one of them back, whose business tries again under the same id.
func TestDelayed_aTransactionTriedAgainAfterADeadlockIsNotTakenForTheOneBefore(t *testing.T) {
	t.Parallel()
	for name, makePremises := range witnesses {
		premises := makePremises(t)
		if premises.SQLite != "" || premises.Witness == "function" {
			continue // one has no deadlocks, the other is asked about the row alone, and answers by its age
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, _, witness, err := premises.open(t.Context())
			require.NoError(t, err)
			defer func() { require.NoError(t, db.Close()) }()
			for _, statement := range []string{
				"CREATE TABLE orders (id VARCHAR(64) PRIMARY KEY, total INT NOT NULL DEFAULT 0)", "INSERT INTO orders (id) VALUES ('a'), ('b')",
			} {
				_, err := db.ExecContext(t.Context(), statement)
				require.NoError(t, err)
			}
			begin := func(id reliable.ID) try {
				tx, err := db.Begin()
				require.NoError(t, err)
				_, err = tx.Exec(premises.insert(), string(id))
				require.NoError(t, err)
				token, err := witness.Mark(t.Context(), tx)
				require.NoError(t, err)
				return try{id, tx, token}
			}
			fate := func(of try) reliable.Fate {
				fate, err := witness.Ask(t.Context(), of.id, of.token)
				require.NoError(t, err)
				return fate
			}
			victim, winner := deadlock(t, begin("order-1"), begin("order-2"))
			require.NoError(t, winner.tx.Commit())
			_ = victim.tx.Rollback() // on MariaDB the server has done it
			assert.Equal(t, reliable.FateCommitted, fate(winner))
			assert.Equal(t, reliable.FateAborted, fate(victim))

			again := begin(victim.id)
			assert.Equal(t, reliable.FateOpen, fate(again))
			if victim.token != "" {
				assert.Equal(t, reliable.FateAborted, fate(victim), "while the next try is open")
			}
			require.NoError(t, again.tx.Commit())
			assert.Equal(t, reliable.FateCommitted, fate(again))
			if victim.token != "" {
				assert.Equal(t, reliable.FateAborted, fate(victim))
			}
		})
	}
}

// deadlock has both wait for each other; the server chooses the victim.
func deadlock(t *testing.T, one, other try) (victim, winner try) {
	t.Helper()
	update := func(of try, row string) error {
		_, err := of.tx.Exec("UPDATE orders SET total = total + 1 WHERE id = '" + row + "'")
		return err
	}
	require.NoError(t, update(one, "a"))
	require.NoError(t, update(other, "b"))
	waits := make(chan error, 1)
	go func() { waits <- update(one, "b") }()
	otherFailed := update(other, "a")
	failed := <-waits
	require.NotEqual(t, failed == nil, otherFailed == nil, "one of them must have been rolled back: %v, %v", failed, otherFailed)
	if failed != nil {
		require.ErrorContains(t, failed, "eadlock")
		return one, other
	}
	require.ErrorContains(t, otherFailed, "eadlock")
	return other, one
}
