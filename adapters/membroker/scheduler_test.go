package membroker_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/schedulertest"
)

func TestScheduler_conforms(t *testing.T) {
	var topics atomic.Int64
	subject := func(testing.TB) schedulertest.Subject {
		b := membroker.New()
		t.Cleanup(func() { assert.NoError(t, b.Close()) })
		return schedulertest.Subject{
			Scheduler: b.Scheduler(),
			Topic:     func(testing.TB) string { return fmt.Sprint("checks-", topics.Add(1)) },
			Subscribe: func(t testing.TB, topic string) <-chan *message.Message {
				messages, err := b.Subscribe(t.Context(), topic)
				require.NoError(t, err)
				return messages
			},
			Reopen: func(testing.TB) reliable.Scheduler { return b.Scheduler() },
			Crash:  func(testing.TB) { b.Crash() },
		}
	}
	schedulertest.Run(t, schedulertest.Harness{
		Open: subject, OpenToCrash: subject, Delay: 100 * time.Millisecond, Tolerance: time.Second,
	})
}

func check(id string) reliable.Envelope {
	return reliable.Envelope{ID: reliable.ID(id), Topic: "checks", Payload: []byte(id)}
}

// came returns the ids that a topic holds.
func came(b *membroker.Broker) (ids []string) {
	for _, delivery := range b.Delivered("checks") {
		ids = append(ids, string(delivery.ID))
	}
	return ids
}

func TestScheduler_isExactUnderVirtualTime(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := membroker.New()
		began := time.Now()
		s := b.Scheduler()
		require.NoError(t, s.Schedule(t.Context(), 5*time.Minute, check("late")))
		require.NoError(t, s.Schedule(t.Context(), time.Minute, check("soon")))
		require.NoError(t, s.Schedule(t.Context(), 0, check("now")))
		assert.Equal(t, []string{"now"}, came(b))
		assert.Len(t, b.Waiting(), 2)

		messages, err := b.Subscribe(t.Context(), "checks")
		require.NoError(t, err)
		for _, want := range []struct {
			id string
			at time.Duration
		}{{"now", 0}, {"soon", time.Minute}, {"late", 5 * time.Minute}} {
			msg := <-messages
			assert.Equal(t, want.id, msg.UUID)
			assert.Equal(t, want.at, time.Since(began))
			msg.Ack()
		}
		assert.Empty(t, b.Waiting())
		require.NoError(t, b.Close())
	})
}

func TestScheduler_aSubscriberThatWaitsSeesWhatIsScheduledLater(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := membroker.New()
		messages, err := b.Subscribe(t.Context(), "checks")
		require.NoError(t, err)
		synctest.Wait()
		require.NoError(t, b.Scheduler().Schedule(t.Context(), time.Hour, check("1")))
		msg := <-messages
		assert.Equal(t, "1", msg.UUID)
		msg.Ack()
		require.NoError(t, b.Close())
	})
}

