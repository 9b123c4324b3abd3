package delayedcheck_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

func TestSender_keepsMarkersForAsLongAsACheckMayCome(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		name string
		opt  delayedcheck.SenderOption
		kept time.Duration
	}{
		{"by default", delayedcheck.WithProducerName("shop"), 7 * day},
		{"as configured", delayedcheck.WithMarkerRetention(2 * time.Hour), 2 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				s := open(t, faults{}, c.opt)
				require.NoError(t, s.place(t.Context(), "order-1"))
				time.Sleep(c.kept - 10*time.Minute)
				assert.Zero(t, s.sender.Stats().MarkersPurged)
				assert.Equal(t, []delayedcheck.Answer{delayedcheck.Resent}, s.answers())
				later(20 * time.Minute)
				assert.EqualValues(t, 1, s.sender.Stats().MarkersPurged)
				require.NoError(t, s.stop())
			})
		})
	}
}

func TestSender_deletesNoMarkersWhereSomebodyElseDoes(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{}, delayedcheck.WithoutMarkerRetention())
		require.NoError(t, s.place(t.Context(), "order-1"))
		time.Sleep(30 * 24 * time.Hour)
		assert.Zero(t, s.sender.Stats().MarkersPurged)
		assert.Equal(t, []delayedcheck.Answer{delayedcheck.Resent}, s.answers())
	})
}

func TestSender_oneProcessOfTheFleetDeletesMarkers(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var purges atomic.Int32
		s := open(t, faults{store: func(op memstore.Op) memstore.Fault {
			if op == memstore.OpPurge {
				purges.Add(1)
			}
			return memstore.Fault{}
		}}, delayedcheck.WithMarkerRetention(2*time.Hour))
		for range 3 {
			broker := membroker.New()
			other, err := delayedcheck.NewSender(broker, broker, broker.Scheduler(), delayedcheck.WithGroups("billing"),
				delayedcheck.WithTransactions(s.store), delayedcheck.WithWitness(s.witness), delayedcheck.WithMarkerRetention(2*time.Hour))
			require.NoError(t, err)
			stop := running(other)
			t.Cleanup(func() {
				require.NoError(t, stop())
				require.NoError(t, broker.Close())
			})
		}
		require.NoError(t, s.place(t.Context(), "order-1"))
		later(time.Hour)
		assert.InDelta(t, 60, purges.Load(), 5, "once a minute, whatever the number of processes")
	})
}

func TestNewSender_refusesARetentionThatForgetsTooEarly(t *testing.T) {
	store, broker := memstore.New(), membroker.New()
	t.Cleanup(func() { require.NoError(t, broker.Close()) })
	witness, err := store.MarkerWitness(time.Hour)
	require.NoError(t, err)
	for what, opts := range map[string][]delayedcheck.SenderOption{
		"must exceed the witness's horizon": {delayedcheck.WithWitness(witness), delayedcheck.WithMarkerRetention(time.Hour)},
		"less than the delay":               {delayedcheck.WithWitness(witness), delayedcheck.WithCheckDelay(2 * time.Hour)},
		"needs a witness":                   {delayedcheck.WithWitness(stranger{}), delayedcheck.WithMarkerRetention(time.Hour)},
	} {
		_, err := delayedcheck.NewSender(broker, broker, broker.Scheduler(), append(opts,
			delayedcheck.WithTransactions(store), delayedcheck.WithGroups("billing"))...)
		require.ErrorIs(t, err, reliable.ErrInvalid)
		require.ErrorContains(t, err, what)
	}
}

// stranger is a witness that keeps no rows.
type stranger struct{ reliable.Witness }
