//go:build services

package sqlbroker_test

import (
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/reliable"
)

// TestScheduler_aDeadlockPostponesNothing has a mover and another transaction wait for each other, so that the server ends the
// mover's. That says nothing of the topic, whose next try is an hour away.
func TestScheduler_aDeadlockPostponesNothing(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		topic := topicName("checks")
		d.broker(t, d.db, []string{topic})
		s := d.mover(t, d.db, sqlbroker.WithMovers(1), sqlbroker.WithTopicRetryInterval(time.Hour))

		other, err := d.db.BeginTx(within(t), nil)
		require.NoError(t, err)
		defer func() { _ = other.Rollback() }()
		statements := []string{
			"SET LOCAL deadlock_timeout = '1min'", // so that the mover finds out first, and is the one that is ended
			"LOCK TABLE " + d.quoted("watermill_"+topic) + " IN EXCLUSIVE MODE",
		}
		if d.kind == sqlbroker.MySQL {
			statements = []string{"SELECT consumer_group FROM " + d.quoted("watermill_offsets_"+topic) + " FOR UPDATE"}
			for i := range 100 { // the one that has written least is ended
				statements = append(statements, fmt.Sprintf(
					"INSERT INTO %s (uuid, payload, metadata) VALUES ('%d', '', '{}')", d.quoted("watermill_"+topic), i))
			}
		}
		for _, statement := range statements {
			_, err := other.ExecContext(within(t), statement)
			require.NoError(t, err)
		}

		require.NoError(t, s.Schedule(within(t), 0, reliable.Envelope{ID: "due", Topic: topic}))
		delayed := d.quoted("watermill_waybill_delayed")
		require.Eventually(t, func() bool {
			var free int
			err := d.db.QueryRowContext(within(t), "SELECT 1 FROM "+delayed+" FOR UPDATE SKIP LOCKED").Scan(&free)
			return errors.Is(err, sql.ErrNoRows)
		}, patience, 10*time.Millisecond, "the mover does not take what is due")
		_, err = other.ExecContext(within(t), "SELECT 1 FROM "+delayed+" FOR UPDATE")
		require.NoError(t, err, "the mover's transaction was to be ended, not this one")
		require.NoError(t, other.Rollback())
		require.Eventually(t, func() bool { return d.stored(t, topic)["due"] == 1 }, patience, 20*time.Millisecond)
	})
}
