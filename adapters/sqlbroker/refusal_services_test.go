//go:build services

package sqlbroker_test

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/reliable"
)

func TestPublish_returnsWhatHasNoTableUntilItIsDeclared(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		b := d.broker(t, d.db, nil)
		confirm := outcome(t, b, reliable.Envelope{Topic: "orders"})
		assert.Equal(t, reliable.Returned, confirm.Outcome)
		assert.ErrorContains(t, confirm.Err, "call Declare")
		require.NoError(t, b.Declare(t.Context(), "orders"))
		assert.Equal(t, reliable.Acked, outcome(t, b, reliable.Envelope{Topic: "orders"}).Outcome)
	})
}

func TestPublish_returnsWhatATableOfAnotherShapeCannotHold(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		b := d.broker(t, d.db, nil)
		d.exec(t, map[sqlbroker.Dialect]string{
			sqlbroker.MySQL: "CREATE TABLE watermill_orders (offset_ BIGINT AUTO_INCREMENT PRIMARY KEY, uuid VARCHAR(36) NOT NULL, " +
				"payload JSON DEFAULT NULL CHECK (JSON_VALID(payload)), metadata JSON DEFAULT NULL)",
			sqlbroker.Postgres: "CREATE TABLE watermill_orders (uuid VARCHAR(36) NOT NULL, payload JSON, metadata JSON, transaction_id xid8)",
		}[d.kind])
		confirm := outcome(t, b, reliable.Envelope{Topic: "orders", Payload: []byte("secret, and no JSON")})
		assert.Equal(t, reliable.Returned, confirm.Outcome)
		require.Error(t, confirm.Err)
		assert.NotContains(t, confirm.Err.Error(), "secret")
		require.ErrorContains(t, b.Declare(t.Context(), "orders"), "does not keep all bytes")
	})
}

func TestPublish_rejectsOneMessageAndStoresItsNeighbours(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		b := d.broker(t, d.db, []string{"orders"})
		d.exec(t, map[sqlbroker.Dialect]string{ // as watermill-sql makes it
			sqlbroker.MySQL:    "ALTER TABLE watermill_orders MODIFY uuid VARCHAR(36) NOT NULL",
			sqlbroker.Postgres: "ALTER TABLE watermill_orders ALTER uuid TYPE VARCHAR(36)",
		}[d.kind])
		batch := attempts("orders", 21)
		batch[7].ID = reliable.ID(strings.Repeat("i", 37))
		publish(t, b, batch)
		for id, confirm := range receive(t, b, len(batch)) {
			if id == batch[7].ID {
				assert.Equal(t, reliable.Rejected, confirm.Outcome)
			} else {
				assert.Equal(t, reliable.Acked, confirm.Outcome, confirm.Err)
			}
		}
		assert.Len(t, d.stored(t, "orders"), 20)
	})
}

func TestPublish_rejectsATopicThatCanBeNoTable(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		b := d.broker(t, d.db, nil)
		for _, topic := range []string{"a b", "a`; DROP TABLE x; --", `a"b`, "größe", strings.Repeat("t", 46), "offsets_orders"} {
			confirm := outcome(t, b, reliable.Envelope{Topic: topic})
			assert.Equal(t, reliable.Rejected, confirm.Outcome, topic)
			assert.ErrorIs(t, confirm.Err, reliable.ErrInvalid, topic)
			assert.ErrorIs(t, b.Declare(t.Context(), topic), reliable.ErrInvalid, topic)
			assert.ErrorIs(t, b.Check(&reliable.Envelope{ID: "1", Topic: topic}), reliable.ErrInvalid, topic)
		}
		longest := strings.Repeat("t", 45)
		require.NoError(t, b.Declare(t.Context(), longest, "a-b.c:d$e_F"))
		assert.Equal(t, reliable.Acked, outcome(t, b, reliable.Envelope{Topic: longest}).Outcome)
		assert.Equal(t, reliable.Acked, outcome(t, b, reliable.Envelope{Topic: "a-b.c:d$e_F"}).Outcome)
	})
}

func TestPublish_handsNothingOverWhileTheDatabaseIsOutOfReach(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		b := d.broker(t, d.via, []string{"orders"})
		d.proxy.Refuse(true)
		d.proxy.CutAll()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		n, err := b.Publish(ctx, attempts("orders", 3))
		assert.Zero(t, n)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "cannot be reached")
		require.Error(t, b.Ping(within(t)))
		d.proxy.Refuse(false)
		publish(t, b, attempts("orders", 3))
		receive(t, b, 3)
		assert.Len(t, d.stored(t, "orders"), 3)
		assert.NoError(t, b.Ping(within(t)))
	})
}

// What COMMIT came to cannot be known when its answer is cut off; what the others came to is.
func TestPublish_isUnknownIfTheAnswerToCommitIsCutOff(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		for action, there := range map[faultproxy.Action]bool{faultproxy.CutBefore: false, faultproxy.LoseAnswer: true} {
			b := d.broker(t, d.via, []string{"orders"})
			d.exec(t, "DELETE FROM watermill_orders")
			var cut atomic.Bool
			d.proxy.OnClientBytes(func(chunk []byte) faultproxy.Action {
				if bytes.Contains(chunk, []byte("COMMIT")) && !bytes.Contains(chunk, []byte("COMMITTED")) && cut.CompareAndSwap(false, true) {
					return action
				}
				return faultproxy.Forward
			})
			confirm := outcome(t, b, reliable.Envelope{ID: "1", Topic: "orders"})
			d.proxy.OnClientBytes(nil)
			require.True(t, cut.Load())
			assert.Equal(t, reliable.Unknown, confirm.Outcome)
			require.ErrorIs(t, confirm.Err, reliable.ErrConnectionLost)
			assert.Equal(t, there, d.stored(t, "orders")["1"] == 1)
			assert.Equal(t, reliable.Acked, outcome(t, b, reliable.Envelope{ID: "2", Topic: "orders"}).Outcome)
		}
	})
}

