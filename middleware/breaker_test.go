package middleware

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/virtualtime"
)

// opened returns a breaker whose time to stay open is over.
func opened() *breaker {
	b := newBreaker(1, time.Minute)
	b.leave("order-1", fails, false)
	time.Sleep(time.Minute)
	return b
}

func TestBreaker_hasOneProbeAtATime(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := opened()
		probe, err := b.enter(t.Context(), time.Now())
		require.NoError(t, err)
		assert.True(t, probe)
		_, err = b.enter(t.Context(), time.Now().Add(time.Hour))
		require.ErrorIs(t, err, errOpen, "somebody else is the probe")

		entered := make(chan error, 1)
		go func() {
			_, err := b.enter(t.Context(), time.Now().Add(time.Hour))
			entered <- err
		}()
		synctest.Wait()
		began := time.Now()
		b.leave("order-2", succeeds, true)
		require.NoError(t, <-entered)
		assert.Zero(t, time.Since(began), "who waits is let through at once")
	})
}

func TestBreaker_isProbedByTheNextWhereOneSaidNothing(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := opened()
		c := &consumer{Preset: &Preset{}, breaker: b, throttle: &throttle{every: time.Hour, next: time.Now().Add(time.Hour)}}
		_, err := c.attempt(&delivery{msg: message.NewMessage("order-2", nil), ctx: t.Context(), until: time.Now().Add(time.Second)})
		require.ErrorIs(t, err, errThrottled)
		probe, err := b.enter(t.Context(), time.Now())
		require.NoError(t, err)
		assert.True(t, probe)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = b.enter(ctx, time.Now().Add(time.Hour))
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}
