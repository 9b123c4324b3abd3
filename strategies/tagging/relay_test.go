package tagging_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// stored puts envelopes into the store, as another process would have.
func stored(t *testing.T, store *memstore.Store, envs ...reliable.Envelope) {
	t.Helper()
	_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envs...)
	require.NoError(t, err)
}

func many(topic, prefix string, n int) (envs []reliable.Envelope) {
	for i := range n {
		envs = append(envs, reliable.Envelope{ID: reliable.ID(fmt.Sprintf("%s-%06d", prefix, i)), Topic: topic})
	}
	return envs
}

func countStatus(store *memstore.Store, topic string) map[reliable.Status]int {
	counts := make(map[reliable.Status]int)
	for _, record := range store.Records() {
		if record.Topic == topic {
			counts[record.Status]++
		}
	}
	return counts
}

func attemptTimes(broker *membroker.Broker, began time.Time, id string) (times []time.Duration) {
	for _, a := range broker.Attempts() {
		if a.ID == reliable.ID(id) {
			times = append(times, a.HandedOver.Sub(began).Round(time.Second))
		}
	}
	return times
}

var sick = membroker.WithScript(func(a membroker.Attempt) membroker.Verdict {
	if strings.HasPrefix(string(a.ID), "nacked") {
		return membroker.Verdict{Act: membroker.Nack}
	}
	if strings.HasPrefix(string(a.ID), "lost") {
		return membroker.Verdict{Act: membroker.LoseMessage}
	}
	return membroker.Verdict{}
})

func TestClassic_sendsOnceAndThriceAgainAfterFiveMinutesThenFails(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New(sick)
		p := single(t, store, broker, tagging.Classic(5*time.Minute, 3))
		began := time.Now()
		for _, id := range []string{"nacked", "lost", "fine"} {
			_, err := p.Publish(t.Context(), envelope(id))
			require.NoError(t, err)
		}
		after(time.Hour)
		five := []time.Duration{0, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute}
		for _, id := range []string{"nacked", "lost"} {
			for i, at := range attemptTimes(broker, began, id) {
				require.Less(t, i, len(five), id)
				assert.InDelta(t, five[i], at, float64(5*time.Second), id)
			}
			assert.Len(t, attemptTimes(broker, began, id), 4, id)
			assert.Equal(t, reliable.Failed, statusOf(t, store, id))
		}
		assert.Len(t, attemptTimes(broker, began, "fine"), 1)
	})
}

func TestClassic_isTheSameWhenCronSweepsFromTwoProcesses(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New(sick)
		defer func() { assert.NoError(t, broker.Close()) }()
		began := time.Now()
		stored(t, store, envelope("nacked"), envelope("lost"), envelope("fine"))
		var cron sync.WaitGroup
		for i := range 2 {
			p, err := newProcess(store, broker, tagging.Classic(5*time.Minute, 3))
			require.NoError(t, err)
			cron.Go(func() {
				time.Sleep(time.Duration(i) * 30 * time.Second)
				for range 40 {
					_, err := p.SweepOnce(context.Background())
					assert.NoError(t, err)
					time.Sleep(time.Minute)
				}
			})
		}
		cron.Wait()
		for _, id := range []string{"nacked", "lost"} {
			assert.Len(t, attemptTimes(broker, began, id), 4, id)
			assert.Equal(t, reliable.Failed, statusOf(t, store, id))
		}
		assert.Equal(t, reliable.Confirmed, statusOf(t, store, "fine"))
		assert.Len(t, broker.Delivered("orders"), 1)
	})
}

func TestHold_failsAThousandTogetherAtTheBudgetWhileOthersGoOn(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New()
		broker.Full(true, "orders")
		var together atomic.Int64
		p := single(t, store, broker, tagging.WithHooks(tagging.Hooks{
			FailedTogether: func(_ string, n int) { together.Add(int64(n)) },
		}))
		stored(t, store, many("orders", "stuck", 1000)...)
		after(29 * time.Minute)
		assert.Equal(t, map[reliable.Status]int{reliable.Pending: 1000}, countStatus(store, "orders"), "the budget is a count and a time")

		began := time.Now()
		for i := range 100 {
			receipt, err := p.Publish(t.Context(), reliable.Envelope{ID: reliable.ID(fmt.Sprint("other-", i)), Topic: "payments"})
			require.NoError(t, err)
			_, err = receipt.Wait(t.Context())
			require.NoError(t, err)
		}
		assert.Less(t, time.Since(began), time.Second, "another topic does not wait")

		after(5 * time.Minute)
		assert.Equal(t, map[reliable.Status]int{reliable.Failed: 1000}, countStatus(store, "orders"))
		assert.Equal(t, int64(1000), together.Load()+int64(failedAlone(store)))
		assert.Less(t, len(broker.Attempts())-100, 1000+2000, "one probe at a time, not the whole backlog again and again")
	})
}

