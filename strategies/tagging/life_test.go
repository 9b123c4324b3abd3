package tagging_test

import (
	"context"
	"fmt"
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

func TestDrain_settlesOrGivesBackEverythingUnderLoad(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New(membroker.WithLatency(200*time.Millisecond))
		defer func() { assert.NoError(t, broker.Close()) }()
		p, err := newProcess(store, broker, tagging.WithWindow(10), tagging.WithMemory(100, 1<<20))
		require.NoError(t, err)
		p.start()
		ctx, cancel := context.WithCancel(t.Context())
		var load sync.WaitGroup
		for i := range 20 {
			load.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					_, _ = p.Publish(ctx, envelope(fmt.Sprintf("load-%d-%d", i, n)))
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		stored(t, store, many("orders", "old", 500)...)
		time.Sleep(2 * time.Second)
		require.NoError(t, p.stop())
		cancel()
		load.Wait()
		for _, record := range store.Records() {
			assert.LessOrEqual(t, record.DueIn, time.Duration(0), "%q is still leased by a process that ended in order", record.ID)
			if record.Status == reliable.Pending {
				assert.False(t, record.MayHaveBeenSent)
			}
		}
		confirmed := countStatus(store, "orders")[reliable.Confirmed]
		assert.Len(t, broker.Delivered("orders"), confirmed, "what was handed over is confirmed, the rest was not sent")
	})
}

func TestDrain_doesNotWaitForMoreOutcomes(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New()
		p, err := newProcess(store, broker)
		require.NoError(t, err)
		p.start()
		synctest.Wait()
		began := time.Now()
		_, err = p.Publish(t.Context(), envelope("a"))
		require.NoError(t, err)
		synctest.Wait()
		assert.Equal(t, reliable.Pending, statusOf(t, store, "a"))
		p.cancel()
		require.NoError(t, <-p.done)
		assert.Equal(t, reliable.Confirmed, statusOf(t, store, "a"))
		assert.Equal(t, began, time.Now())
		require.NoError(t, broker.Close())
	})
}

func TestDrain_saysWhenABrokerNeverAnswered(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New(membroker.WithConfirmTimeout(time.Hour/2))
		p, err := newProcess(store, broker, tagging.WithLease(time.Hour), tagging.WithDrainTimeout(5*time.Second))
		require.NoError(t, err)
		p.start()
		synctest.Wait()
		broker.Block()
		_, err = p.Publish(t.Context(), many("orders", "silent", 7)...)
		require.NoError(t, err)
		synctest.Wait()
		began := time.Now()
		err = p.stop()
		require.ErrorIs(t, err, reliable.ErrDrain)
		assert.ErrorContains(t, err, "7 attempts were unconfirmed and 0 outcomes unrecorded")
		assert.Equal(t, 5*time.Second, time.Since(began))

		broker.Unblock()
		p.start() // and it can go on
		receipt, err := p.Publish(t.Context(), envelope("next"))
		require.NoError(t, err)
		_, err = receipt.Wait(t.Context())
		require.NoError(t, err)
		require.NoError(t, p.stop())
		assert.NoError(t, broker.Close())
	})
}

func TestDrain_aSenderThatNeverCommitsDoesNotHoldItForEver(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var hang atomic.Bool
		store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
			return memstore.Fault{HangBefore: op == memstore.OpCommit && hang.Load()}
		}))
		broker := membroker.New()
		defer func() { assert.NoError(t, broker.Close()) }()
		p, err := newProcess(store, broker, tagging.WithDrainTimeout(5*time.Second))
		require.NoError(t, err)
		p.start()
		synctest.Wait()
		hang.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		committed := make(chan error)
		go func() {
			committed <- tagging.InTx(ctx, p, nil, func(_ *memstore.Tx, out *tagging.Scope) error { return out.Send(envelope("a")) })
		}()
		synctest.Wait()
		require.ErrorIs(t, p.stop(), reliable.ErrDrain)
		cancel()
		require.Error(t, <-committed)
		hang.Store(false)
		p.start()
		synctest.Wait()
		require.NoError(t, tagging.InTx(t.Context(), p, nil, func(_ *memstore.Tx, out *tagging.Scope) error { return out.Send(envelope("b")) }))
		require.NoError(t, p.stop(), "no place in memory was lost")
	})
}

func TestRun_oneAtATimeAndAgainAfterwards(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New()
		defer func() { assert.NoError(t, broker.Close()) }()
		p, err := newProcess(store, broker)
		require.NoError(t, err)
		for i := range 3 {
			p.start()
			synctest.Wait()
			assert.True(t, p.Running())
			require.ErrorIs(t, p.Run(t.Context()), reliable.ErrInvalid)
			_, err := p.SweepOnce(t.Context())
			require.ErrorIs(t, err, reliable.ErrInvalid)
			receipt, err := p.Publish(t.Context(), envelope(fmt.Sprint(i)))
			require.NoError(t, err)
			_, err = receipt.Wait(t.Context())
			require.NoError(t, err)
			require.NoError(t, p.stop())
			assert.False(t, p.Running())
		}
	})
}