func TestPublish_aLockedTopicKeepsTheOthersFromNothing(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		b := d.broker(t, d.db, []string{"locked", "free"}, sqlbroker.WithConfirmTimeout(20*time.Second))
		conn, err := d.db.Conn(t.Context())
		require.NoError(t, err)
		defer func() { require.NoError(t, conn.Close()) }()
		lock, unlock := `BEGIN; LOCK TABLE watermill_locked IN EXCLUSIVE MODE`, `ROLLBACK`
		if d.kind == sqlbroker.MySQL {
			lock, unlock = "SELECT 1 FROM watermill_locked FOR UPDATE", "ROLLBACK"
			_, err = conn.ExecContext(t.Context(), "START TRANSACTION")
			require.NoError(t, err)
		}
		_, err = conn.ExecContext(t.Context(), lock)
		require.NoError(t, err)

		held, free := attempts("locked", 1), attempts("free", 200)
		publish(t, b, append(held, free...))
		for _, confirm := range receive(t, b, len(free)) {
			assert.Equal(t, reliable.Acked, confirm.Outcome)
			assert.NotEqual(t, held[0].ID, confirm.ID)
		}
		confirm := receive(t, b, 1)[held[0].ID]
		assert.Equal(t, reliable.Unknown, confirm.Outcome, "a lock is nobody's fault")
		require.NotErrorIs(t, confirm.Err, reliable.ErrConnectionLost)
		_, err = conn.ExecContext(t.Context(), unlock)
		require.NoError(t, err)
		assert.Equal(t, reliable.Acked, outcome(t, b, reliable.Envelope{Topic: "locked"}).Outcome)
	})
}

// Connections of the pool are lent: what was set on them is set back.
func TestPublish_leavesTheConnectionsOfThePoolAsTheyWere(t *testing.T) {
	d := mariaDB(t)
	d.db.SetMaxOpenConns(1)
	b := d.broker(t, d.db, []string{"orders"})
	d.exec(t, "SET SESSION innodb_lock_wait_timeout = 33")
	publish(t, b, append(attempts("orders", 3), attempts("missing", 1)...))
	receive(t, b, 4)
	require.Eventually(t, func() bool {
		var wait int
		require.NoError(t, d.db.QueryRow("SELECT @@SESSION.innodb_lock_wait_timeout").Scan(&wait))
		return wait == 33
	}, patience, 10*time.Millisecond)
}

func TestClose_letsADatabaseThatHangsHoldNobody(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		b := d.broker(t, d.via, []string{"orders"}, sqlbroker.WithConfirmTimeout(patience))
		publish(t, b, attempts("orders", 1))
		receive(t, b, 1)
		d.proxy.Stall(faultproxy.Both, true)
		publish(t, b, attempts("orders", 5))
		began := time.Now()
		require.NoError(t, b.Close())
		assert.Less(t, time.Since(began), patience/2)
		for _, confirm := range receive(t, b, 5) {
			assert.Equal(t, reliable.Unknown, confirm.Outcome)
		}
		d.proxy.Stall(faultproxy.Both, false)
	})
}

func TestAdapters_plainWatermillReadsOursAndWeReadTheirs(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		b := d.broker(t, d.db, []string{"orders"})
		schema, offsets, err := sqlbroker.Adapters(d.kind, 10)
		require.NoError(t, err)
		theirs, err := wsql.NewPublisher(d.db, wsql.PublisherConfig{SchemaAdapter: schema}, nil)
		require.NoError(t, err)
		plain, err := wsql.NewSubscriber(d.db, wsql.SubscriberConfig{
			ConsumerGroup: "plain", PollInterval: 10 * time.Millisecond, SchemaAdapter: schema, OffsetsAdapter: offsets,
		}, nil)
		require.NoError(t, err)
		defer func() { require.NoError(t, plain.Close()) }()
		ours, err := b.Subscriber("ours", sqlbroker.WithPollInterval(10*time.Millisecond))
		require.NoError(t, err)
		defer func() { require.NoError(t, ours.Close()) }()

		binary := []byte{0, 1, 0xff, '\'', '\\', '"'}
		first := message.NewMessage("theirs", binary)
		first.Metadata.Set("name", "größer")
		require.NoError(t, theirs.Publish("orders", first))
		require.Equal(t, reliable.Acked, outcome(t, b, reliable.Envelope{
			ID: "ours", Topic: "orders", Key: "k", Payload: binary, Metadata: map[string]string{"name": "größer"},
		}).Outcome)
		for _, sub := range []message.Subscriber{plain, ours} {
			messages, err := sub.Subscribe(within(t), "orders")
			require.NoError(t, err)
			for _, id := range []string{"theirs", "ours"} {
				msg := <-messages
				require.NotNil(t, msg)
				assert.Equal(t, id, msg.UUID)
				assert.Equal(t, binary, []byte(msg.Payload))
				assert.Equal(t, "größer", msg.Metadata.Get("name"))
				msg.Ack()
			}
		}
	})
}
