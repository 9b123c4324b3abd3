//go:build services

package faults

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// classicInterval stands for the usual five minutes.
const classicInterval = 700 * time.Millisecond

// requireClassic waits until a message that no queue takes has ended, and looks at what was done for it.
func (r *rig) requireClassic(t *testing.T, id reliable.ID) {
	t.Helper()
	var record reliable.Record
	inspector, ok := reliable.Ability[reliable.Inspector](r.store)
	require.True(t, ok)
	require.Eventually(t, func() bool {
		records, err := inspector.Lookup(context.Background(), id)
		require.NoError(t, err)
		if len(records) == 1 {
			record = records[0]
		}
		return record.Status == reliable.Failed
	}, patience, 20*time.Millisecond)
	assert.Equal(t, 4, record.Attempts, "one send and three resends")
	require.Len(t, record.History, 4)
	for i, entry := range record.History {
		assert.Equal(t, reliable.Returned, entry.Outcome)
		assert.True(t, entry.Charged)
		if i > 0 {
			assert.GreaterOrEqual(t, record.History[i-1].Ago-entry.Ago, classicInterval-20*time.Millisecond, "resends keep their distance")
		}
	}
}

func TestClassic_sendsOnceResendsThreeTimesAndFails(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			amqpURL := testenv.RabbitMQ(t)
			r := newRig(t, rigConfig{
				database: makeDatabase(t), amqpURL: amqpURL, broker: notDeclaring,
				outbox: []tagging.Option{tagging.Classic(classicInterval, 3), tagging.WithPollInterval(50 * time.Millisecond)},
			})
			publishAll(t, r, "nowhere", "m", 1)
			r.requireClassic(t, "m-0")
			assert.Equal(t, 4, r.seen.attempts("nowhere"))
		})
	}
}

func TestClassic_drivenBySinglePassesOfTwoProcessesCountsTheSame(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d, amqpURL := makeDatabase(t), testenv.RabbitMQ(t)
			declare(t, amqpURL, queue, quorum)
			db, store, err := d.open(t.Context())
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, db.Close()) })
			sender, err := tagging.NewSender(store)
			require.NoError(t, err)
			_, err = sender.Publish(t.Context(), reliable.Envelope{ID: "m-0", Topic: "nowhere", Payload: []byte("x")}, order("healthy"))
			require.NoError(t, err)

			for range 2 {
				c := startChild(t, job{Database: d, AMQPURL: amqpURL, Stand: nowhere, Lease: crashLease, Sweep: true})
				c.await("sweeping")
			}
			r := &rig{t: t, db: db, kind: d.kind(), store: store}
			r.requireClassic(t, "m-0")
			r.eventuallySettled()
			assert.Equal(t, map[string]int{"healthy": 1}, consume(t, amqpURL, queue))
		})
	}
}
