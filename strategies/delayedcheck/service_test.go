package delayedcheck_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

func TestService_asksForNothingThatIsConfirmed(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		ledger, shop := memstore.New(), answering(delayedcheck.Resent)
		s := service(t, ledger, shop, nil)
		runService(t, s)
		confirm(t, s, "order-1", "billing", "billing") // twice: duplicated
		require.NoError(t, s.Checks(due(t, "order-1")))
		later(time.Hour)
		assert.Zero(t, shop.count())
		assert.Empty(t, ledger.Records(), "a check that is confirmed leaves nothing behind")
		assert.Equal(t, delayedcheck.ServiceStats{Confirms: 2, Checks: 1}, s.Stats())
	})
}

func TestService_sendsAgainUntilAConfirmComes(t *testing.T) {
	for name, scheduled := range map[string]bool{"checks by a scheduler": true, "checks kept by the ledger": false} {
		t.Run(name, func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				ledger, shop := memstore.New(), answering(delayedcheck.Resent)
				var delays hop
				var scheduler reliable.Scheduler
				if scheduled {
					scheduler = &delays
				}
				s := service(t, ledger, shop, scheduler)
				delays.to = s.Checks
				runService(t, s)
				began := time.Now()
				require.NoError(t, s.Checks(due(t, "order-1")))
				later(12 * time.Minute)
				confirm(t, s, "order-1", "billing")
				later(time.Hour)
				delays.under.Wait()

				var at []time.Duration
				for _, asked := range shop.times("order-1") {
					at = append(at, asked.Sub(began).Round(time.Minute))
				}
				assert.Equal(t, []time.Duration{0, 5 * time.Minute, 10 * time.Minute}, at)
				assert.Empty(t, standing(ledger)[reliable.Pending]+standing(ledger)[reliable.Failed])
				assert.EqualValues(t, 3, s.Stats().Resends)
				if scheduled {
					assert.Equal(t, 3, delays.booked)
				}
			})
		})
	}
}

func TestService_waitsForEveryGroupAndForNoOther(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		ledger, shop := memstore.New(), answering(delayedcheck.Resent)
		s := service(t, ledger, shop, nil)
		runService(t, s)
		two := func(c *delayedcheck.Check) { c.Groups = []string{"billing", "shipping"} }
		confirm(t, s, "order-1", "billing", "forged", "Shipping")
		require.NoError(t, s.Checks(due(t, "order-1", two)))
		later(time.Minute)
		assert.Len(t, shop.times("order-1"), 1, "shipping has not confirmed, whoever else has")
		confirm(t, s, "order-1", "shipping")
		later(time.Hour)
		assert.Len(t, shop.times("order-1"), 1)
	})
}

func TestService_doesWhatTheWitnessSays(t *testing.T) {
	for _, c := range []struct {
		answer delayedcheck.Answer
		status reliable.Status
	}{
		{delayedcheck.Aborted, reliable.Confirmed},
		{delayedcheck.Unknowable, reliable.Failed},
	} {
		t.Run(c.answer.String(), func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				ledger, shop := memstore.New(), answering(c.answer)
				s := service(t, ledger, shop, nil)
				runService(t, s)
				require.NoError(t, s.Checks(due(t, "order-1")))
				later(time.Hour)
				assert.Equal(t, map[reliable.Status]int{c.status: 1}, standing(ledger))
				assert.Equal(t, 1, shop.count(), "it is final")
			})
		})
	}
}

func TestService_asksAgainWhileTheTransactionIsOpen(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		committed := time.Now().Add(3 * time.Hour)
		ledger := memstore.New()
		shop := &producer{answer: func(context.Context, *delayedcheck.Check, int) (delayedcheck.Answer, error) {
			if time.Now().Before(committed) {
				return delayedcheck.StillOpen, nil
			}
			return delayedcheck.Resent, nil
		}}
		s := service(t, ledger, shop, nil, delayedcheck.WithResendBudget(1, 0))
		runService(t, s)
		require.NoError(t, s.Checks(due(t, "order-1")))
		later(2 * time.Hour)
		assert.Equal(t, map[reliable.Status]int{reliable.Pending: 1}, standing(ledger), "open is never charged, never dropped")
		asked := shop.count()
		assert.InDelta(t, 120, asked, 60, "about once a minute")
		later(time.Hour + 2*time.Minute)
		confirm(t, s, "order-1", "billing")
		later(time.Hour)
		assert.EqualValues(t, 1, s.Stats().Resends)
		assert.Zero(t, standing(ledger)[reliable.Pending])
	})
}