func TestHold_whatFailsTogetherLetsItsKeysGoOnIfAskedTo(t *testing.T) {
	afterwards := func(t *testing.T, opts ...tagging.Option) *memstore.Store {
		store, broker := memstore.New(), membroker.New()
		broker.Full(true, "orders")
		var together atomic.Int64
		single(t, store, broker, append(opts, tagging.WithHooks(tagging.Hooks{
			FailedTogether: func(_ string, n int) { together.Add(int64(n)) },
		}))...)
		stored(t, store, many("orders", "unkeyed", 100)...) // they take the probes
		stored(t, store,
			reliable.Envelope{ID: "head", Topic: "orders", Key: "k"},
			reliable.Envelope{ID: "follower", Topic: "orders", Key: "k"})
		after(40 * time.Minute)
		require.Positive(t, together.Load())
		require.Equal(t, reliable.Failed, statusOf(t, store, "head"))
		require.Equal(t, reliable.Pending, statusOf(t, store, "follower"))
		broker.Full(false, "orders")
		after(15 * time.Minute)
		return store
	}
	virtualtime.Test(t, func(t *testing.T) {
		assert.Equal(t, reliable.Pending, statusOf(t, afterwards(t), "follower"), "it waits for the head's compensation")
	})
	virtualtime.Test(t, func(t *testing.T) {
		store := afterwards(t, tagging.WithKeysGoingOnAfterFailure())
		assert.Equal(t, reliable.Confirmed, statusOf(t, store, "follower"))
	})
}

func failedAlone(store *memstore.Store) (n int) {
	for _, record := range store.Records() {
		if record.Status == reliable.Failed && !failedTogether(&record) {
			n++
		}
	}
	return n
}

func TestHold_theProbesOfTwoRelaysDoNotReleaseIt(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		// Both see that the probe is due before either of them takes it.
		store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
			if op == memstore.OpProbe {
				return memstore.Fault{Delay: 50 * time.Millisecond}
			}
			return memstore.Fault{}
		}))
		broker := membroker.New(membroker.WithLatency(20 * time.Millisecond))
		broker.Full(true, "orders")
		var released atomic.Int64
		hooks := tagging.WithHooks(tagging.Hooks{Released: func(string) { released.Add(1) }})
		poll := tagging.WithPollInterval(20 * time.Millisecond)
		single(t, store, broker, hooks, poll)
		second, err := newProcess(store, broker, hooks, poll)
		require.NoError(t, err)
		second.start()
		stored(t, store, many("orders", "stuck", 500)...)
		after(10 * time.Minute)
		assert.Zero(t, released.Load(), "while the destination refuses, nothing is released")
		probes := len(broker.Attempts())
		assert.Less(t, probes, 500+50, "the fleet shares one probe")

		broker.Full(false, "orders")
		after(2 * time.Minute)
		assert.Equal(t, map[reliable.Status]int{reliable.Confirmed: 500}, countStatus(store, "orders"))
		assert.GreaterOrEqual(t, released.Load(), int64(1))
		assert.Len(t, broker.Delivered("orders"), 500)
		require.NoError(t, second.stop())
	})
}

func TestPoison_isFoundAmongItsNeighboursWhichAllArrive(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		broker := membroker.New(membroker.WithLatency(time.Millisecond), membroker.WithScript(func(a membroker.Attempt) membroker.Verdict {
			if a.ID == "message-000200" {
				return membroker.Verdict{Act: membroker.Poison}
			}
			return membroker.Verdict{}
		}))
		single(t, store, broker)
		stored(t, store, many("orders", "message", 400)...)
		after(time.Minute)
		assert.Equal(t, map[reliable.Status]int{reliable.Confirmed: 399, reliable.Failed: 1}, countStatus(store, "orders"))
		assert.Equal(t, reliable.Failed, statusOf(t, store, "message-000200"))
		copies := make(map[reliable.ID]int)
		for _, d := range broker.Delivered("orders") {
			copies[d.ID]++
		}
		assert.Len(t, copies, 399)
		for id, n := range copies {
			assert.LessOrEqual(t, n, 3, "%q was duplicated more than twice", id)
		}
		deaths := 0
		for _, a := range broker.Attempts() {
			if a.ID == "message-000200" && !a.Alone {
				deaths++
			}
		}
		assert.Equal(t, 2, deaths, "after two deaths it is alone")
	})
}

