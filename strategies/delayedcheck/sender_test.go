package delayedcheck_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
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
	"github.com/waybillmq/waybill/strategies/tagging"
)

const orders = "orders.placed"

// shop is a producer with its database, its broker and what the checks come to.
type shop struct {
	t       *testing.T
	store   *memstore.Store
	broker  *membroker.Broker
	witness reliable.Witness
	sender  *delayedcheck.Sender
	stop    func() error
}

// faults are what a test has happen; nil is health.
type faults struct {
	store    func(op memstore.Op) memstore.Fault
	broker   func(a membroker.Attempt) membroker.Verdict
	schedule func(s membroker.Scheduled) membroker.ScheduleVerdict
	fallback bool // to an outbox in the same store

	topicChecks bool // instead of a scheduler
}

// open makes a shop inside a synctest bubble and runs its sender.
func open(t *testing.T, f faults, opts ...delayedcheck.SenderOption) *shop {
	t.Helper()
	s := &shop{t: t}
	var storeOptions []memstore.Option
	if f.store != nil {
		storeOptions = append(storeOptions, memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault { return f.store(op) }))
	}
	s.store = memstore.New(storeOptions...)
	var brokerOptions []membroker.Option
	if f.broker != nil {
		brokerOptions = append(brokerOptions, membroker.WithScript(f.broker))
	}
	s.broker = membroker.New(brokerOptions...)
	t.Cleanup(func() { require.NoError(t, s.broker.Close()) })
	var scheduleOptions []membroker.SchedulerOption
	if f.schedule != nil {
		scheduleOptions = append(scheduleOptions, membroker.WithScheduleScript(f.schedule))
	}
	if f.fallback {
		outbox, err := tagging.NewSender(s.store)
		require.NoError(t, err)
		opts = append(opts, delayedcheck.WithFallback(outbox))
	}
	var scheduler reliable.Scheduler
	if f.topicChecks {
		opts = append(opts, delayedcheck.WithTopicChecks())
	} else {
		scheduler = s.broker.Scheduler(scheduleOptions...)
	}
	var err error
	s.witness, err = s.store.MarkerWitness(time.Hour)
	require.NoError(t, err)
	s.sender, err = delayedcheck.NewSender(s.broker, s.broker, scheduler, append([]delayedcheck.SenderOption{
		delayedcheck.WithTransactions(s.store), delayedcheck.WithWitness(s.witness), delayedcheck.WithGroups("billing"),
		delayedcheck.WithSenderLogger(slog.New(slog.DiscardHandler)),
	}, opts...)...)
	require.NoError(t, err)
	s.stop = running(s.sender)
	t.Cleanup(func() { _ = s.stop() })
	return s
}

// running runs a sender until the function that it returns is called, which returns what Run did.
func running(sender *delayedcheck.Sender) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- sender.Run(ctx) }()
	return sync.OnceValue(func() error { cancel(); return <-ran })
}

// place writes an order and sends its message.
func (s *shop) place(ctx context.Context, id reliable.ID) error {
	return delayedcheck.InTx(ctx, s.sender, nil, func(tx *memstore.Tx, out *delayedcheck.Scope) error {
		if err := tx.Put(string(id), "placed"); err != nil {
			return err
		}
		return out.Send(order(id))
	})
}

func order(id reliable.ID) reliable.Envelope {
	return reliable.Envelope{ID: id, Topic: orders, Payload: []byte("of " + id)}
}

func (s *shop) placed(id reliable.ID) bool {
	_, ok := s.store.Business(string(id))
	return ok
}

// delivered are the ids of the messages that the broker has, with their copies.
func (s *shop) delivered() []reliable.ID {
	var ids []reliable.ID
	for _, delivery := range s.broker.Delivered(orders) {
		ids = append(ids, delivery.ID)
	}
	return ids
}

// checks are those that have come due.
func (s *shop) checks() []delayedcheck.Check {
	var checks []delayedcheck.Check
	for _, delivery := range s.broker.Delivered(delayedcheck.DefaultCheckTopic) {
		check, err := delayedcheck.CheckOf(delivery.Envelope.Message())
		require.NoError(s.t, err)
		checks = append(checks, check)
	}
	return checks
}

// answers has every check that has come due answered, as a callback service without a confirm does.
func (s *shop) answers() []delayedcheck.Answer {
	var answers []delayedcheck.Answer
	for _, check := range s.checks() {
		answer, err := s.sender.Resend(s.t.Context(), check)
		require.NoError(s.t, err)
		answers = append(answers, answer)
	}
	return answers
}

