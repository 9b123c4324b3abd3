package delayedcheck_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// process is one process's way to a shared ledger; cutting it is what the death of the process looks like from outside.
type process struct {
	*memstore.Store
	dead atomic.Bool
}

func (p *process) Claim(ctx context.Context, req reliable.ClaimRequest) ([]reliable.Attempt, error) {
	if p.dead.Load() {
		return nil, io.ErrClosedPipe
	}
	return p.Store.Claim(ctx, req)
}

func (p *process) Settle(ctx context.Context, ss ...reliable.Settlement) ([]reliable.SettleResult, error) {
	if p.dead.Load() {
		return nil, io.ErrClosedPipe
	}
	return p.Store.Settle(ctx, ss...)
}

func (p *process) Enqueue(ctx context.Context, req reliable.EnqueueRequest, envs ...reliable.Envelope) ([]reliable.Stored, error) {
	if p.dead.Load() {
		return nil, io.ErrClosedPipe
	}
	return p.Store.Enqueue(ctx, req, envs...)
}

// dies runs a service on a process until kill is called.
func dies(s *delayedcheck.Service, p *process) (kill func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx) // a dead process drains nothing
	}()
	return func() {
		p.dead.Store(true)
		cancel()
		<-done
	}
}

func TestService_anotherProcessGoesOnWithWhatADeadOneLeft(t *testing.T) {
	for _, c := range []struct {
		name string
		// during is whether the process dies while the producer is being asked, which has taken effect; else before that.
		during bool
	}{{"dead after it stored the request", false}, {"dead during the resend", true}} {
		t.Run(c.name, func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				store := memstore.New()
				asked := make(chan struct{}, 1)
				shop := &producer{answer: func(ctx context.Context, _ *delayedcheck.Check, nth int) (delayedcheck.Answer, error) {
					if nth == 1 && c.during {
						asked <- struct{}{}
						<-ctx.Done()
						return 0, ctx.Err()
					}
					return delayedcheck.Resent, nil
				}}
				first := &process{Store: store}
				s1 := service(t, first, shop, nil, delayedcheck.WithServiceDrainTimeout(0), delayedcheck.WithResendTimeout(30*time.Second))
				require.NoError(t, s1.Checks(due(t, "order-1")))
				if c.during {
					kill := dies(s1, first)
					<-asked
					kill()
				}
				s2 := service(t, store, shop, nil)
				runService(t, s2)
				later(4*time.Minute + 30*time.Second) // more than the lease, less than the next round
				assert.EqualValues(t, 1, s2.Stats().Resends)
				assert.Equal(t, map[reliable.Status]int{reliable.Confirmed: 1, reliable.Pending: 1}, standing(store), "one next check")
				confirm(t, s2, "order-1", "billing")
				later(time.Hour)
				assert.Equal(t, map[reliable.Status]int{reliable.Confirmed: 2}, standing(store))
			})
		})
	}
}

func TestService_whatWasDoneAndNotRecordedMakesNoSecondCheck(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var lost atomic.Int32
		store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
			if op == memstore.OpEnqueue && lost.Add(1) <= 3 {
				return memstore.Fault{After: errors.New("the answer is lost")}
			}
			return memstore.Fault{}
		}))
		shop := answering(delayedcheck.Resent)
		s := service(t, store, shop, nil)
		check := due(t, "order-1")
		require.Error(t, s.Checks(check), "it must not be acked: nobody knows that it was stored")
		require.Error(t, s.Checks(check))
		runService(t, s)
		later(2 * time.Second)
		require.NoError(t, s.Checks(check))
		later(2 * time.Minute)
		assert.Equal(t, map[reliable.Status]int{reliable.Confirmed: 1, reliable.Pending: 1}, standing(store),
			"the request, and the one check that follows it")
		assert.Equal(t, 2, shop.count(), "the end of the first resend could not be recorded")
	})
}

