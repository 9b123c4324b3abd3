package delayedcheck_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/schedulertest"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// postponing consumes a topic through a router that keeps what is not due, and returns what its handler sees, to be acked or
// nacked; it ends with the test.
func postponing(t testing.TB, subscriber message.Subscriber, topic string, outbox delayedcheck.Keeper) <-chan *message.Message {
	t.Helper()
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: time.Minute}, watermill.NopLogger{})
	require.NoError(t, err)
	router.AddMiddleware(delayedcheck.Postpone(outbox))
	seen := make(chan *message.Message)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	router.AddConsumerHandler("checks", topic, subscriber, func(msg *message.Message) error {
		handed := msg.Copy()
		select {
		case seen <- handed:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-handed.Acked():
			return nil
		case <-handed.Nacked():
			return errors.New("nacked")
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	ended := make(chan error, 1)
	go func() { ended <- router.Run(ctx) }()
	<-router.Running()
	t.Cleanup(func() {
		stop()
		assert.NoError(t, <-ended)
		close(seen)
	})
	return seen
}

// relaying runs an outbox until the test ends.
func relaying(t testing.TB, store reliable.Store, publisher reliable.Publisher, confirms reliable.ConfirmSource) *tagging.Outbox {
	t.Helper()
	outbox, err := tagging.New(store, publisher, confirms, tagging.WithPollInterval(50*time.Millisecond))
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- outbox.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		assert.NoError(t, <-ended)
	})
	return outbox
}

func topicScheduler(t testing.TB, publisher message.Publisher) *delayedcheck.TopicScheduler {
	t.Helper()
	t.Cleanup(func() { assert.NoError(t, publisher.Close()) })
	s, err := delayedcheck.NewTopicScheduler(publisher)
	require.NoError(t, err)
	return s
}

func TestTopicScheduler_conforms(t *testing.T) {
	var topics atomic.Int64
	open := func(t testing.TB) schedulertest.Subject {
		broker := membroker.New()
		t.Cleanup(func() { assert.NoError(t, broker.Close()) })
		outbox := relaying(t, memstore.New(), broker, broker)
		return schedulertest.Subject{
			Scheduler: topicScheduler(t, broker.Watermill()),
			Topic:     func(testing.TB) string { return fmt.Sprint("checks-", topics.Add(1)) },
			Subscribe: func(t testing.TB, topic string) <-chan *message.Message {
				return postponing(t, broker.Subscriber("service"), topic, outbox)
			},
			Reopen: func(t testing.TB) reliable.Scheduler { return topicScheduler(t, broker.Watermill()) },
			Crash:  func(testing.TB) { broker.Crash() },
		}
	}
	schedulertest.Run(t, schedulertest.Harness{
		Open: open, OpenToCrash: open, Delay: 200 * time.Millisecond, Tolerance: 2 * time.Second, TooLong: 20 * 365 * 24 * time.Hour,
	})
}

func TestPostpone_theDelayCountsFromArrivalAndALateReceiverIsLateNeverEarly(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		broker := membroker.New()
		defer func() { assert.NoError(t, broker.Close()) }()
		outbox := relaying(t, memstore.New(), broker, broker)
		began := time.Now()
		require.NoError(t, topicScheduler(t, broker.Watermill()).Schedule(t.Context(), 5*time.Minute,
			reliable.Envelope{ID: "1", Topic: "checks", Key: "k", Metadata: map[string]string{"tenant": "eu"}, Payload: []byte("payload")}))
		time.Sleep(time.Hour) // nobody consumes
		seen := postponing(t, broker.Subscriber("service"), "checks", outbox)
		msg := <-seen
		assert.Equal(t, time.Hour+5*time.Minute, time.Since(began).Round(time.Second))
		assert.Equal(t, "1", msg.UUID)
		assert.Equal(t, "payload", string(msg.Payload))
		assert.Equal(t, "eu", msg.Metadata["tenant"])
		assert.Equal(t, "k", msg.Metadata[reliable.HeaderKey])
		assert.NotContains(t, msg.Metadata, reliable.HeaderDelay)
		assert.Equal(t, "1 postponed", msg.Metadata[reliable.HeaderCopy], "a broker with deduplication must not drop it")
		msg.Ack()
	})
}

func TestPostpone_passesWhatIsNotDelayedAndRefusesWhatIsNoDelay(t *testing.T) {
	handled := 0
	handler := delayedcheck.Postpone(nil)(func(*message.Message) ([]*message.Message, error) {
		handled++
		return nil, nil
	})
	_, err := handler(message.NewMessage("1", nil))
	require.NoError(t, err)
	for _, text := range []string{"", "soon", "-5m", "1000000h"} {
		msg := message.NewMessage("2", nil)
		msg.Metadata[reliable.HeaderDelay] = text
		_, err = handler(msg)
		require.ErrorIs(t, err, reliable.ErrInvalid, text)
	}
	msg := message.NewMessage("3", nil)
	msg.Metadata[reliable.HeaderDelay] = "5m0s"
	_, err = handler(msg)
	require.ErrorIs(t, err, reliable.ErrInvalid, "outside a router nobody knows its topic")
	assert.Equal(t, 1, handled)
}

func TestPostpone_aMessageThatCouldNotBeKeptComesAgain(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		broker := membroker.New()
		defer func() { assert.NoError(t, broker.Close()) }()
		failing := 3
		store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
			if op == memstore.OpEnqueue && failing > 0 {
				failing--
				return memstore.Fault{Before: errors.New("away")}
			}
			return memstore.Fault{}
		}))
		seen := postponing(t, broker.Subscriber("service"), "checks", relaying(t, store, broker, broker))
		began := time.Now()
		require.NoError(t, topicScheduler(t, broker.Watermill()).Schedule(t.Context(), time.Minute,
			reliable.Envelope{ID: "1", Topic: "checks"}))
		msg := <-seen
		assert.GreaterOrEqual(t, time.Since(began), time.Minute)
		assert.Zero(t, failing)
		msg.Ack()
	})
}

func TestTopicScheduler_saysWhatIsWrong(t *testing.T) {
	_, err := delayedcheck.NewTopicScheduler(nil)
	require.ErrorIs(t, err, reliable.ErrInvalid)
	virtualtime.Test(t, func(t *testing.T) {
		broker := membroker.New(membroker.WithScript(func(membroker.Attempt) membroker.Verdict {
			return membroker.Verdict{Act: membroker.Nack}
		}))
		defer func() { assert.NoError(t, broker.Close()) }()
		s := topicScheduler(t, broker.Watermill())
		require.ErrorIs(t, s.Schedule(t.Context(), 0, reliable.Envelope{ID: "1", Topic: "checks"}), reliable.ErrNacked)
	})
}