func TestRun_tablesThatCannotBeUsedEndItAtOnce(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var answer atomic.Pointer[error]
		store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
			if err := answer.Load(); err != nil && op == memstore.OpCheck {
				return memstore.Fault{Before: *err}
			}
			return memstore.Fault{}
		}))
		broker := membroker.New()
		defer func() { assert.NoError(t, broker.Close()) }()
		p, err := newProcess(store, broker)
		require.NoError(t, err)
		schema := fmt.Errorf("version 2, need 3: %w", reliable.ErrSchema)
		answer.Store(&schema)
		require.ErrorIs(t, p.Run(t.Context()), reliable.ErrSchema)
		_, err = p.SweepOnce(t.Context())
		require.ErrorIs(t, err, reliable.ErrSchema)

		answer.Store(&errStore) // that it does not answer is no reason
		p.start()
		synctest.Wait()
		assert.True(t, p.Running())
		require.NoError(t, p.stop())
	})
}

func TestSweepOnce_endsDuringAnOutageAndSendsInTheNextPass(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New()
		defer func() { assert.NoError(t, broker.Close()) }()
		p, err := newProcess(store, broker)
		require.NoError(t, err)
		stored(t, store, many("orders", "message", 3000)...)
		broker.Down()
		began := time.Now()
		report, err := p.SweepOnce(t.Context())
		require.NoError(t, err)
		assert.Less(t, time.Since(began), 10*time.Second)
		assert.Equal(t, report.Claimed, report.Returned)
		broker.Up()
		time.Sleep(time.Second)
		report, err = p.SweepOnce(t.Context())
		require.NoError(t, err)
		assert.Equal(t, tagging.Report{Claimed: 3000, Confirmed: 3000}, report)
	})
}

func TestSweepOnce_endsWhenTheStoreGoesAwayInTheMiddle(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
			if op == memstore.OpSettle {
				return memstore.Fault{Before: errStore}
			}
			return memstore.Fault{}
		}))
		broker := membroker.New()
		defer func() { assert.NoError(t, broker.Close()) }()
		p, err := newProcess(store, broker, tagging.WithDrainTimeout(5*time.Second))
		require.NoError(t, err)
		stored(t, store, envelope("a"))
		began := time.Now()
		_, err = p.SweepOnce(t.Context())
		require.ErrorIs(t, err, reliable.ErrDrain)
		assert.LessOrEqual(t, time.Since(began), 11*time.Second)
	})
}

func TestSweepOnce_isNotProlongedByWhatIsPublishedMeanwhile(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New(membroker.WithLatency(100*time.Millisecond))
		defer func() { assert.NoError(t, broker.Close()) }()
		p, err := newProcess(store, broker)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var load sync.WaitGroup
		load.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				_, _ = p.Publish(ctx, envelope(fmt.Sprint(n)))
				time.Sleep(10 * time.Millisecond)
			}
		})
		time.Sleep(time.Second)
		began := time.Now()
		_, err = p.SweepOnce(t.Context())
		require.NoError(t, err)
		assert.Less(t, time.Since(began), 5*time.Second)
		cancel()
		load.Wait()
	})
}

func TestIdle_aRelayAsksAtMostTwiceASecond(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New()
		p := single(t, store, broker, tagging.WithFailedHandler("orders", noCompensation), tagging.WithHooks(tagging.Hooks{Backlog: func([]reliable.TopicStats) {}}))
		after(time.Minute)
		before := p.line.counted("")
		after(10 * time.Minute)
		assert.LessOrEqual(t, p.line.counted("")-before, 10*60*2)
	})
}

func TestRetention_isTheWorkOfOneProcessAtATime(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New()
		first := single(t, store, broker, tagging.WithRetention(time.Hour))
		second, err := newProcess(store, broker, tagging.WithRetention(time.Hour))
		require.NoError(t, err)
		second.start()
		stored(t, store, many("orders", "message", 2500)...)
		after(59 * time.Minute)
		assert.Len(t, store.Records(), 2500)
		after(3 * time.Minute)
		assert.Empty(t, store.Records())
		assert.Positive(t, first.line.counted("purge"))
		assert.Zero(t, second.line.counted("purge"))

		first.crash()
		after(5 * time.Minute)
		assert.Positive(t, second.line.counted("purge"), "another one takes the office over")
		require.NoError(t, second.stop())
	})
}
