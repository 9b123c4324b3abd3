package delayedcheck_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// kept demands that resends kept to a rate at all times; more is how many may come besides the burst.
func kept(t *testing.T, shop *producer, rate float64, burst, more int) {
	t.Helper()
	shop.mu.Lock()
	defer shop.mu.Unlock()
	for i := range shop.all {
		for j := i; j < len(shop.all); j++ {
			if most := float64(burst+more) + rate*shop.all[j].Sub(shop.all[i]).Seconds(); float64(j-i) > most {
				require.Failf(t, "too many resends", "%d to %d, at most %v", i, j, most)
			}
		}
	}
}

// unpaced is a ledger that keeps no pace for a fleet.
type unpaced struct{ *memstore.Store }

// Pace hides the ability.
func (unpaced) Pace() {}

func TestService_aStormIsKeptToTheRateOfTheFleet(t *testing.T) {
	const (
		messages = 300
		every    = 6 * time.Second  // half an hour of messages
		slow     = 50 * time.Minute // ten times the delay
		rate     = 0.1
		burst    = 5
	)
	for _, c := range []struct {
		instances int
		ledger    func(*memstore.Store) reliable.Store
		rate      float64
		bursts    int
	}{
		{1, func(s *memstore.Store) reliable.Store { return s }, rate, 1},
		{4, func(s *memstore.Store) reliable.Store { return s }, rate, 1},
		{1, func(s *memstore.Store) reliable.Store { return unpaced{s} }, rate, 1},
		{2, func(s *memstore.Store) reliable.Store { return unpaced{s} }, 2 * rate, 2}, // each has a rate of its own
	} {
		t.Run(fmt.Sprintf("%d instances, %v a second", c.instances, c.rate), func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				store, shop := memstore.New(), answering(delayedcheck.Resent)
				var all []*delayedcheck.Service
				for range c.instances {
					s := service(t, c.ledger(store), shop, nil, delayedcheck.WithResendRate(rate, burst), delayedcheck.WithMaxRounds(100))
					runService(t, s)
					all = append(all, s)
				}
				for i := range messages {
					time.Sleep(every)
					require.NoError(t, all[i%len(all)].Checks(due(t, messageID(i))))
				}
				time.Sleep(slow - messages*every)
				storm := shop.count()
				for i := range messages {
					time.Sleep(every)
					confirm(t, all[i%len(all)], messageID(i), "billing")
				}
				later(2 * time.Hour)

				kept(t, shop, c.rate, c.bursts*burst, c.instances)
				assert.Greater(t, float64(storm), 0.8*c.rate*slow.Seconds(), "the rate is used while there is something to send")
				var sum delayedcheck.ServiceStats
				for _, s := range all {
					stats := s.Stats()
					sum.RateLimited, sum.Superfluous, sum.Resends = sum.RateLimited+stats.RateLimited, sum.Superfluous+stats.Superfluous, sum.Resends+stats.Resends
				}
				assert.NotZero(t, sum.RateLimited)
				assert.NotZero(t, sum.Superfluous)
				assert.EqualValues(t, shop.count(), sum.Resends)
				assert.Zero(t, standing(store)[reliable.Pending]+standing(store)[reliable.Failed])
				t.Logf("%d resends for %d messages", shop.count(), messages)
			})
		})
	}
}

func TestService_theScheduleOfResendsIsFull(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		const messages, instances, rate = 400, 12, 2.0 // twelve instances have ten requests each under way: two minutes of turns
		store, shop := memstore.New(), answering(delayedcheck.Aborted)
		asked := service(t, store, shop, nil)
		for i := range messages {
			require.NoError(t, asked.Checks(due(t, messageID(i))))
		}
		claims := 0
		for range instances {
			runService(t, service(t, store, shop, nil, delayedcheck.WithResendRate(rate, 1)))
		}
		later(3 * time.Minute)
		assert.Greater(t, shop.count(), 280, "what finds no turn takes none from the others")
		later(2 * time.Minute)
		assert.Equal(t, map[reliable.Status]int{reliable.Confirmed: messages}, standing(store), "and comes to its own in the end")
		kept(t, shop, rate, 1, 1)
		for _, record := range store.Records() {
			claims += record.Attempts
		}
		assert.Less(t, claims, 10*messages, "requests are not claimed again and again meanwhile")
	})
}

func TestService_resendsNothingWhileNobodyKnowsTheRate(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var away atomic.Bool
		store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
			if op == memstore.OpPace && away.Load() {
				return memstore.Fault{Before: errors.New("the ledger is away")}
			}
			return memstore.Fault{}
		}))
		shop := answering(delayedcheck.Aborted)
		s := service(t, store, shop, nil)
		away.Store(true)
		runService(t, s)
		require.NoError(t, s.Checks(due(t, "order-1")))
		later(10 * time.Minute)
		assert.Zero(t, shop.count())
		assert.Equal(t, map[reliable.Status]int{reliable.Pending: 1}, standing(store))
		away.Store(false)
		later(2 * time.Minute)
		assert.Equal(t, 1, shop.count())
	})
}

func TestService_newProcessesBringNoNewBurst(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, shop := memstore.New(), answering(delayedcheck.Aborted)
		asked := service(t, store, shop, nil)
		for i := range 300 {
			require.NoError(t, asked.Checks(due(t, messageID(i))))
		}
		for range 10 {
			stop := runService(t, service(t, store, shop, nil, delayedcheck.WithResendRate(1, 20)))
			later(10 * time.Second)
			stop()
		}
		kept(t, shop, 1, 20, 1)
		assert.Greater(t, shop.count(), 60)
	})
}

func TestService_paceOnSQLite(t *testing.T) {
	t.Parallel()
	pacedOn(t, "sqlite:"+filepath.Join(t.TempDir(), "ledger.db"))
}

// pacedOn has two instances, each with connections of its own, share a rate through a real ledger: the first uses up the
// burst, the second gets none of its own.
func pacedOn(t *testing.T, url string) {
	const messages, rate, burst = 40, 10, 30
	shop := answering(delayedcheck.Aborted)
	paced := func(name string) *delayedcheck.Service {
		return service(t, openLedger(t, url), shop, nil, delayedcheck.WithServiceWorker(name), delayedcheck.WithResendRate(rate, burst),
			delayedcheck.WithPollEvery(50*time.Millisecond), delayedcheck.WithOpenBackoff(100*time.Millisecond, time.Second))
	}
	first, second := paced("first"), paced("second")
	for i := range messages {
		require.NoError(t, first.Checks(due(t, messageID(i))))
	}
	began := time.Now()
	stop := runService(t, first)
	require.Eventually(t, func() bool { return shop.count() >= burst }, time.Minute, time.Millisecond)
	stop()
	runService(t, second)
	require.Eventually(t, func() bool { return shop.count() == messages }, 2*time.Minute, 10*time.Millisecond)
	shop.mu.Lock()
	defer shop.mu.Unlock()
	last := slices.MaxFunc(shop.all, time.Time.Compare)
	assert.Greater(t, last.Sub(began)+50*time.Millisecond, (messages-burst)*time.Second/rate, "two bursts, not one")
}
