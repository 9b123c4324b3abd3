//go:build services

package sqlbroker_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// movingStore is a store in the broker's own database, or another one, on any driver.
type movingStore interface {
	reliable.Store
	reliable.Mover
	Migrate(ctx context.Context) error
}

// store returns a migrated store on db.
func (d *database) store(t testing.TB, db *sql.DB) movingStore {
	t.Helper()
	var store movingStore
	var err error
	if d.kind == sqlbroker.MySQL {
		store, err = mysqlstore.New(db)
	} else {
		store, err = postgresstore.New(db)
	}
	require.NoError(t, err)
	require.NoError(t, store.Migrate(within(t)))
	return store
}

// eachStore runs a test with a store in the broker's database, on every database and driver.
func eachStore(t *testing.T, test func(t *testing.T, d *database, store movingStore)) {
	t.Helper()
	each(t, func(t *testing.T, d *database) { test(t, d, d.store(t, d.db)) })
	t.Run("PostgreSQL pgx", func(t *testing.T) {
		d := postgres(t)
		pool, err := pgxpool.New(t.Context(), d.dsn)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		store, err := postgresstore.NewPgx(pool)
		require.NoError(t, err)
		require.NoError(t, store.Migrate(within(t)))
		test(t, d, store)
	})
}

// leased stores n envelopes, leased to the caller.
func leased(t testing.TB, store reliable.Store, topic string, n int) []reliable.Attempt {
	t.Helper()
	envs := make([]reliable.Envelope, n)
	for i := range envs {
		envs[i] = reliable.Envelope{ID: reliable.NewID(), Topic: topic, Payload: []byte{0, 0xff, byte(i)}}
	}
	return stored(t, store, envs...)
}

func stored(t testing.TB, store reliable.Store, envs ...reliable.Envelope) []reliable.Attempt {
	t.Helper()
	results, err := store.Enqueue(within(t), reliable.EnqueueRequest{Worker: "test", Lease: time.Minute}, envs...)
	require.NoError(t, err)
	batch := make([]reliable.Attempt, len(results))
	for i := range results {
		require.True(t, results[i].Leased)
		batch[i] = results[i].Attempt
	}
	return batch
}

// confirmed returns how many rows of the outbox have status 1.
func (d *database) confirmed(t testing.TB) (n int) {
	t.Helper()
	require.NoError(t, d.db.QueryRowContext(within(t), "SELECT COUNT(*) FROM waybill_outbox WHERE status = 1").Scan(&n))
	return n
}

func TestJoin_storesTheMessageAndConfirmsItsEnvelopeTogether(t *testing.T) {
	eachStore(t, func(t *testing.T, d *database, store movingStore) {
		b := d.broker(t, d.via, []string{"orders"}) // by another address: the server says who it is
		b.Join(store)
		batch := leased(t, store, "orders", 700)
		publish(t, b, batch)
		for _, confirm := range receive(t, b, len(batch)) {
			require.Equal(t, reliable.Acked, confirm.Outcome, confirm.Err)
			require.True(t, confirm.Settled)
		}
		assert.Equal(t, 700, d.confirmed(t))
		assert.Len(t, d.stored(t, "orders"), 700)
	})
}

func TestJoin_leavesWhatBelongsToAnotherHolderAndMovesTheRest(t *testing.T) {
	eachStore(t, func(t *testing.T, d *database, store movingStore) {
		b := d.broker(t, d.db, []string{"orders"})
		b.Join(store)
		batch := leased(t, store, "orders", 20)
		_, err := store.Settle(t.Context(), reliable.Settlement{ID: batch[3].ID, Fence: 1, Topic: "orders", To: reliable.Pending})
		require.NoError(t, err)
		taken, err := store.Claim(t.Context(), reliable.ClaimRequest{Worker: "other", Max: 1, Lease: time.Minute})
		require.NoError(t, err)
		require.Len(t, taken, 1)
		_, err = store.Settle(t.Context(), reliable.Settlement{
			ID: batch[5].ID, Fence: 1, Topic: "orders", Sent: true, Outcome: reliable.Acked, To: reliable.Confirmed,
		})
		require.NoError(t, err)
		unknown := attempts("orders", 1)[0] // in no outbox
		publish(t, b, append(batch, unknown))
		for id, confirm := range receive(t, b, 21) {
			if id == batch[3].ID || id == batch[5].ID || id == unknown.ID {
				assert.Equal(t, reliable.Unknown, confirm.Outcome)
				assert.False(t, confirm.Settled)
			} else {
				assert.True(t, confirm.Settled, "%v: %v", confirm.Outcome, confirm.Err)
			}
		}
		assert.Len(t, d.stored(t, "orders"), 18)
		publish(t, b, taken)
		assert.True(t, receive(t, b, 1)[batch[3].ID].Settled, "its holder can")
		assert.Len(t, d.stored(t, "orders"), 19)
	})
}

