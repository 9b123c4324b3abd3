package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable"
)

const operators = "operators"

// poisoned fills the poison topic with n messages, order-000 on, whose handler failed.
func (r *rig) poisoned(n int, opts ...middleware.Option) {
	r.t.Helper()
	stop := r.consume(r.preset(opts...), func(msg *message.Message) error { return fmt.Errorf("cannot bill %s", msg.UUID) })
	for i := range n {
		r.send(reliable.Envelope{
			ID: reliable.ID(fmt.Sprintf("order-%03d", i)), Key: "ada", Metadata: map[string]string{"tenant": "eu"},
		})
	}
	pass(time.Minute)
	stop()
	require.Len(r.t, r.in(poison), n)
}

func (r *rig) replay(opts ...middleware.ReplayOption) (middleware.Report, error) {
	return middleware.Replay(context.Background(), r.broker.Subscriber(operators), r.publisher, poison, opts...)
}

// left returns the IDs of what the operators' group has still to read in the poison topic, in order.
func (r *rig) left() (ids []string) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer synctest.Wait()
	defer cancel()
	sub := r.broker.Subscriber(operators)
	defer sub.Close()
	var held []*message.Message
	for {
		// Each subscription holds one message; what is unacked comes again to the next reader.
		messages, err := sub.Subscribe(ctx, poison)
		require.NoError(r.t, err)
		synctest.Wait()
		select {
		case msg := <-messages:
			held = append(held, msg)
			ids = append(ids, msg.UUID)
		default:
			for _, msg := range held {
				msg.Nack()
			}
			return ids
		}
	}
}

func TestReplay_sendsBackWhatCameWithItsIDKeyAndMetadata(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		before := func() message.Metadata {
			r.poisoned(1, middleware.RetryDelayed(time.Second))
			return r.in(topic)[0].Metadata
		}()
		report, err := r.replay()
		require.NoError(t, err)
		assert.Equal(t, middleware.Report{Entries: 1, Replayed: 1, Drained: true}, report)

		orders := r.in(topic)
		require.Len(t, orders, 2)
		got := orders[1]
		assert.Equal(t, "order-000", got.UUID)
		assert.Equal(t, "2 teapots", string(got.Payload))
		want := maps.Clone(before)
		want[reliable.HeaderReplays], want[reliable.HeaderCopy] = "1", "3 billing bill"
		assert.Equal(t, want, got.Metadata, "what is known of the failure is gone, everything else is there")
		assert.Empty(t, r.left())

		var seen message.Metadata
		stop := r.consume(r.preset(), func(msg *message.Message) error {
			seen = msg.Copy().Metadata
			return nil
		})
		defer stop()
		pass(time.Second)
		assert.Equal(t, before, seen, "the handler sees what it saw the first time")
	})
}

func TestReplay_acksOnlyOnceTheBrokerHasConfirmed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.poisoned(1)
		lost := errors.New("connection lost")
		_, err := middleware.Replay(context.Background(), r.broker.Subscriber(operators),
			publisherFunc(func(string, ...*message.Message) error { return lost }), poison)
		require.ErrorIs(t, err, lost)
		assert.Equal(t, []string{"order-000"}, r.left())
	})
}

func TestReplay_countsReplays(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.poisoned(1)
		for n := 1; n <= 3; n++ {
			_, err := r.replay()
			require.NoError(t, err)
			stop := r.consume(r.preset(), failing)
			pass(time.Second)
			stop()
			held := r.in(poison)
			f, _ := middleware.FailureOf(held[len(held)-1])
			assert.Equal(t, n, f.Replays)
			assert.Equal(t, 1, f.Attempts, "attempts begin anew")
		}
	})
}

func TestReplay_leavesWhatWasNotAskedForInItsOrder(t *testing.T) {
	for name, option := range map[string]middleware.ReplayOption{
		"by ID": middleware.ReplayIDs("order-001", "order-003"),
		"by reason": middleware.ReplayIf(func(_ *message.Message, f middleware.Failure) bool {
			return f.Reason == "cannot bill order-001" || f.Reason == "cannot bill order-003"
		}),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.poisoned(5)
				was := r.in(poison)
				report, err := r.replay(option, middleware.ReplayFrom(topic), middleware.ReplayGroup(group), middleware.ReplayReason("cannot"))
				require.NoError(t, err)
				assert.Equal(t, middleware.Report{Entries: 5, Replayed: 2, Kept: 3, Drained: true}, report)
				assert.Equal(t, []string{"order-000", "order-002", "order-004"}, r.left())
				kept := r.in(poison)[5]
				delete(kept.Metadata, reliable.HeaderCopy)
				delete(was[0].Metadata, reliable.HeaderCopy)
				assert.Equal(t, was[0].Metadata, kept.Metadata, "with everything that is known of it")
				report, err = r.replay(middleware.ReplayGroup("shipping"))
				require.NoError(t, err)
				assert.Equal(t, middleware.Report{Entries: 3, Kept: 3, Drained: true}, report)
			})
		})
	}
}

