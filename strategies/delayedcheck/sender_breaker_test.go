package delayedcheck_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

func TestBreaker_oneTriesForAll(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var tried atomic.Int64
		s := open(t, faults{fallback: true, schedule: func(membroker.Scheduled) membroker.ScheduleVerdict {
			tried.Add(1)
			return membroker.ScheduleVerdict{Delay: time.Hour}
		}}, delayedcheck.WithBreaker(1, time.Second))
		assert.NoError(t, s.place(t.Context(), "first"))
		for round := range 3 {
			time.Sleep(time.Second)
			tried.Store(0)
			var all sync.WaitGroup
			for i := range 10 {
				all.Go(func() { assert.NoError(t, s.place(t.Context(), reliable.ID(fmt.Sprint(round, "-", i)))) })
			}
			all.Wait()
			assert.EqualValues(t, 1, tried.Load())
		}
		assert.EqualValues(t, 1, s.sender.Stats().BreakerOpened, "it was never closed")
	})
}