func TestJoin_refusesInTheStoresTransactionAsInItsOwn(t *testing.T) {
	eachStore(t, func(t *testing.T, d *database, store movingStore) {
		b := d.broker(t, d.db, []string{"orders"})
		b.Join(store)
		missing := leased(t, store, "missing", 3)
		publish(t, b, missing)
		for _, confirm := range receive(t, b, 3) {
			assert.Equal(t, reliable.Returned, confirm.Outcome, confirm.Err)
			assert.False(t, confirm.Settled)
		}
		d.exec(t, map[sqlbroker.Dialect]string{
			sqlbroker.MySQL:    "ALTER TABLE watermill_orders MODIFY uuid VARBINARY(40) NOT NULL",
			sqlbroker.Postgres: "ALTER TABLE watermill_orders ALTER uuid TYPE VARCHAR(40)",
		}[d.kind])
		long := reliable.Envelope{ID: reliable.ID(bytes.Repeat([]byte("i"), 41)), Topic: "orders"}
		batch := append(leased(t, store, "orders", 9), stored(t, store, long)...)
		publish(t, b, batch)
		for id, confirm := range receive(t, b, 10) {
			if id == long.ID {
				assert.Equal(t, reliable.Rejected, confirm.Outcome)
			} else {
				assert.True(t, confirm.Settled, "%v: %v", confirm.Outcome, confirm.Err)
			}
		}
		assert.Equal(t, 9, d.confirmed(t))
		assert.Len(t, d.stored(t, "orders"), 9)
	})
}

func TestJoin_withAStoreInAnotherDatabaseChangesNothing(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		other := databases[t.Name()[len("TestJoin_withAStoreInAnotherDatabaseChangesNothing/"):]](t)
		store := other.store(t, other.db)
		b := d.broker(t, d.db, []string{"orders"})
		b.Join(store)
		batch := leased(t, store, "orders", 3)
		publish(t, b, batch)
		for _, confirm := range receive(t, b, 3) {
			assert.Equal(t, reliable.Acked, confirm.Outcome)
			assert.False(t, confirm.Settled)
		}
		assert.Len(t, d.stored(t, "orders"), 3)
		assert.Zero(t, other.confirmed(t))
	})
}

// The answer to COMMIT is lost, after or before the fact: the message is there if and only if its envelope is confirmed.
func TestJoin_aCommitWhoseAnswerIsCutOffLeavesBothOrNeither(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		for action, there := range map[faultproxy.Action]int{faultproxy.CutBefore: 0, faultproxy.LoseAnswer: 1} {
			store := d.store(t, d.via)
			topic := topicName("orders")
			b := d.broker(t, d.db, []string{topic})
			b.Join(store)
			before := d.confirmed(t)
			batch := leased(t, store, topic, 1)
			var armed, cut atomic.Bool
			d.proxy.OnClientBytes(func(chunk []byte) faultproxy.Action {
				if bytes.Contains(chunk, []byte("watermill_"+topic)) {
					armed.Store(true)
				}
				if armed.Load() && bytes.Contains(bytes.ToUpper(chunk), []byte("COMMIT")) && cut.CompareAndSwap(false, true) {
					return action
				}
				return faultproxy.Forward
			})
			publish(t, b, batch)
			confirm := receive(t, b, 1)[batch[0].ID]
			d.proxy.OnClientBytes(nil)
			require.True(t, cut.Load())
			assert.Equal(t, reliable.Unknown, confirm.Outcome)
			require.ErrorIs(t, confirm.Err, reliable.ErrConnectionLost)
			assert.Len(t, d.stored(t, topic), there)
			assert.Equal(t, there, d.confirmed(t)-before)
		}
	})
}