func TestOutage_ofTheBrokerChargesNothingAndLeavesTheBacklogToTheOthers(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New()
		p := single(t, store, broker, tagging.WithWindow(100), tagging.WithMemory(400, 1<<20))
		broker.Down()
		stored(t, store, many("orders", "waiting", 5000)...)
		_, err := p.Publish(t.Context(), envelope("during"))
		require.NoError(t, err, "storing goes on")
		after(time.Minute)
		claims := p.line.counted("claim")
		after(10 * time.Minute)
		assert.Less(t, p.line.counted("claim")-claims, 10*60*3, "claims are limited")
		leased := 0
		for _, record := range store.Records() {
			if record.DueIn > 5*time.Second {
				leased++
			}
			require.Zero(t, record.Failures)
			require.Equal(t, reliable.Pending, record.Status)
		}
		assert.LessOrEqual(t, leased, 260, "what it cannot send it does not keep from others")
		began := time.Now()
		_, err = p.Publish(t.Context(), many("orders", "later", 1000)...)
		require.NoError(t, err)
		assert.Equal(t, began, time.Now(), "and nobody waits for memory")

		broker.Up()
		after(90 * time.Second)
		assert.Equal(t, map[reliable.Status]int{reliable.Confirmed: 6001}, countStatus(store, "orders"))
		assert.Len(t, broker.Delivered("orders"), 6001, "nothing was sent twice")
	})
}

func TestOutage_ofTheStoreKeepsOutcomesAndRecordsThem(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var away atomic.Bool
		store := memstore.New(memstore.WithFault(func(memstore.Op, []reliable.ID) memstore.Fault {
			if away.Load() {
				return memstore.Fault{Before: errStore}
			}
			return memstore.Fault{}
		}))
		broker := membroker.New(membroker.WithLatency(time.Second))
		p := single(t, store, broker)
		_, err := p.Publish(t.Context(), many("orders", "message", 300)...)
		require.NoError(t, err)
		away.Store(true)
		after(30 * time.Second)
		assert.Len(t, broker.Delivered("orders"), 300)
		assert.Equal(t, map[reliable.Status]int{reliable.Pending: 300}, countStatus(store, "orders"))
		away.Store(false)
		after(3 * time.Second)
		assert.Equal(t, map[reliable.Status]int{reliable.Confirmed: 300}, countStatus(store, "orders"))
		after(10 * time.Minute)
		assert.Len(t, broker.Delivered("orders"), 300, "nothing was sent twice")
	})
}

func TestSettle_whoseAnswerIsLostChargesOnce(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var settles atomic.Int64
		store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
			if op == memstore.OpSettle && settles.Add(1) == 1 {
				return memstore.Fault{After: errStore}
			}
			return memstore.Fault{}
		}))
		broker := membroker.New(sick)
		p := single(t, store, broker, tagging.WithBackoff(time.Hour, time.Hour))
		_, err := p.Publish(t.Context(), envelope("nacked"))
		require.NoError(t, err)
		after(time.Minute)
		record := store.Records()[0]
		assert.Equal(t, 1, record.Failures)
		assert.Len(t, record.History, 1)
		assert.Equal(t, int64(2), settles.Load())
	})
}

func TestLease_anotherProcessTakesOverWithinTwoSecondsOfItsEnd(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New(membroker.WithConfirmTimeout(2*time.Second))
		lease := tagging.WithLease(5 * time.Second)
		first, err := newProcess(store, broker, lease)
		require.NoError(t, err)
		first.start()
		synctest.Wait()
		broker.Block()
		_, err = first.Publish(t.Context(), envelope("a"))
		require.NoError(t, err)
		began := time.Now()
		synctest.Wait()
		first.crash()
		defer func() { _ = <-first.done }()
		broker.Unblock()
		single(t, store, broker, lease)
		after(10 * time.Second)
		times := attemptTimes(broker, began, "a")
		require.Len(t, times, 2)
		assert.LessOrEqual(t, times[1], 7*time.Second)
		assert.Equal(t, reliable.Confirmed, statusOf(t, store, "a"))
	})
}

