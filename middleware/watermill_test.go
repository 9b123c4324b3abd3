package middleware_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/sony/gobreaker"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// These tests are about Watermill's own middleware, in the version that go.mod names: each shows a behaviour that
// docs/middleware.md gives as a reason for a layer of ours. When one fails, Watermill has changed, and the page is to be
// brought up to date.

// watermills runs Watermill's middleware around handler, the first one outermost.
func (r *rig) watermills(handler message.NoPublishHandlerFunc, layers ...message.HandlerMiddleware) (stop func()) {
	r.t.Helper()
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(r.t, err)
	router.AddMiddleware(layers...)
	router.AddConsumerHandler("bill", topic, r.broker.Subscriber(group), handler)
	return r.route(router)
}

func (r *rig) watermillsPoison() message.HandlerMiddleware {
	r.t.Helper()
	queue, err := wmiddleware.PoisonQueue(r.publisher, poison)
	require.NoError(r.t, err)
	return queue
}

func TestWatermill_poisonsAHealthyMessageWhenTheProcessStops(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		// Its publisher must not look at the message's context, which has ended; ours does, see the next test.
		queue, err := wmiddleware.PoisonQueue(publisherFunc(func(topic string, messages ...*message.Message) error {
			messages[0].SetContext(context.Background())
			return r.publisher.Publish(topic, messages...)
		}), poison)
		require.NoError(t, err)
		stop := r.watermills(failing, queue, wmiddleware.Retry{MaxRetries: 3, InitialInterval: time.Minute, MaxInterval: time.Minute, Multiplier: 1}.Middleware)
		r.send(reliable.Envelope{ID: "order-1"})
		pass(time.Second)
		stop()
		held := r.in(poison)
		require.Len(t, held, 1, "tried once of four times")
		assert.Equal(t, context.Canceled.Error(), held[0].Metadata[wmiddleware.ReasonForPoisonedKey])
	})
}

func TestWatermill_timeoutLeavesAContextThatHasEnded(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var contexts []error
		stop := r.watermills(func(msg *message.Message) error {
			contexts = append(contexts, msg.Context().Err())
			if len(contexts) > 6 {
				return nil
			}
			<-msg.Context().Done()
			return msg.Context().Err()
		}, r.watermillsPoison(), wmiddleware.Retry{MaxRetries: 2, InitialInterval: time.Second, Multiplier: 1}.Middleware, wmiddleware.Timeout(time.Second))
		defer stop()
		r.send(reliable.Envelope{ID: "order-1"})
		pass(time.Hour)
		require.Greater(t, len(contexts), 6)
		assert.Equal(t, []error{nil, context.DeadlineExceeded, context.DeadlineExceeded}, contexts[:3], "retries begin with a context that has ended")
		assert.Empty(t, r.in(poison), "and a publisher that heeds contexts takes nothing")
	})
}

func TestWatermill_poisonQueueThatIsDownMakesAHotLoop(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.broker.Undeclare(poison)
		tries := 0
		began := time.Now()
		stop := r.watermills(func(*message.Message) error {
			if tries++; tries == 10_000 {
				return nil
			}
			return errBroken
		}, r.watermillsPoison())
		defer stop()
		r.send(reliable.Envelope{ID: "order-1"})
		synctest.Wait()
		assert.Equal(t, 10_000, tries)
		assert.Zero(t, time.Since(began), "without a pause")
	})
}

func TestWatermill_poisonQueuePublishesWhatAFailedHandlerProduced(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		h := r.watermillsPoison()(func(*message.Message) ([]*message.Message, error) {
			return []*message.Message{message.NewMessage("invoice", nil)}, errBroken
		})
		produced, err := h(message.NewMessage("order-1", nil))
		require.NoError(t, err)
		assert.Len(t, produced, 1, "the router publishes it")
	})
}

func TestWatermill_poisonQueueWritesIntoTheMessageAndCutsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		long := errors.New(strings.Repeat("x", 200_000))
		h := r.watermillsPoison()(func(*message.Message) ([]*message.Message, error) { return nil, long })
		msg := message.NewMessage("order-1", nil)
		_, err := h(msg)
		require.NoError(t, err)
		assert.Len(t, msg.Metadata[wmiddleware.ReasonForPoisonedKey], 200_000, "more than a frame of AMQP holds")
		assert.Len(t, msg.Metadata, 4, "a subscriber that delivers this message again delivers it so")
	})
}

func TestWatermill_openBreakerPoisonsWhatWasNeverTried(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		tried := 0
		stop := r.watermills(func(*message.Message) error {
			tried++
			return errBroken
		}, r.watermillsPoison(), wmiddleware.Retry{MaxRetries: 2, InitialInterval: time.Second, Multiplier: 1}.Middleware,
			wmiddleware.NewCircuitBreaker(gobreaker.Settings{Timeout: time.Hour}).Middleware)
		defer stop()
		r.sendMany(100)
		pass(10 * time.Minute)
		assert.Less(t, tried, 10)
		assert.Len(t, r.in(poison), 100)
	})
}

func TestWatermill_recovererPutsTheStackInTheReason(t *testing.T) {
	_, err := wmiddleware.Recoverer(func(*message.Message) ([]*message.Message, error) { panic("no such customer") })(message.NewMessage("order-1", nil))
	require.ErrorContains(t, err, "goroutine")
	assert.Greater(t, len(err.Error()), 1000)
}

func TestWatermill_throttleHeedsNoContext(t *testing.T) {
	bubble(t, func(t *testing.T, _ *rig) {
		h := wmiddleware.NewThrottle(1, time.Hour).Middleware(func(*message.Message) ([]*message.Message, error) { return nil, nil })
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := h(message.NewMessageWithContext(ctx, "order-1", nil))
		require.NoError(t, err)
		assert.Equal(t, time.Hour, time.Since(began), "stopping waits for the tick")
	})
}

func TestWatermill_correlationOfWhatHasNoneIsEmpty(t *testing.T) {
	produced, err := wmiddleware.CorrelationID(func(*message.Message) ([]*message.Message, error) {
		return []*message.Message{message.NewMessage("invoice", nil)}, nil
	})(message.NewMessage("order-1", nil))
	require.NoError(t, err)
	value, set := produced[0].Metadata[wmiddleware.CorrelationIDMetadataKey]
	assert.True(t, set)
	assert.Empty(t, value)
}