func TestScheduler_faults(t *testing.T) {
	cause := errors.New("disk full")
	for name, c := range map[string]struct {
		verdict membroker.ScheduleVerdict
		is      []error // nil: accepted
		came    []string
	}{
		"healthy":           {membroker.ScheduleVerdict{}, nil, []string{"1"}},
		"lost":              {membroker.ScheduleVerdict{Act: membroker.Lie}, nil, nil},
		"doubled":           {membroker.ScheduleVerdict{Extra: 1}, nil, []string{"1", "1"}},
		"refused":           {membroker.ScheduleVerdict{Act: membroker.Nack, Err: cause}, []error{reliable.ErrNacked, cause}, nil},
		"returned":          {membroker.ScheduleVerdict{Act: membroker.Return}, []error{reliable.ErrUnroutable}, nil},
		"rejected":          {membroker.ScheduleVerdict{Act: membroker.Reject}, []error{reliable.ErrRejected}, nil},
		"not taken at all":  {membroker.ScheduleVerdict{Act: membroker.Refuse}, []error{membroker.ErrRefused}, nil},
		"taken, not told":   {membroker.ScheduleVerdict{Act: membroker.LoseConfirm}, []error{reliable.ErrUnknown}, []string{"1"}},
		"lost, not told":    {membroker.ScheduleVerdict{Act: membroker.LoseMessage}, []error{reliable.ErrUnknown}, nil},
		"cut after taking":  {membroker.ScheduleVerdict{Act: membroker.Cut}, []error{reliable.ErrUnknown, reliable.ErrConnectionLost}, []string{"1"}},
		"cut before taking": {membroker.ScheduleVerdict{Act: membroker.CutBefore}, []error{reliable.ErrUnknown, reliable.ErrConnectionLost}, nil},
		"slower than ctx":   {membroker.ScheduleVerdict{Delay: time.Hour}, []error{reliable.ErrUnknown, context.DeadlineExceeded}, []string{"1"}},
		"slow":              {membroker.ScheduleVerdict{Delay: time.Second}, nil, []string{"1"}},
	} {
		t.Run(name, func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				b := membroker.New()
				s := b.Scheduler(membroker.WithScheduleScript(func(a membroker.Scheduled) membroker.ScheduleVerdict {
					assert.Equal(t, time.Minute, a.After)
					assert.Equal(t, 1, a.Number)
					return c.verdict
				}))
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				err := s.Schedule(ctx, time.Minute, check("1"))
				if c.is == nil {
					require.NoError(t, err)
				}
				for _, want := range c.is {
					require.ErrorIs(t, err, want)
				}
				time.Sleep(2 * time.Minute)
				assert.Equal(t, c.came, came(b))
				require.NoError(t, b.Close())
			})
		})
	}
}

func TestScheduler_aLateMessageComesByThatMuchLater(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := membroker.New()
		s := b.Scheduler(membroker.WithScheduleScript(func(membroker.Scheduled) membroker.ScheduleVerdict {
			return membroker.ScheduleVerdict{Late: time.Hour}
		}))
		require.NoError(t, s.Schedule(t.Context(), time.Minute, check("1")))
		time.Sleep(time.Hour)
		assert.Empty(t, came(b))
		time.Sleep(time.Minute)
		assert.Equal(t, []string{"1"}, came(b))
		require.NoError(t, b.Close())
	})
}

func TestScheduler_waitsOutAnOutage(t *testing.T) {
	for name, fault := range map[string]struct{ begin, end func(*membroker.Broker) }{
		"down":    {(*membroker.Broker).Down, (*membroker.Broker).Up},
		"blocked": {(*membroker.Broker).Block, (*membroker.Broker).Unblock},
	} {
		t.Run(name, func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				b := membroker.New()
				s := b.Scheduler()
				require.NoError(t, s.Schedule(t.Context(), time.Minute, check("due meanwhile")))
				fault.begin(b)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				require.ErrorIs(t, s.Schedule(ctx, 0, check("given up")), context.DeadlineExceeded)
				time.Sleep(time.Hour)
				assert.Empty(t, came(b))
				time.AfterFunc(time.Second, func() { fault.end(b) })
				require.NoError(t, s.Schedule(t.Context(), 0, check("waited")))
				time.Sleep(2 * time.Second)
				assert.ElementsMatch(t, []string{"waited", "due meanwhile"}, came(b))
				require.NoError(t, b.Close())
				require.ErrorIs(t, s.Schedule(t.Context(), 0, check("too late")), reliable.ErrClosed)
			})
		})
	}
	b := membroker.New(membroker.WithFailFast())
	b.Down()
	require.ErrorIs(t, b.Scheduler().Schedule(t.Context(), 0, check("1")), membroker.ErrDown)
	require.NoError(t, b.Close())
}

func TestScheduler_keepsWhatIsDueUntilItsTopicTakesIt(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := membroker.New()
		b.Undeclare("checks")
		require.NoError(t, b.Scheduler().Schedule(t.Context(), time.Minute, check("1")))
		time.Sleep(time.Hour)
		assert.Empty(t, came(b))
		b.Declare("checks")
		b.Full(true, "checks")
		time.Sleep(time.Hour)
		assert.Empty(t, came(b))
		b.Full(false, "checks")
		time.Sleep(time.Second)
		assert.Equal(t, []string{"1"}, came(b))
		require.NoError(t, b.Close())
	})
}