func TestOrder_ofAKeyIsKeptByTwoRelaysWhileOtherKeysDoNotWait(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		broker := membroker.New(membroker.WithLatency(3*time.Millisecond), membroker.WithScript(func(a membroker.Attempt) membroker.Verdict {
			switch {
			case a.Key == "stuck":
				return membroker.Verdict{Act: membroker.LoseMessage}
			case a.OfID == 1 && strings.HasSuffix(string(a.ID), "3"):
				return membroker.Verdict{Act: membroker.Cut}
			case a.OfID == 1 && strings.HasSuffix(string(a.ID), "7"):
				return membroker.Verdict{Act: membroker.Nack}
			}
			return membroker.Verdict{}
		}))
		single(t, store, broker)
		second, err := newProcess(store, broker)
		require.NoError(t, err)
		second.start()
		var envs []reliable.Envelope
		for i := range 300 {
			envs = append(envs, reliable.Envelope{ID: reliable.ID(fmt.Sprintf("%03d", i)), Topic: "orders", Key: fmt.Sprint("key", i%5)})
		}
		stored(t, store, append(many("orders", "zz", 1), envs...)...)
		stuck := many("orders", "stuck", 50)
		for i := range stuck {
			stuck[i].Key = "stuck"
		}
		stored(t, store, stuck...)
		after(3 * time.Minute)
		last, seen := make(map[string]reliable.ID), make(map[reliable.ID]bool)
		for _, d := range broker.Delivered("orders") {
			if d.Key != "" && !seen[d.ID] {
				assert.Greater(t, d.ID, last[d.Key], "key %s", d.Key)
				last[d.Key], seen[d.ID] = d.ID, true
			}
		}
		assert.Len(t, seen, 300)
		for _, a := range broker.Attempts() {
			if a.Key == "stuck" {
				assert.Equal(t, reliable.ID("stuck-000000"), a.ID, "the rest of a key waits behind its head")
			}
		}
		require.NoError(t, second.stop())
	})
}

// healthyRate returns how many healthy messages a relay delivers in a minute, on a broker and a store that take their time.
func healthyRate(t *testing.T, sickRows func(store *memstore.Store)) (delivered int) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
			if op == memstore.OpClaim || op == memstore.OpSettle {
				return memstore.Fault{Delay: 20 * time.Millisecond}
			}
			return memstore.Fault{}
		}))
		broker := membroker.New(membroker.WithLatency(20*time.Millisecond), sick)
		sickRows(store)
		healthy := many("orders", "healthy", 30_000)
		stored(t, store, healthy...)
		p, err := newProcess(store, broker, tagging.WithWindow(50), tagging.WithMemory(200, 8<<20), tagging.WithoutRetention())
		require.NoError(t, err)
		p.start()
		after(10 * time.Second)
		delivered = len(broker.Delivered("orders"))
		p.crash()
		_ = <-p.done
		assert.NoError(t, broker.Close())
	})
	return delivered
}

func TestIsolation_poisonRowsAndFollowersDoNotSlowTheHealthy(t *testing.T) {
	alone := healthyRate(t, func(*memstore.Store) {})
	require.Greater(t, alone, 1000)
	require.Less(t, alone, 30_000, "the healthy must be what limits")
	for name, rows := range map[string]func(store *memstore.Store){
		"500 that always fail, oldest first": func(store *memstore.Store) {
			stored(t, store, many("sick", "nacked", 250)...)
			stored(t, store, many("orders", "lost", 250)...)
		},
		"100,000 followers of one failing key": func(store *memstore.Store) {
			followers := many("orders", "lost-key", 100_000)
			for i := range followers {
				followers[i].Key = "key"
			}
			stored(t, store, followers...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			assert.GreaterOrEqual(t, healthyRate(t, rows), alone*8/10)
		})
	}
}

func TestPublish_aSteadyLoadDoesNotKeepOldRowsFromBeingSent(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New(membroker.WithLatency(50*time.Millisecond))
		p := single(t, store, broker, tagging.WithWindow(16), tagging.WithMemory(16, 1<<20))
		ctx, cancel := context.WithCancel(t.Context())
		var load sync.WaitGroup
		for i := range 50 {
			load.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					_, _ = p.Publish(ctx, envelope(fmt.Sprintf("load-%d-%d", i, n)))
				}
			})
		}
		time.Sleep(time.Second)
		stored(t, store, envelope("old"))
		time.Sleep(5 * time.Second)
		status := statusOf(t, store, "old")
		cancel()
		load.Wait()
		assert.Equal(t, reliable.Confirmed, status)
	})
}
