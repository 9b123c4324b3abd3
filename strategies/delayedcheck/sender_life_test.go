package delayedcheck_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

func TestInTx_rollsBackWhatIsTooOldToCommit(t *testing.T) {
	for took, committed := range map[time.Duration]bool{150 * time.Second: true, 150*time.Second + time.Millisecond: false} {
		t.Run(took.String(), func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				var told time.Duration
				s := open(t, faults{schedule: func(membroker.Scheduled) membroker.ScheduleVerdict {
					return membroker.ScheduleVerdict{Delay: took} // as for a process that stands still
				}}, delayedcheck.WithCheckTimeout(time.Hour), delayedcheck.WithSenderHooks(delayedcheck.SenderHooks{
					TooOld: func(_ []reliable.Envelope, age time.Duration) { told = age },
				}))
				err := s.place(t.Context(), "order-1")
				assert.Equal(t, committed, s.placed("order-1"))
				if committed {
					require.NoError(t, err)
					return
				}
				require.ErrorIs(t, err, delayedcheck.ErrTooOld)
				assert.Equal(t, took, told)
				assert.EqualValues(t, 1, s.sender.Stats().TooOld)
				untilDue()
				assert.Equal(t, []delayedcheck.Answer{delayedcheck.Aborted}, s.answers())
			})
		})
	}
}

func TestInTx_callerWhoGivesUpSaysNothingAboutTheScheduler(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{fallback: true, schedule: func(membroker.Scheduled) membroker.ScheduleVerdict {
			return membroker.ScheduleVerdict{Delay: time.Hour}
		}}, delayedcheck.WithBreaker(1, time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		err := s.place(ctx, "order-1")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.False(t, s.placed("order-1"))
		assert.False(t, s.sender.Stats().BreakerOpen)
	})
}

func TestInTx_messageThatFindsNoRoomIsLeftToItsCheck(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{broker: func(a membroker.Attempt) membroker.Verdict {
			if a.ID == "order-1" {
				return membroker.Verdict{Delay: 20 * time.Second}
			}
			return membroker.Verdict{}
		}}, delayedcheck.WithWindow(1))
		require.NoError(t, s.place(t.Context(), "order-1"))
		start := time.Now()
		require.NoError(t, s.place(t.Context(), "order-2"))
		assert.Equal(t, time.Second, time.Since(start), "without locks, and not for ever")
		assert.EqualValues(t, 1, s.sender.Stats().LeftToCheck)
		untilDue()
		s.answers()
		assert.Contains(t, s.delivered(), reliable.ID("order-2"))
	})
}

func TestInTx_moreMessagesThanTheWindowHas(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{}, delayedcheck.WithWindow(3))
		err := delayedcheck.InTx(t.Context(), s.sender, nil, func(_ *memstore.Tx, out *delayedcheck.Scope) error {
			for i := range 10 {
				if err := out.Send(order(reliable.ID(fmt.Sprint("order-", i)))); err != nil {
					return err
				}
			}
			return nil
		})
		require.NoError(t, err)
		require.NoError(t, s.place(t.Context(), "last"))
		synctest.Wait()
		assert.Len(t, s.delivered(), 11)
	})
}

func TestInTx_sameIDIsNeverOnItsWayTwice(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{broker: func(membroker.Attempt) membroker.Verdict { return membroker.Verdict{Delay: time.Second} }})
		for range 3 {
			require.NoError(t, s.place(t.Context(), "order-1"))
		}
		time.Sleep(10 * time.Second)
		var handed []time.Time
		for _, record := range s.broker.Attempts() {
			handed = append(handed, record.HandedOver)
		}
		require.Len(t, handed, 3)
		assert.Equal(t, time.Second, handed[1].Sub(handed[0]))
		assert.Equal(t, time.Second, handed[2].Sub(handed[1]))
	})
}

func TestInTx_refusesWhatCannotBeChecked(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{}, delayedcheck.WithTopicGroups("other", "shipping"))
		for name, env := range map[string]reliable.Envelope{
			"no topic": {}, "delay": {Topic: orders, Delay: time.Second}, "deadline": {Topic: orders, Deadline: time.Second},
		} {
			err := delayedcheck.InTx(t.Context(), s.sender, nil, func(_ *memstore.Tx, out *delayedcheck.Scope) error { return out.Send(env) })
			require.ErrorIs(t, err, reliable.ErrInvalid, name)
			require.ErrorIs(t, s.sender.Publish(t.Context(), env), reliable.ErrInvalid, name)
		}
		var left *delayedcheck.Scope
		require.NoError(t, delayedcheck.InTx(t.Context(), s.sender, nil, func(_ *memstore.Tx, out *delayedcheck.Scope) error {
			left = out
			return nil
		}))
		require.ErrorIs(t, left.Send(order("order-1")), reliable.ErrClosed)
		require.ErrorIs(t, left.Nested(func(*delayedcheck.Scope) error { return nil }), reliable.ErrClosed)
		err := delayedcheck.InTx(t.Context(), s.sender, nil, func(_ string, _ *delayedcheck.Scope) error { return nil })
		require.ErrorIs(t, err, reliable.ErrInvalid)
	})
}

