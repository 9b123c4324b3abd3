package delayedcheck_test

import (
	"context"
	"errors"
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

func TestPublish_waitsForTheCheckAndThenForTheMessage(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{
			schedule: func(membroker.Scheduled) membroker.ScheduleVerdict {
				return membroker.ScheduleVerdict{Delay: time.Second}
			},
			broker: func(membroker.Attempt) membroker.Verdict { return membroker.Verdict{Delay: 2 * time.Second} },
		})
		start := time.Now()
		require.NoError(t, s.sender.Publish(t.Context(), order("order-1"), order("order-2")))
		assert.Equal(t, 4*time.Second, time.Since(start), "two checks one after the other, then both messages")
		assert.Equal(t, []reliable.ID{"order-1", "order-2"}, s.delivered())
		untilDue()
		require.Len(t, s.checks(), 2)
		assert.True(t, s.checks()[0].Committed, "no witness knows a transaction that was none")
		assert.Equal(t, []delayedcheck.Answer{delayedcheck.Resent, delayedcheck.Resent}, s.answers())
	})
}

func TestPublish_sendsNothingWithoutACheck(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		act := membroker.Nack
		s := open(t, faults{schedule: func(membroker.Scheduled) membroker.ScheduleVerdict { return membroker.ScheduleVerdict{Act: act} }},
			delayedcheck.WithBreaker(2, time.Second))
		require.ErrorIs(t, s.sender.Publish(t.Context(), order("order-1")), delayedcheck.ErrNotChecked)
		act = membroker.LoseConfirm
		err := s.sender.Publish(t.Context(), order("order-2"))
		require.ErrorIs(t, err, delayedcheck.ErrNotChecked)
		require.ErrorIs(t, err, reliable.ErrUnknown)
		err = s.sender.Publish(t.Context(), order("order-3"))
		require.ErrorIs(t, err, delayedcheck.ErrNotChecked)
		require.NotErrorIs(t, err, reliable.ErrUnknown, "behind the breaker nothing leaves")
		synctest.Wait()
		assert.Empty(t, s.delivered())
		untilDue()
		s.answers()
		assert.Equal(t, []reliable.ID{"order-2"}, s.delivered(), "its check was taken")
	})
}

func TestPublish_unconfirmedMessageIsLeftToItsCheck(t *testing.T) {
	for act, is := range map[membroker.Act]error{
		membroker.Nack: reliable.ErrNacked, membroker.Return: reliable.ErrUnroutable, membroker.LoseMessage: reliable.ErrUnknown,
	} {
		t.Run(act.String(), func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				s := open(t, faults{broker: func(a membroker.Attempt) membroker.Verdict {
					if a.OfID == 1 {
						return membroker.Verdict{Act: act}
					}
					return membroker.Verdict{}
				}})
				err := s.sender.Publish(t.Context(), order("order-1"))
				require.ErrorIs(t, err, delayedcheck.ErrLeftToCheck)
				require.ErrorIs(t, err, is)
				untilDue()
				assert.Equal(t, []delayedcheck.Answer{delayedcheck.Resent}, s.answers())
				assert.Equal(t, []reliable.ID{"order-1"}, s.delivered())
				assert.EqualValues(t, 1, s.sender.Stats().Unconfirmed)
			})
		})
	}
}

func TestResend_answersOnlyAfterTheBrokerConfirmed(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		act := membroker.Serve
		s := open(t, faults{broker: func(membroker.Attempt) membroker.Verdict {
			return membroker.Verdict{Act: act, Delay: time.Second}
		}})
		require.NoError(t, s.place(t.Context(), "order-1"))
		untilDue()
		check := s.checks()[0]
		start := time.Now()
		answer, err := s.sender.Resend(t.Context(), check)
		require.NoError(t, err)
		assert.Equal(t, delayedcheck.Resent, answer)
		assert.Equal(t, time.Second, time.Since(start))
		copies := s.broker.Delivered(orders)
		require.Len(t, copies, 2)
		assert.NotContains(t, copies[0].Envelope.Metadata, reliable.HeaderCopy)
		assert.Equal(t, "resend-1", copies[1].Envelope.Metadata[reliable.HeaderCopy], "a broker with deduplication must not drop it")

		for _, act = range []membroker.Act{membroker.Nack, membroker.LoseMessage, membroker.LoseConfirm, membroker.Reject} {
			_, err = s.sender.Resend(t.Context(), check)
			var failed *reliable.PublishError
			require.ErrorAs(t, err, &failed, act.String())
		}
		act = membroker.Serve
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err = s.sender.Resend(ctx, check)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.EqualValues(t, 5, s.sender.Stats().ResendsFailed)
		assert.EqualValues(t, 1, s.sender.Stats().Resent)
	})
}

func TestResend_withoutAnAnswerOfTheWitness(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		away := errors.New("database is away")
		s := open(t, faults{store: func(op memstore.Op) memstore.Fault {
			if op == memstore.OpAsk {
				return memstore.Fault{Before: away}
			}
			return memstore.Fault{}
		}})
		require.NoError(t, s.place(t.Context(), "order-1"))
		untilDue()
		_, err := s.sender.Resend(t.Context(), s.checks()[0])
		require.ErrorIs(t, err, away)
		_, err = s.sender.Resend(t.Context(), delayedcheck.Check{})
		require.ErrorIs(t, err, reliable.ErrInvalid)
		assert.Len(t, s.delivered(), 1)
	})
}

func TestResend_ofAForeignTransactionIsUnknowable(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{})
		answer, err := s.sender.Resend(t.Context(), foreignCheck())
		require.NoError(t, err)
		assert.Equal(t, delayedcheck.Unknowable, answer)
		assert.Empty(t, s.delivered())
	})
}

func foreignCheck() delayedcheck.Check {
	return delayedcheck.Check{Message: order("order-1"), Token: "of:somebody:else", Groups: []string{"billing"}, Round: 1}
}