func TestReplay_dryRunsChangeNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.poisoned(3)
		var listed []string
		list := middleware.ReplayEach(func(msg *message.Message, f middleware.Failure, result middleware.ReplayResult) {
			listed = append(listed, fmt.Sprintf("%s: %s (%s)", msg.UUID, f.Reason, result))
		})
		report, err := r.replay(middleware.ReplayDryRun(), list)
		require.NoError(t, err)
		assert.Equal(t, middleware.Report{Entries: 1, Replayed: 1, Drained: true}, report, "this broker shows one at a time")
		assert.Equal(t, []string{"order-000: cannot bill order-000 (replayed)"}, listed)
		assert.Len(t, r.in(poison), 3, "nothing was moved")

		listed = nil
		report, err = r.replay(middleware.ReplayDryRunThrough(), list)
		require.NoError(t, err)
		assert.Equal(t, middleware.Report{Entries: 3, Replayed: 3, Drained: true}, report)
		assert.Len(t, listed, 3)
		assert.Equal(t, []string{"order-000", "order-001", "order-002"}, r.left())
		assert.Len(t, r.in(topic), 3, "nothing was replayed")
	})
}

// A handler that fails at once would otherwise keep a replay going for ever.
func TestReplay_doesNotReplayTwiceWhatFailsAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.poisoned(3)
		stop := r.consume(r.preset(), func(msg *message.Message) error {
			if msg.UUID == "order-002" {
				return nil // repaired
			}
			return errBroken
		})
		defer stop()
		report, err := r.replay()
		require.NoError(t, err)
		assert.Equal(t, 3, report.Replayed)
		assert.Positive(t, report.CameBack)
		assert.True(t, report.Drained)
		assert.Equal(t, []string{"order-000", "order-001"}, r.left())
	})
}

func TestReplay_endsAtItsLimit(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.poisoned(3)
		report, err := r.replay(middleware.ReplayLimit(2))
		require.NoError(t, err)
		assert.Equal(t, middleware.Report{Entries: 2, Replayed: 2}, report)
		assert.Equal(t, []string{"order-002"}, r.left())
	})
}

func TestReplay_endsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		report, err := middleware.Replay(ctx, r.broker.Subscriber(operators), r.publisher, poison)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.False(t, report.Drained)
	})
}

func TestReplay_repairs(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.poisoned(2)
		report, err := r.replay(middleware.ReplayRepair(func(msg *message.Message, _ middleware.Failure) error {
			if msg.UUID == "order-000" {
				return errors.New("beyond repair")
			}
			msg.UUID, msg.Payload = "other", []byte("3 teapots")
			return nil
		}))
		require.ErrorContains(t, err, "beyond repair")
		assert.Equal(t, middleware.Report{Entries: 2, Replayed: 1, Refused: 1, Drained: true}, report)
		got := r.in(topic)[2]
		assert.Equal(t, "order-001", got.UUID, "a replayed message keeps its ID whatever is done to it")
		assert.Equal(t, "3 teapots", string(got.Payload))
		assert.Equal(t, []string{"order-000"}, r.left())
	})
}

func TestReplay_goesOnAfterATopicThatIsGone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.poisoned(1)
		gone := message.NewMessage("order-gone", nil)
		gone.Metadata = message.Metadata{wmiddleware.PoisonedTopicKey: "gone", wmiddleware.ReasonForPoisonedKey: "broken"}
		foreign := message.NewMessage("foreign", nil)
		old := message.NewMessage("order-old", nil)
		old.Metadata = message.Metadata{wmiddleware.PoisonedTopicKey: topic, wmiddleware.ReasonForPoisonedKey: "broken", "tenant": "eu"}
		require.NoError(t, r.publisher.Publish(poison, gone, foreign, old))
		report, err := r.replay()
		require.ErrorIs(t, err, reliable.ErrUnroutable)
		assert.Equal(t, middleware.Report{Entries: 4, Replayed: 2, Refused: 1, Homeless: 1, Drained: true}, report)
		assert.Equal(t, []string{"order-gone", "foreign"}, r.left())
		assert.NotContains(t, r.in(topic)[2].Metadata, wmiddleware.ReasonForPoisonedKey, "what Watermill wrote is taken off too")
		assert.Equal(t, "eu", r.in(topic)[2].Metadata["tenant"])

		report, err = r.replay(middleware.ReplayTo(topic))
		require.NoError(t, err)
		assert.Equal(t, middleware.Report{Entries: 2, Replayed: 2, Drained: true}, report)
	})
}

// The group's own retry topic is where a replay reaches that group alone.
func TestReplay_toARetryTopicReachesTheGroupAlone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		preset := r.preset(middleware.RetryDelayed(time.Second))
		r.poisoned(1, middleware.RetryDelayed(time.Second))
		_, err := r.replay(middleware.ReplayTo(preset.RetryTopics(topic)[0]))
		require.NoError(t, err)
		stop := r.consume(preset, failing)
		defer stop()
		pass(time.Minute)
		assert.Len(t, r.in(topic), 1)
		held := r.in(poison)
		require.Len(t, held, 2)
		f, _ := middleware.FailureOf(held[1])
		assert.Equal(t, topic, f.Topic)
		assert.Equal(t, 2, f.Attempts)
		assert.Equal(t, 1, f.Replays)
	})
}

func TestReplay_refusesWhatMakesNoSense(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		_, err := middleware.Replay(context.Background(), nil, nil, "",
			middleware.ReplayLimit(-1), middleware.ReplayIdle(0), middleware.ReplayIf(nil))
		require.ErrorIs(t, err, reliable.ErrInvalid)
		for _, field := range []string{"subscriber", "publisher", "poisonTopic", "ReplayLimit", "ReplayIdle", "ReplayIf"} {
			assert.ErrorContains(t, err, field)
		}
		_, err = r.replay(middleware.ReplayTo(poison))
		require.ErrorContains(t, err, "ReplayTo")
	})
}