func untilDue() {
	time.Sleep(5*time.Minute + time.Second)
	synctest.Wait()
}

func TestInTx_sendsAndLeavesACheck(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{}, delayedcheck.WithProducerName("shop"), delayedcheck.WithTopicGroups(orders, "billing", "shipping"))
		require.NoError(t, s.place(t.Context(), "order-1"))
		synctest.Wait()
		assert.Equal(t, []reliable.ID{"order-1"}, s.delivered())
		assert.Empty(t, s.checks(), "before their time")

		untilDue()
		require.Len(t, s.checks(), 1)
		check := s.checks()[0]
		assert.Equal(t, order("order-1"), check.Message)
		assert.Equal(t, []string{"billing", "shipping"}, check.Groups)
		assert.Equal(t, "shop", check.Producer)
		assert.Equal(t, 1, check.Round)
		assert.NotEmpty(t, check.Token)
		assert.False(t, check.Committed)

		assert.Equal(t, []delayedcheck.Answer{delayedcheck.Resent}, s.answers())
		assert.Equal(t, []reliable.ID{"order-1", "order-1"}, s.delivered())
		stats := s.sender.Stats()
		assert.EqualValues(t, 1, stats.Checks)
		assert.EqualValues(t, 2, stats.Acked)
		assert.EqualValues(t, 1, stats.Resent)
	})
}

func TestInTx_checksAreDurableBeforeCommit(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var scheduledAt, committedAt time.Time
		s := open(t, faults{
			schedule: func(membroker.Scheduled) membroker.ScheduleVerdict {
				scheduledAt = time.Now()
				return membroker.ScheduleVerdict{Delay: 10 * time.Millisecond}
			},
			store: func(op memstore.Op) memstore.Fault {
				if op == memstore.OpCommit {
					committedAt = time.Now()
				}
				return memstore.Fault{}
			},
		})
		require.NoError(t, s.place(t.Context(), "order-1"))
		assert.Equal(t, 10*time.Millisecond, committedAt.Sub(scheduledAt))
	})
}

func TestInTx_rolledBackSendsAndSchedulesNothing(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{})
		declined := errors.New("card declined")
		err := delayedcheck.InTx(t.Context(), s.sender, nil, func(_ *memstore.Tx, out *delayedcheck.Scope) error {
			return errors.Join(out.Send(order("order-1")), declined)
		})
		require.ErrorIs(t, err, declined)
		assert.Panics(t, func() {
			_ = delayedcheck.InTx(t.Context(), s.sender, nil, func(_ *memstore.Tx, out *delayedcheck.Scope) error {
				_ = out.Send(order("order-2"))
				panic("bug")
			})
		})
		untilDue()
		assert.Empty(t, s.delivered())
		assert.Empty(t, s.checks())
	})
}

func TestInTx_nestedScopeTakesItsMessagesBack(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{})
		err := delayedcheck.InTx(t.Context(), s.sender, nil, func(tx *memstore.Tx, out *delayedcheck.Scope) error {
			_ = out.Nested(func(out *delayedcheck.Scope) error {
				return errors.Join(tx.Put("voucher", "used"), out.Send(order("voucher")), errors.New("expired"))
			})
			return errors.Join(
				out.Nested(func(out *delayedcheck.Scope) error { return out.Send(order("gift")) }),
				out.Publisher().Publish(orders, (&reliable.Envelope{ID: "order-1"}).Message()))
		})
		require.NoError(t, err)
		untilDue()
		assert.False(t, s.placed("voucher"))
		assert.Equal(t, []reliable.ID{"gift", "order-1"}, s.delivered())
		require.Len(t, s.checks(), 2)
		assert.Equal(t, s.checks()[0].Token, s.checks()[1].Token, "one transaction, one mark")
	})
}

func TestInTx_cutCommitIsDecidedByTheCheck(t *testing.T) {
	for name, fault := range map[string]struct {
		fault  memstore.Fault
		err    error
		answer delayedcheck.Answer
		copies int
	}{
		"committed":     {memstore.Fault{After: errors.New("cut")}, reliable.ErrUnknown, delayedcheck.Resent, 1},
		"not committed": {memstore.Fault{Before: errors.New("refused")}, reliable.ErrNotStored, delayedcheck.Aborted, 0},
	} {
		t.Run(name, func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				s := open(t, faults{store: func(op memstore.Op) memstore.Fault {
					if op == memstore.OpCommit {
						return fault.fault
					}
					return memstore.Fault{}
				}})
				require.ErrorIs(t, s.place(t.Context(), "order-1"), fault.err)
				synctest.Wait()
				assert.Empty(t, s.delivered(), "nobody knows yet")
				untilDue()
				assert.Equal(t, []delayedcheck.Answer{fault.answer}, s.answers())
				assert.Len(t, s.delivered(), fault.copies)
			})
		})
	}
}

