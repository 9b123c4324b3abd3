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

func TestDirect_sendsWhatTheCheckCarriesIfTheWitnessSaysSo(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		business, ledger, broker := memstore.New(), memstore.New(), membroker.New()
		witness, err := business.MarkerWitness(24 * time.Hour)
		require.NoError(t, err)
		resender, err := delayedcheck.Direct(broker.Watermill(), witness)
		require.NoError(t, err)
		s := service(t, ledger, resender, nil)
		runService(t, s)

		mark := func(end func(tx reliable.Tx)) func(*delayedcheck.Check) {
			tx, err := business.Begin(t.Context(), nil)
			require.NoError(t, err)
			token, err := witness.Mark(t.Context(), tx.Native())
			require.NoError(t, err)
			end(tx)
			return func(c *delayedcheck.Check) { c.Token = token }
		}
		committed := mark(func(tx reliable.Tx) { require.NoError(t, tx.Commit(t.Context())) })
		aborted := mark(func(tx reliable.Tx) { require.NoError(t, tx.Rollback(t.Context())) })
		require.NoError(t, s.Checks(due(t, "committed", committed)))
		require.NoError(t, s.Checks(due(t, "aborted", aborted)))
		require.NoError(t, s.Checks(due(t, "unknowable", func(c *delayedcheck.Check) { c.Token = "nobody's" })))
		later(time.Minute)

		var sent []reliable.ID
		for _, a := range broker.Attempts() {
			sent = append(sent, a.ID)
		}
		assert.Equal(t, []reliable.ID{"committed"}, sent)
		assert.EqualValues(t, 1, s.Stats().Dropped)
		assert.EqualValues(t, 1, s.Stats().Failed)
		confirm(t, s, "committed", "billing")
		later(10 * time.Minute)
		require.NoError(t, broker.Close())
	})
}

func TestDirect_needsAWitness(t *testing.T) {
	broker := membroker.New()
	_, err := delayedcheck.Direct(broker.Watermill(), nil)
	require.ErrorIs(t, err, reliable.ErrInvalid)
	require.NoError(t, broker.Close())
}

func TestService_sendsTheUnknowableIfTold(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		broker := membroker.New()
		s := service(t, memstore.New(), answering(delayedcheck.Unknowable), nil,
			delayedcheck.WithUnknowableSent(broker.Watermill()))
		runService(t, s)
		require.NoError(t, s.Checks(due(t, "order-1")))
		later(time.Minute)
		require.Len(t, broker.Attempts(), 1)
		assert.Equal(t, reliable.ID("order-1"), broker.Attempts()[0].ID)
		assert.EqualValues(t, 1, s.Stats().Resends)
		confirm(t, s, "order-1", "billing")
		later(10 * time.Minute)
		require.NoError(t, broker.Close())
	})
}
