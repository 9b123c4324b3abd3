//go:build services

package postgresstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/internal/servertest"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

var anHour = reliable.ClaimRequest{Worker: "w", Max: 10, Lease: time.Hour}

// failedHead stores an envelope, fails it and claims it for compensation.
func failedHead(t *testing.T, store *postgresstore.Store, e reliable.Envelope) reliable.Compensation {
	t.Helper()
	_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, e)
	require.NoError(t, err)
	attempts, err := store.Claim(t.Context(), anHour)
	require.NoError(t, err)
	require.Len(t, attempts, 1)
	a := attempts[0]
	_, err = store.Settle(t.Context(), reliable.Settlement{
		ID: a.ID, Fence: a.Fence, Topic: a.Topic, Key: a.Key, Sent: true, Outcome: reliable.Rejected, To: reliable.Failed,
	})
	require.NoError(t, err)
	records, err := store.ClaimFailed(t.Context(), anHour, a.Topic)
	require.NoError(t, err)
	require.Len(t, records, 1)
	r := records[0]
	return reliable.Compensation{ID: r.ID, Fence: r.Fence, Topic: r.Topic, Key: r.Key, Done: true}
}

// A snapshot does not show who came to a key since, and no lock makes it.
func TestSettleCompensation_ofAKeyNeedsToSeeWhatIsCommitted(t *testing.T) {
	url := testenv.Postgres(t)
	db, pool := openDB(t, url), openPool(t, url)
	begins := map[string]func(level string) (any, func(string) error){
		"database/sql": func(level string) (any, func(string) error) {
			conn, err := db.Conn(context.Background())
			require.NoError(t, err)
			t.Cleanup(func() { _ = conn.Close() })
			set := func(statement string) error {
				_, err := conn.ExecContext(context.Background(), statement)
				return err
			}
			return conn, set
		},
		"pgx": func(level string) (any, func(string) error) {
			conn, err := pool.Acquire(context.Background())
			require.NoError(t, err)
			t.Cleanup(conn.Release)
			set := func(statement string) error {
				_, err := conn.Exec(context.Background(), statement)
				return err
			}
			return conn, set
		},
	}
	var names prefixes
	for name, begin := range begins {
		store, err := postgresstore.New(db, postgresstore.WithTablePrefix(names.next()))
		migrated(t, store, err)
		for _, level := range []string{"repeatable read", "serializable", "read committed"} {
			plain := failedHead(t, store, servertest.Envelope("plain "+level))
			head := failedHead(t, store, servertest.Keyed("keyed "+level, level))
			conn, set := begin(level)
			require.NoError(t, set("SET default_transaction_isolation = '"+level+"'"))
			tx, err := store.Begin(t.Context(), conn)
			require.NoError(t, err)
			result, err := tx.(reliable.CompensationSettler).SettleCompensation(t.Context(), plain)
			require.NoError(t, err, "%s, %s: no key has to go on", name, level)
			require.Equal(t, reliable.Applied, result)
			result, err = tx.(reliable.CompensationSettler).SettleCompensation(t.Context(), head)
			if level == "read committed" {
				require.NoError(t, err)
				require.Equal(t, reliable.Applied, result)
			} else {
				require.ErrorIs(t, err, reliable.ErrInvalid, "%s, %s", name, level)
				require.ErrorContains(t, err, "READ COMMITTED")
			}
			require.NoError(t, tx.Commit(t.Context()), "it was not harmed")
			require.NoError(t, set("RESET default_transaction_isolation"))
			records, err := store.Lookup(t.Context(), plain.ID, head.ID)
			require.NoError(t, err)
			for _, r := range records {
				done := r.ID == plain.ID || level == "read committed"
				require.Equal(t, done, r.Status == reliable.Compensated, "%s, %s: %q", name, level, r.ID)
			}
		}
	}
}