// rollbackTx makes what insert does fail, in the end.
func TestMove_keepsNothingOfAnInsertThatFails(t *testing.T) {
	eachStore(t, func(t *testing.T, d *database, store movingStore) {
		d.broker(t, d.db, []string{"orders"})
		batch := leased(t, store, "orders", 2)
		moves := []reliable.Move{{ID: batch[0].ID, Fence: 1, Topic: "orders"}, {ID: batch[1].ID, Fence: 1, Topic: "orders"}}
		failed := errors.New("no")
		insert := "INSERT INTO " + d.quoted("watermill_orders") + " (uuid) VALUES ('1')"
		if d.kind == sqlbroker.Postgres {
			insert = `INSERT INTO watermill_orders (uuid, transaction_id) VALUES ('1', pg_current_xact_id())`
		}
		_, err := store.Move(t.Context(), moves, func(ctx context.Context, tx reliable.MoveTx, which []int) error {
			require.Equal(t, []int{0, 1}, which)
			n, err := tx.Exec(ctx, insert)
			require.NoError(t, err)
			require.EqualValues(t, 1, n)
			return failed
		})
		require.ErrorIs(t, err, failed)
		require.NotErrorIs(t, err, reliable.ErrUnknown)
		assert.Empty(t, d.stored(t, "orders"))
		assert.Zero(t, d.confirmed(t))
		for _, wrong := range [][]reliable.Move{{moves[0], moves[0]}, {{ID: "x"}}, {{Fence: 1}}} {
			_, err := store.Move(t.Context(), wrong, nil)
			require.ErrorIs(t, err, reliable.ErrInvalid)
		}
	})
}

// wrapped is what users put around a publisher.
type wrapped struct{ reliable.Publisher }

func (w wrapped) Unwrap() any { return w.Publisher }

func TestOutbox_movesInOrderOfEachKeyAndSettlesNothingTwice(t *testing.T) {
	const keys, perKey = 5, 20
	eachStore(t, func(t *testing.T, d *database, store movingStore) {
		b := d.broker(t, d.db, []string{"orders"})
		var settled, answered atomic.Int64
		o, err := tagging.New(store, wrapped{b}, b, tagging.WithoutRetention(), tagging.WithPollInterval(20*time.Millisecond),
			tagging.WithHooks(tagging.Hooks{
				Answered: func(_ *reliable.Attempt, c *reliable.Confirm, _ time.Duration) {
					if c.Settled {
						answered.Add(1)
					}
				},
				Settled: func(*reliable.Attempt, *reliable.Settlement, reliable.SettleResult) { settled.Add(1) },
			}))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- o.Run(ctx) }()
		var last *tagging.Receipt
		for n := range perKey {
			envs := []reliable.Envelope{{ID: reliable.ID(fmt.Sprint("free-", n)), Topic: "orders"}}
			for key := range keys {
				envs = append(envs, reliable.Envelope{
					ID: reliable.ID(fmt.Sprintf("%d-%d", key, n)), Topic: "orders", Key: fmt.Sprint(key),
				})
			}
			last, err = o.Publish(within(t), envs...)
			require.NoError(t, err)
		}
		statuses, err := last.Wait(within(t))
		require.NoError(t, err)
		for _, status := range statuses {
			assert.Equal(t, reliable.Confirmed, status)
		}
		require.Eventually(t, func() bool { return d.confirmed(t) == (keys+1)*perKey }, patience, 20*time.Millisecond)
		cancel()
		require.NoError(t, <-ran)
		assert.EqualValues(t, (keys+1)*perKey, answered.Load())
		assert.EqualValues(t, (keys+1)*perKey, settled.Load())

		sub := subscribe(t, b, "orders", sqlbroker.WithFetch(100))
		newest := make(map[string]int)
		for range (keys + 1) * perKey {
			msg := next(t, sub)
			msg.Ack()
			if key := msg.Metadata.Get(reliable.HeaderKey); key != "" {
				assert.Equal(t, fmt.Sprintf("%s-%d", key, newest[key]), msg.UUID)
				newest[key]++
			}
		}
	})
}