func TestInTx_openTransactionIsAskedAboutAgain(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{store: func(op memstore.Op) memstore.Fault {
			if op == memstore.OpCommit {
				return memstore.Fault{Delay: 10 * time.Minute} // a process that is paused between check and COMMIT
			}
			return memstore.Fault{}
		}})
		done := make(chan error, 1)
		go func() { done <- s.place(t.Context(), "order-1") }()
		untilDue()
		assert.Equal(t, []delayedcheck.Answer{delayedcheck.StillOpen}, s.answers())
		assert.Empty(t, s.delivered())
		require.NoError(t, <-done)
		synctest.Wait()
		assert.Equal(t, []reliable.ID{"order-1"}, s.delivered())
	})
}

func TestInTx_unconfirmedMessageIsNoErrorAndHasItsCheck(t *testing.T) {
	for _, act := range []membroker.Act{
		membroker.Nack, membroker.Return, membroker.LoseMessage, membroker.LoseConfirm, membroker.CutBefore, membroker.Lie,
	} {
		t.Run(act.String(), func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				s := open(t, faults{broker: func(a membroker.Attempt) membroker.Verdict {
					if a.OfID == 1 {
						return membroker.Verdict{Act: act}
					}
					return membroker.Verdict{}
				}})
				require.NoError(t, s.place(t.Context(), "order-1"))
				untilDue()
				assert.Equal(t, []delayedcheck.Answer{delayedcheck.Resent}, s.answers())
				assert.Contains(t, s.delivered(), reliable.ID("order-1"))
			})
		})
	}
}

func TestInTx_uncheckedTransactionDoesNotCommit(t *testing.T) {
	for _, act := range []membroker.Act{membroker.Nack, membroker.Refuse, membroker.LoseMessage, membroker.LoseConfirm, membroker.Reject} {
		t.Run(act.String(), func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				s := open(t, faults{schedule: func(membroker.Scheduled) membroker.ScheduleVerdict {
					return membroker.ScheduleVerdict{Act: act}
				}})
				err := s.place(t.Context(), "order-1")
				require.ErrorIs(t, err, delayedcheck.ErrNotChecked)
				assert.False(t, s.placed("order-1"))
				untilDue()
				for _, answer := range s.answers() { // the check may have left all the same
					assert.Equal(t, delayedcheck.Aborted, answer)
				}
				assert.Empty(t, s.delivered())
				assert.EqualValues(t, 1, s.sender.Stats().ChecksFailed)
			})
		})
	}
}

func TestInTx_fallsBackToTheOutboxWhileChecksAreNotConfirmed(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		sick := true
		s := open(t, faults{schedule: func(membroker.Scheduled) membroker.ScheduleVerdict {
			if sick {
				return membroker.ScheduleVerdict{Delay: time.Hour}
			}
			return membroker.ScheduleVerdict{}
		}, fallback: true}, delayedcheck.WithBreaker(2, time.Second))

		took := func(id reliable.ID) time.Duration {
			start := time.Now()
			require.NoError(t, s.place(t.Context(), id))
			return time.Since(start)
		}
		assert.Equal(t, 50*time.Millisecond, took("order-1"))
		assert.Equal(t, 50*time.Millisecond, took("order-2"))
		assert.True(t, s.sender.Stats().BreakerOpen)
		assert.Zero(t, took("order-3"), "nobody waits while the breaker is open")

		time.Sleep(time.Second)
		assert.Equal(t, 50*time.Millisecond, took("order-4"), "one tries again")
		assert.Zero(t, took("order-5"))

		sick = false
		time.Sleep(time.Second)
		assert.Zero(t, took("order-6"))
		assert.Zero(t, took("order-7"))
		synctest.Wait()
		assert.Equal(t, []reliable.ID{"order-6", "order-7"}, s.delivered())
		records, err := s.store.Lookup(t.Context(), "order-1", "order-2", "order-3", "order-4", "order-5", "order-6")
		require.NoError(t, err)
		assert.Len(t, records, 5, "the rest is the outbox's")
		stats := s.sender.Stats()
		assert.EqualValues(t, 5, stats.FellBack)
		assert.EqualValues(t, 3, stats.MaybeBoth)
		assert.EqualValues(t, 2, stats.ChecksSkipped)
		assert.EqualValues(t, 1, stats.BreakerOpened)
		assert.False(t, stats.BreakerOpen)
	})
}
