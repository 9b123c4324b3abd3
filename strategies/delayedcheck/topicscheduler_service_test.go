package delayedcheck_test

import (
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

// The check topic of a broker without delays: checks are published at once, and the ledger keeps them.
func TestService_keepsAChecksRequestUntilItIsDue(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		broker := membroker.New()
		defer func() { assert.NoError(t, broker.Close()) }()
		ledger, shop := memstore.New(), answering(delayedcheck.Aborted)
		s := service(t, ledger, shop, nil)
		runService(t, s)
		scheduler := topicScheduler(t, broker.Watermill())
		began := time.Now()
		for _, id := range []reliable.ID{"confirmed before", "confirmed meanwhile", "never confirmed"} {
			check := delayedcheck.Check{
				Message: reliable.Envelope{ID: id, Topic: "orders"}, Groups: []string{"billing"}, Producer: "shop", Round: 1,
			}
			env, err := check.Envelope("waybill.checks")
			require.NoError(t, err)
			require.NoError(t, scheduler.Schedule(t.Context(), 5*time.Minute, env))
		}
		confirm(t, s, "confirmed before", "billing")
		for _, delivery := range broker.Delivered("waybill.checks") {
			require.NoError(t, s.Checks(delivery.Message()))
			require.NoError(t, s.Checks(delivery.Message()), "delivered again")
		}
		assert.Equal(t, 2, standing(ledger)[reliable.Pending])
		later(4 * time.Minute)
		confirm(t, s, "confirmed meanwhile", "billing")
		later(time.Hour)
		assert.Equal(t, 1, shop.count())
		require.Len(t, shop.times("never confirmed"), 1)
		asked := shop.times("never confirmed")[0].Sub(began)
		assert.GreaterOrEqual(t, asked, 5*time.Minute)
		assert.Less(t, asked, 6*time.Minute)

		msg := due(t, "forged")
		msg.Metadata[reliable.HeaderDelay] = "-1h"
		require.ErrorIs(t, s.Checks(msg), reliable.ErrInvalid)
	})
}