func TestService_seesAConfirmThatAnotherInstanceStores(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		other := service(t, store, answering(delayedcheck.Resent), nil)
		shop := &producer{answer: func(context.Context, *delayedcheck.Check, int) (delayedcheck.Answer, error) {
			confirm(t, other, "during", "billing")
			return delayedcheck.Resent, nil
		}}
		decides := service(t, store, shop, nil)
		require.NoError(t, decides.Checks(due(t, "before")))
		require.NoError(t, decides.Checks(due(t, "during")))
		confirm(t, other, "before", "billing") // after the decision, before the resend
		runService(t, decides)
		later(time.Hour)
		assert.Empty(t, shop.times("before"))
		assert.Len(t, shop.times("during"), 1, "it was asked for already")
		assert.EqualValues(t, 2, decides.Stats().Superfluous, "the request of one, the next check of the other")
	})
}

func TestService_theLedgerKeepsWhatTheSchedulerDoesNotTake(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, shop := memstore.New(), answering(delayedcheck.Resent)
		s := service(t, store, shop, &hop{broken: errors.New("the broker is away")})
		runService(t, s)
		require.NoError(t, s.Checks(due(t, "order-1")))
		later(7 * time.Minute)
		assert.Len(t, shop.times("order-1"), 2)
	})
}

func TestService_aProducerThatHangsKeepsNoOther(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		market := answering(delayedcheck.Aborted)
		hangs := &producer{answer: func(ctx context.Context, _ *delayedcheck.Check, _ int) (delayedcheck.Answer, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}}
		s := service(t, store, nil, nil, delayedcheck.WithResender("shop", hangs), delayedcheck.WithResender("market", market),
			delayedcheck.WithPollEvery(time.Second))
		runService(t, s)
		for i := range 500 {
			require.NoError(t, s.Checks(due(t, "hanging-"+messageID(i))))
		}
		later(30 * time.Second) // three did not answer: it is held
		began := time.Now()
		for i := range 100 {
			require.NoError(t, s.Checks(due(t, messageID(i), func(c *delayedcheck.Check) { c.Producer = "market" })))
		}
		later(10 * time.Second)
		assert.Equal(t, 100, market.count())
		later(10 * time.Minute)
		asked := 0
		for i := range 500 {
			for _, at := range hangs.times("hanging-" + messageID(i)) {
				if at.After(began) {
					asked++
				}
			}
		}
		assert.Less(t, asked, 50, "one probe at a time, not everything again and again")
		assert.Equal(t, 500, standing(store)[reliable.Pending], "an outage fails nothing")
	})
}

func TestService_neverFailsAnEnvelopeThatIsNoRequest(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		s := service(t, store, answering(delayedcheck.Resent), nil,
			delayedcheck.WithPollEvery(5*time.Minute), delayedcheck.WithOpenBackoff(time.Minute, time.Hour))
		runService(t, s)
		_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, reliable.Envelope{ID: "stray", Topic: "orders", Payload: []byte("{}")})
		require.NoError(t, err)
		later(48 * time.Hour)
		assert.Equal(t, map[reliable.Status]int{reliable.Pending: 1}, standing(store))
	})
}

func TestService_compensatesWhatNoConfirmHasComeFor(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		var mu sync.Mutex
		var compensated []reliable.ID
		s := service(t, store, answering(delayedcheck.Unknowable), nil,
			delayedcheck.WithFailedRequest("shop", func(_ context.Context, check delayedcheck.Check, _ *reliable.Record) error {
				mu.Lock()
				defer mu.Unlock()
				compensated = append(compensated, check.Message.ID)
				return nil
			}))
		runService(t, s)
		require.NoError(t, s.Checks(due(t, "order-1")))
		later(time.Minute)
		assert.Equal(t, []reliable.ID{"order-1"}, compensated)
		assert.Equal(t, map[reliable.Status]int{reliable.Compensated: 1}, standing(store))
	})
}

