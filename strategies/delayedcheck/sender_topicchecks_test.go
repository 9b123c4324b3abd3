package delayedcheck_test

import (
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

// isCheck tells checks from messages in a script.
func isCheck(a membroker.Attempt) bool { return a.Topic == delayedcheck.DefaultCheckTopic }

func TestTopicChecks_areThereBeforeCommitAndSayHowLongTheyWait(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var checkedAt, committedAt time.Time
		s := open(t, faults{
			topicChecks: true,
			broker: func(a membroker.Attempt) membroker.Verdict {
				if !isCheck(a) {
					return membroker.Verdict{}
				}
				checkedAt = time.Now().Add(10 * time.Millisecond)
				return membroker.Verdict{Delay: 10 * time.Millisecond}
			},
			store: func(op memstore.Op) memstore.Fault {
				if op == memstore.OpCommit {
					committedAt = time.Now()
				}
				return memstore.Fault{}
			},
		})
		require.NoError(t, s.place(t.Context(), "order-1"))
		synctest.Wait()
		assert.Equal(t, checkedAt, committedAt, "it waits for the check's confirm, and no longer")
		assert.Equal(t, []reliable.ID{"order-1"}, s.delivered())
		require.Len(t, s.checks(), 1, "at once: whoever receives it keeps it")
		assert.Equal(t, order("order-1"), s.checks()[0].Message)
		assert.Equal(t, "5m0s", s.broker.Delivered(delayedcheck.DefaultCheckTopic)[0].Metadata[reliable.HeaderDelay])
		stats := s.sender.Stats()
		assert.EqualValues(t, 1, stats.Checks)
		assert.EqualValues(t, 1, stats.Acked, "a check is no message")
		require.NoError(t, s.sender.Publish(t.Context(), order("order-2")))
		assert.Equal(t, []reliable.ID{"order-1", "order-2"}, s.delivered())
	})
}

func TestTopicChecks_ofABrokerThatIsAwayAreTakenBack(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		away := true
		s := open(t, faults{topicChecks: true, fallback: true, broker: func(membroker.Attempt) membroker.Verdict {
			if away {
				return membroker.Verdict{Act: membroker.Refuse}
			}
			return membroker.Verdict{}
		}})
		began := time.Now()
		require.NoError(t, s.place(t.Context(), "order-1"))
		assert.Equal(t, 50*time.Millisecond, time.Since(began))
		stats := s.sender.Stats()
		assert.EqualValues(t, 1, stats.FellBack)
		assert.Zero(t, stats.MaybeBoth, "the check was certainly not sent")
		away = false
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Empty(t, s.checks(), "of a transaction that did without")
		assert.Empty(t, s.delivered(), "the outbox has it")
		require.NoError(t, s.place(t.Context(), "order-2"), "the places were given back")
	})
}

func TestTopicChecks_withoutAnAnswerMayHaveLeft(t *testing.T) {
	for name, c := range map[string]struct {
		verdict membroker.Verdict
		there   int // checks that the broker has
		says    string
	}{
		"taken, and not confirmed in time":  {membroker.Verdict{Delay: time.Second}, 1, "no confirm within 50ms"},
		"taken, and the confirm was lost":   {membroker.Verdict{Act: membroker.LoseConfirm}, 1, ""},
		"lost, which nobody can tell apart": {membroker.Verdict{Act: membroker.LoseMessage}, 0, ""},
		"refused":                           {membroker.Verdict{Act: membroker.Nack}, 0, ""},
		"rejected for what it is":           {membroker.Verdict{Act: membroker.Reject}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				s := open(t, faults{topicChecks: true, broker: func(a membroker.Attempt) membroker.Verdict {
					if isCheck(a) {
						return c.verdict
					}
					return membroker.Verdict{}
				}})
				err := s.place(t.Context(), "order-1")
				require.ErrorIs(t, err, delayedcheck.ErrNotChecked)
				assert.ErrorContains(t, err, c.says)
				assert.False(t, s.placed("order-1"), "it was rolled back")
				var refused *reliable.PublishError
				require.ErrorAs(t, err, &refused)
				assert.Equal(t, delayedcheck.DefaultCheckTopic, refused.Topic)
				synctest.Wait()
				assert.Empty(t, s.delivered())
				time.Sleep(time.Minute)
				assert.Len(t, s.checks(), c.there)
				require.NoError(t, s.stop(), "nothing is left to wait for")
			})
		})
	}
}

func TestTopicChecks_takePlacesAndGiveThemBack(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{topicChecks: true}, delayedcheck.WithWindow(1))
		done := make(chan error, 50)
		for range cap(done) {
			go func() { done <- s.place(t.Context(), reliable.NewID()) }()
		}
		for range cap(done) {
			require.NoError(t, <-done)
		}
		synctest.Wait()
		assert.Len(t, s.delivered(), cap(done))
		assert.Len(t, s.checks(), cap(done))
	})
}

func TestTopicChecks_contradictAScheduler(t *testing.T) {
	broker := membroker.New()
	defer func() { require.NoError(t, broker.Close()) }()
	_, both := delayedcheck.NewSender(broker, broker, broker.Scheduler(), delayedcheck.WithTopicChecks())
	require.ErrorContains(t, both, "WithTopicChecks")
	_, neither := delayedcheck.NewSender(broker, broker, nil)
	require.ErrorContains(t, neither, "WithTopicChecks")
	require.ErrorIs(t, errors.Join(both, neither), reliable.ErrInvalid)
}
