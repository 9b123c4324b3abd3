package delayedcheck_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

func TestFuncWitness_noCountsOnlyAfterTheAgeLimit(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		there, fails := false, error(nil)
		limited := time.Duration(0)
		witness, err := delayedcheck.NewFuncWitness(
			func(context.Context, reliable.ID) (bool, error) { return there, fails },
			delayedcheck.IdleLimit{Limit: time.Second, Set: func(_ context.Context, _ any, limit time.Duration) error {
				limited = limit
				return nil
			}}, 10*time.Second)
		require.NoError(t, err)
		token, err := witness.Mark(t.Context(), "tx")
		require.NoError(t, err)
		assert.Equal(t, time.Second, limited)

		ask := func() reliable.Fate {
			fate, err := witness.Ask(t.Context(), "order-1", token)
			require.NoError(t, err)
			return fate
		}
		assert.Equal(t, reliable.FateOpen, ask())
		there = true
		assert.Equal(t, reliable.FateCommitted, ask())
		there = false
		time.Sleep(10*time.Second - time.Millisecond)
		assert.Equal(t, reliable.FateOpen, ask())
		time.Sleep(time.Millisecond)
		assert.Equal(t, reliable.FateAborted, ask())
		there = true
		assert.Equal(t, reliable.FateCommitted, ask())

		fails = errors.New("database is away")
		_, err = witness.Ask(t.Context(), "order-1", token)
		require.ErrorIs(t, err, fails)
		for _, foreign := range []reliable.Token{"", "fn1:", "fn1:-7", "fn1:x", "pg1:1"} {
			fate, err := witness.Ask(t.Context(), "order-1", foreign)
			require.NoError(t, err)
			assert.Equal(t, reliable.FateUnknowable, fate, foreign)
		}
	})
}

func TestFuncWitness_transactionThatCannotBeLimitedIsNotMarked(t *testing.T) {
	refused := errors.New("no such variable")
	witness, err := delayedcheck.NewFuncWitness(func(context.Context, reliable.ID) (bool, error) { return false, nil },
		delayedcheck.IdleLimit{Limit: time.Second, Set: func(context.Context, any, time.Duration) error { return refused }}, time.Minute)
	require.NoError(t, err)
	_, err = witness.Mark(t.Context(), "tx")
	require.ErrorIs(t, err, refused)
}

func TestNewFuncWitness_refusesLimitsThatProveNothing(t *testing.T) {
	look := func(context.Context, reliable.ID) (bool, error) { return false, nil }
	for name, err := range map[string]error{
		"no function":   errorOf(delayedcheck.NewFuncWitness(nil, delayedcheck.IdleLimit{Limit: time.Second}, time.Minute)),
		"no idle limit": errorOf(delayedcheck.NewFuncWitness(look, delayedcheck.IdleLimit{}, time.Minute)),
		"too young":     errorOf(delayedcheck.NewFuncWitness(look, delayedcheck.IdleLimit{Limit: time.Minute}, time.Minute)),
	} {
		require.ErrorIs(t, err, reliable.ErrInvalid, name)
	}
}

func errorOf[T any](_ T, err error) error { return err }