func TestInTx_topicWithoutGroupsIsRefused(t *testing.T) {
	broker, store := membroker.New(), memstore.New()
	defer broker.Close()
	sender, err := delayedcheck.NewSender(broker, broker, broker.Scheduler(), delayedcheck.WithTransactions(store),
		delayedcheck.WithWitness(witnessOf(t, store)), delayedcheck.WithTopicGroups("known", "billing"))
	require.NoError(t, err)
	require.ErrorIs(t, sender.Publish(t.Context(), order("order-1")), reliable.ErrInvalid)
}

func witnessOf(t *testing.T, store *memstore.Store) reliable.Witness {
	witness, err := store.MarkerWitness(time.Hour)
	require.NoError(t, err)
	return witness
}

func TestNewSender_reportsAllContradictionsTogether(t *testing.T) {
	broker, store := membroker.New(), memstore.New()
	defer broker.Close()
	_, err := delayedcheck.NewSender(nil, broker, broker.Scheduler())
	require.ErrorIs(t, err, reliable.ErrInvalid)
	_, err = delayedcheck.NewSender(broker, broker, broker.Scheduler(), delayedcheck.WithTransactions(store),
		delayedcheck.WithGroups(), delayedcheck.WithTopicGroups(orders, ""), delayedcheck.WithCheckTopic(""),
		delayedcheck.WithCheckDelay(0), delayedcheck.WithCheckTimeout(0), delayedcheck.WithMaxAge(2),
		delayedcheck.WithBreaker(0, 0), delayedcheck.WithWindow(0), delayedcheck.WithSenderLogger(nil))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, field := range []string{
		"WithGroups", "WithTopicGroups", "WithCheckTopic", "WithCheckDelay", "WithCheckTimeout", "WithMaxAge", "WithBreaker",
		"WithWindow", "WithSenderLogger", "WithWitness",
	} {
		assert.ErrorContains(t, err, field)
	}
	_, err = delayedcheck.NewSender(broker, broker, broker.Scheduler(), delayedcheck.MessageFirst())
	require.ErrorContains(t, err, "WithTransactions")
}

func TestRun_drainsWhatIsUnderWay(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{broker: func(membroker.Attempt) membroker.Verdict { return membroker.Verdict{Delay: 3 * time.Second} }})
		began, goOn, placed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			placed <- delayedcheck.InTx(t.Context(), s.sender, nil, func(tx *memstore.Tx, out *delayedcheck.Scope) error {
				close(began)
				<-goOn
				return errors.Join(tx.Put("order-1", ""), out.Send(order("order-1")))
			})
		}()
		<-began
		stopped := make(chan error, 1)
		go func() { stopped <- s.stop() }()
		synctest.Wait()
		require.ErrorIs(t, s.place(t.Context(), "order-2"), reliable.ErrClosed)
		require.ErrorIs(t, s.sender.Publish(t.Context(), order("order-3")), reliable.ErrClosed)
		close(goOn)
		require.NoError(t, <-placed)
		require.NoError(t, <-stopped)
		assert.Equal(t, []reliable.ID{"order-1"}, s.delivered())
		require.ErrorIs(t, s.sender.Run(t.Context()), reliable.ErrClosed, "once only")
	})
}

func TestRun_leavesToItsCheckWhatIsNotConfirmedInTime(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{broker: func(membroker.Attempt) membroker.Verdict { return membroker.Verdict{Delay: 20 * time.Second} }},
			delayedcheck.WithSenderDrainTimeout(5*time.Second))
		published := make(chan error, 1)
		go func() { published <- s.sender.Publish(t.Context(), order("order-1")) }()
		synctest.Wait()
		start := time.Now()
		require.ErrorIs(t, s.stop(), reliable.ErrDrain)
		assert.Equal(t, 5*time.Second, time.Since(start))
		err := <-published
		require.ErrorIs(t, err, delayedcheck.ErrLeftToCheck)
		require.ErrorIs(t, err, reliable.ErrUnknown)
	})
}

func TestRun_endsWhenThePublisherIsClosed(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{})
		require.NoError(t, s.broker.Close())
		synctest.Wait()
		require.ErrorIs(t, s.stop(), reliable.ErrClosed)
		require.ErrorIs(t, s.place(t.Context(), "order-1"), reliable.ErrClosed)
	})
}