func TestService_doesNotCompensateWhatIsConfirmed(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		s := (*delayedcheck.Service)(nil)
		shop := &producer{answer: func(context.Context, *delayedcheck.Check, int) (delayedcheck.Answer, error) {
			confirm(t, s, "order-1", "billing") // while the witness is asked
			return delayedcheck.Unknowable, nil
		}}
		s = service(t, store, shop, nil, delayedcheck.WithFailedRequest("shop",
			func(context.Context, delayedcheck.Check, *reliable.Record) error {
				assert.Fail(t, "it was processed")
				return nil
			}))
		runService(t, s)
		require.NoError(t, s.Checks(due(t, "order-1")))
		later(10 * time.Minute)
		assert.Zero(t, standing(store)[reliable.Pending]+standing(store)[reliable.Failed])
		assert.EqualValues(t, 1, s.Stats().NotCompensated+s.Stats().Late)
	})
}

func TestService_deletesConfirmsOnlyWhenNoCheckCanAskForThem(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		s := service(t, store, answering(delayedcheck.Resent), nil, delayedcheck.WithConfirmRetention(25*time.Hour),
			delayedcheck.WithPollEvery(5*time.Minute))
		runService(t, s)
		confirm(t, s, "order-1", "billing")
		later(25*time.Hour - time.Minute)
		confirmed, err := store.ProcessedBy(t.Context(), "order-1")
		require.NoError(t, err)
		assert.NotEmpty(t, confirmed)
		later(10 * time.Minute)
		confirmed, err = store.ProcessedBy(t.Context(), "order-1")
		require.NoError(t, err)
		assert.Empty(t, confirmed)
		assert.EqualValues(t, 1, s.Stats().Purged)
	})
}

func TestNewService_reportsAllThatIsWrong(t *testing.T) {
	_, err := delayedcheck.NewService(nil, nil, nil, delayedcheck.WithConfirmRetention(time.Hour), delayedcheck.WithResendRate(0, 0),
		delayedcheck.WithMaxRounds(-1), delayedcheck.WithResender("", nil), delayedcheck.WithNextCheck("", 0))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, what := range []string{"ledger", "resender", "WithConfirmRetention", "WithResendRate", "WithMaxRounds", "WithResender", "WithNextCheck"} {
		assert.ErrorContains(t, err, what)
	}
	_, err = delayedcheck.NewService(memstore.New(), answering(delayedcheck.Resent), nil,
		delayedcheck.WithNextCheck("checks", 24*time.Hour), delayedcheck.WithConfirmRetention(6*24*time.Hour))
	require.ErrorContains(t, err, "at least 168h", "a day for the check, one for the outage, five rounds")
}

func TestService_sharesStatementsAmongCallers(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var stored, lookedUp atomic.Int32
		store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
			switch op {
			case memstore.OpStoreProcessed:
				stored.Add(1)
			case memstore.OpProcessedBy:
				lookedUp.Add(1)
			default:
				return memstore.Fault{}
			}
			return memstore.Fault{Delay: 10 * time.Millisecond}
		}))
		s := service(t, store, answering(delayedcheck.Resent), nil)
		var callers sync.WaitGroup
		for i := range 2500 {
			callers.Go(func() { confirm(t, s, messageID(i), "billing") })
		}
		callers.Wait()
		for i := range 2500 {
			callers.Go(func() { assert.NoError(t, s.Checks(due(t, messageID(i)))) })
		}
		callers.Wait()
		assert.LessOrEqual(t, stored.Load(), int32(10))
		assert.LessOrEqual(t, lookedUp.Load(), int32(10))
		assert.Empty(t, store.Records())
		assert.EqualValues(t, 2500, s.Stats().Confirms)
		assert.EqualValues(t, 2500, s.Stats().Checks)
	})
}

func TestService_runsOnceAtATime(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := service(t, memstore.New(), answering(delayedcheck.Resent), nil)
		stop := runService(t, s)
		synctest.Wait()
		require.True(t, s.Running())
		require.ErrorIs(t, s.Run(t.Context()), reliable.ErrInvalid)
		stop()
		require.False(t, s.Running())
		runService(t, s)
		later(time.Second)
		require.True(t, s.Running())
	})
}
