package virtualtime_test

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/waybillmq/waybill/internal/virtualtime"
)

// Under the race detector this ends the process within milliseconds if the bubble's timers fire on two processors.
func TestTest_survivesTimersThatFireAtOnce(t *testing.T) {
	before := runtime.GOMAXPROCS(max(2, runtime.NumCPU()))
	defer runtime.GOMAXPROCS(before)
	virtualtime.Test(t, func(*testing.T) {
		var fired sync.WaitGroup
		for range 4 {
			fired.Go(func() {
				for range 5000 {
					<-time.NewTimer(0).C
				}
			})
		}
		fired.Wait()
	})
	assert.Equal(t, max(2, runtime.NumCPU()), runtime.GOMAXPROCS(0), "the processors are given back")
}

func TestTest_givesTheProcessorsBackWhenTheLastBubbleHasEnded(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	t.Run("bubbles", func(t *testing.T) {
		for _, long := range []time.Duration{time.Second, time.Hour} {
			t.Run(long.String(), func(t *testing.T) {
				t.Parallel()
				virtualtime.Test(t, func(t *testing.T) {
					begun := time.Now()
					time.Sleep(long)
					assert.Equal(t, long, time.Since(begun))
				})
			})
		}
	})
	assert.Equal(t, before, runtime.GOMAXPROCS(0))
}