func TestService_failsVisiblyAndIsHealedByALateConfirm(t *testing.T) {
	for _, c := range []struct {
		name string
		shop *producer
		opts []delayedcheck.ServiceOption
		want func(delayedcheck.ServiceStats) uint64
	}{
		{"the producer is gone", failing(errRefused),
			[]delayedcheck.ServiceOption{delayedcheck.WithResendBudget(5, time.Hour)},
			func(s delayedcheck.ServiceStats) uint64 { return s.Failed }},
		{"no consumer ever confirms", answering(delayedcheck.Resent), nil,
			func(s delayedcheck.ServiceStats) uint64 { return s.Exhausted }},
		{"nobody can know", answering(delayedcheck.Unknowable), nil,
			func(s delayedcheck.ServiceStats) uint64 { return s.Unknowable }},
	} {
		t.Run(c.name, func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				ledger := memstore.New()
				var heard sync.Map
				s := service(t, ledger, c.shop, nil, append(c.opts, delayedcheck.WithServiceHooks(delayedcheck.ServiceHooks{
					Late: func(request *reliable.Record) { heard.Store(request.Metadata["message"], true) },
				}))...)
				runService(t, s)
				require.NoError(t, s.Checks(due(t, "order-1")))
				later(3 * time.Hour)
				require.Equal(t, 1, standing(ledger)[reliable.Failed])
				assert.Zero(t, standing(ledger)[reliable.Pending])
				assert.EqualValues(t, 1, c.want(s.Stats()))

				confirm(t, s, "order-1", "billing")
				later(2 * time.Minute)
				assert.Zero(t, standing(ledger)[reliable.Failed])
				assert.EqualValues(t, 1, s.Stats().Late)
				_, told := heard.Load("order-1")
				assert.True(t, told)
			})
		})
	}
}

func TestService_sendsAgainNoMoreThanTheRounds(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		ledger, shop := memstore.New(), answering(delayedcheck.Resent)
		s := service(t, ledger, shop, nil, delayedcheck.WithMaxRounds(3))
		runService(t, s)
		require.NoError(t, s.Checks(due(t, "order-1")))
		later(3 * time.Hour)
		assert.Len(t, shop.times("order-1"), 3)
		require.Equal(t, 1, standing(ledger)[reliable.Failed])

		// A person may have it tried again, once for each time.
		for _, record := range ledger.Records() {
			if record.Status == reliable.Failed {
				_, err := ledger.Decide(t.Context(), reliable.Decision{
					Action: reliable.Requeue, IDs: []reliable.ID{record.ID}, Who: "alex", Why: "the consumer is back",
				})
				require.NoError(t, err)
			}
		}
		later(3 * time.Hour)
		assert.Len(t, shop.times("order-1"), 4)
		assert.Equal(t, 1, standing(ledger)[reliable.Failed])
	})
}

func TestService_knowsItsProducersByName(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		ledger, shop, others := memstore.New(), answering(delayedcheck.Aborted), answering(delayedcheck.Aborted)
		s := service(t, ledger, nil, nil, delayedcheck.WithResender("shop", shop),
			delayedcheck.WithResender(delayedcheck.DefaultProducer, others))
		runService(t, s)
		named := func(name string) func(*delayedcheck.Check) {
			return func(c *delayedcheck.Check) { c.Producer = name }
		}
		require.NoError(t, s.Checks(due(t, "order-1")))
		require.NoError(t, s.Checks(due(t, "order-2", named(""))))
		require.NoError(t, s.Checks(due(t, "order-3", named("https://evil.example"))))
		later(time.Minute)
		assert.Len(t, shop.times("order-1"), 1)
		assert.Len(t, others.times("order-2"), 1)
		assert.Equal(t, map[reliable.Status]int{reliable.Confirmed: 2, reliable.Failed: 1}, standing(ledger))
		assert.EqualValues(t, 1, s.Stats().Unconfigured)
	})
}

func TestService_refusesWhatIsNoneOfItsMessages(t *testing.T) {
	s := service(t, memstore.New(), answering(delayedcheck.Resent), nil)
	stray := message.NewMessage("stray", []byte(`{"order":1}`))
	require.ErrorIs(t, s.Checks(stray), reliable.ErrInvalid)
	require.ErrorIs(t, s.Processed(stray), reliable.ErrInvalid)

	one, other := due(t, "order-1"), due(t, "order-2")
	other.UUID = one.UUID
	require.NoError(t, s.Checks(one))
	require.NoError(t, s.Checks(one), "a check that comes again is answered again")
	require.ErrorIs(t, s.Checks(other), reliable.ErrInvalid)
	assert.EqualValues(t, 3, s.Stats().Refused)
}

func TestService_doesNotAckWhatTheLedgerHasNotTaken(t *testing.T) {
	var down error
	ledger := memstore.New(memstore.WithFault(func(memstore.Op, []reliable.ID) memstore.Fault {
		return memstore.Fault{Before: down}
	}))
	s := service(t, ledger, answering(delayedcheck.Resent), nil)
	msg, err := reliable.ProcessedMessage(reliable.Processed{ID: "order-1", Group: "billing"})
	require.NoError(t, err)
	check := due(t, "order-1")

	down = errors.New("the ledger is away")
	require.ErrorIs(t, s.Processed(msg), down)
	require.ErrorIs(t, s.Checks(check), down)
	require.ErrorIs(t, s.Health(t.Context()), down)
	assert.Equal(t, delayedcheck.ServiceStats{}, s.Stats())

	down = nil
	require.NoError(t, s.Processed(msg))
	require.NoError(t, s.Checks(check))
	require.NoError(t, s.Health(t.Context()))
	assert.Empty(t, ledger.Records())
}
