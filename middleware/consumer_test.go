package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable"
)

func TestPoison_hasAllThatAReplayNeeds(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		first := time.Now()
		stop := r.consume(r.preset(middleware.RetryInPlace(2, time.Second)), failing)
		defer stop()
		r.send(reliable.Envelope{ID: "order-1", Key: "ada", Metadata: map[string]string{"tenant": "eu", "traceparent": "00-ab", "x-delivery-count": "3"}})
		pass(10 * time.Second)

		held := r.in(poison)
		require.Len(t, held, 1)
		got := held[0]
		assert.Equal(t, "order-1", got.UUID)
		assert.Equal(t, "2 teapots", string(got.Payload))
		assert.Equal(t, "ada", got.Metadata[reliable.HeaderKey])
		assert.Equal(t, "eu", got.Metadata["tenant"])
		assert.Equal(t, "00-ab", got.Metadata["traceparent"])
		assert.NotContains(t, got.Metadata, "x-delivery-count", "what the broker said of one delivery")
		f, ok := middleware.FailureOf(got)
		require.True(t, ok)
		assert.Equal(t, middleware.Failure{
			Topic: topic, Group: group, Handler: "bill", Attempts: 3, Reason: "cannot bill",
			First: first.UTC(), Last: first.Add(3 * time.Second).UTC(),
		}, f)
		assert.Len(t, r.attempts("order-1"), 3, "and no more: it was acked")
	})
}

// The original must not be acked by the time that the poison message is on its way, since it may not arrive.
func TestPoison_isConfirmedBeforeTheOriginalIsAcked(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var original *message.Message
		published := 0
		preset, err := middleware.New(group, publisherFunc(func(topic string, messages ...*message.Message) error {
			published++
			time.Sleep(time.Second) // as long as the broker takes
			select {
			case <-original.Acked():
				t.Error("acked before the broker has confirmed the copy")
			default:
			}
			return r.publisher.Publish(topic, messages...)
		}), poison, middleware.RetryDelayed(time.Second), middleware.WithLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		stop := r.consume(preset, func(msg *message.Message) error {
			original = msg
			return errBroken
		})
		defer stop()
		r.send(reliable.Envelope{ID: "order-1"})
		pass(time.Minute)
		assert.Equal(t, 2, published, "once to retry, once to poison")
		assert.Len(t, r.in(poison), 1)
	})
}

func TestPoisonTopicDown_messageIsRedeliveredAndNotLostAndNotInAHotLoop(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.broker.Undeclare(poison)
		stop := r.consume(r.preset(), failing)
		defer stop()
		r.send(reliable.Envelope{ID: "order-1"})
		pass(10 * time.Minute)
		tries := len(r.attempts("order-1"))
		assert.Greater(t, tries, 10)
		assert.Less(t, tries, 50, "about one each 15 s")
		assert.Empty(t, r.in(poison))

		r.broker.Declare(poison)
		pass(16 * time.Second)
		assert.Len(t, r.in(poison), 1)
		tries = len(r.attempts("order-1"))
		pass(time.Hour)
		assert.Len(t, r.attempts("order-1"), tries, "acked")
	})
}

func TestRetryTopicDown_messageIsRedeliveredAndNotLost(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		preset := r.preset(middleware.RetryDelayed(time.Second))
		stop := r.consume(preset, failing)
		defer stop()
		r.broker.Undeclare(preset.RetryTopics(topic)...)
		r.send(reliable.Envelope{ID: "order-1"})
		pass(time.Minute)
		assert.Empty(t, r.in(poison), "a missing retry topic is no fault of the message")
		r.broker.Declare(preset.RetryTopics(topic)...)
		pass(time.Minute)
		require.Len(t, r.in(poison), 1)
		f, _ := middleware.FailureOf(r.in(poison)[0])
		assert.Equal(t, 2, f.Attempts, "attempts whose record could not be published are forgotten")
	})
}

func TestPermanent_isNotTriedAgain(t *testing.T) {
	errSyntax := errors.New("not JSON")
	for name, c := range map[string]struct {
		err  error
		opts []middleware.Option
	}{
		"marked":     {fmt.Errorf("parse: %w", middleware.Permanent(errSyntax)), nil},
		"recognised": {errSyntax, []middleware.Option{middleware.WithPermanent(func(err error) bool { return errors.Is(err, errSyntax) })}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				opts := append([]middleware.Option{middleware.RetryInPlace(3, time.Second), middleware.RetryDelayed(time.Second)}, c.opts...)
				stop := r.consume(r.preset(opts...), func(*message.Message) error { return c.err })
				defer stop()
				r.send(reliable.Envelope{ID: "order-1"})
				pass(time.Minute)
				assert.Len(t, r.attempts("order-1"), 1)
				require.Len(t, r.in(poison), 1)
				f, _ := middleware.FailureOf(r.in(poison)[0])
				assert.Contains(t, f.Reason, "not JSON")
			})
		})
	}
	assert.NoError(t, middleware.Permanent(nil))
	assert.NoError(t, middleware.Postpone(nil))
}

func TestPostpone_isNeverChargedAndPauses(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var up atomic.Bool
		stop := r.consume(r.preset(middleware.RetryInPlace(2, time.Second)), func(*message.Message) error {
			if !up.Load() {
				return middleware.Postpone(errBroken)
			}
			return nil
		})
		defer stop()
		r.send(reliable.Envelope{ID: "order-1"})
		pass(time.Hour)
		assert.Less(t, len(r.attempts("order-1")), 300)
		up.Store(true)
		pass(time.Minute)
		assert.Empty(t, r.in(poison))
	})
}

func TestPanic_isAReasonWithoutItsStack(t *testing.T) {
	for name, c := range map[string]struct {
		opts  []middleware.Option
		stack bool
	}{
		"default": {nil, false}, "WithStacks": {[]middleware.Option{middleware.WithStacks()}, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				stop := r.consume(r.preset(c.opts...), func(*message.Message) error { panic("no such customer") })
				defer stop()
				r.send(reliable.Envelope{ID: "order-1"})
				pass(time.Second)
				require.Len(t, r.in(poison), 1)
				f, _ := middleware.FailureOf(r.in(poison)[0])
				assert.Equal(t, "panic: no such customer", f.Reason)
				if c.stack {
					assert.Contains(t, f.Stack, "middleware_test.TestPanic_isAReasonWithoutItsStack")
					assert.Contains(t, f.Stack, "middleware/consumer_test.go:")
					assert.NotContains(t, f.Stack, "runtime.")
					assert.NotContains(t, f.Stack, "(*consumer)")
				} else {
					assert.Empty(t, f.Stack)
				}
			})
		})
	}
}

// A router that stops ends the contexts of its messages. What then fails has not failed.
func TestStopping_poisonsNothing(t *testing.T) {
	for name, opts := range map[string][]middleware.Option{
		"while the handler works": nil,
		"between retries":         {middleware.RetryInPlace(3, 2*time.Second)},
		"behind the throttle":     {middleware.WithThrottle(1, 10*time.Second)},
		"before it is due":        {middleware.RetryDelayed(10 * time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				healthy := false
				handler := func(msg *message.Message) error {
					if healthy {
						return nil
					}
					if name == "while the handler works" {
						<-msg.Context().Done()
						return msg.Context().Err()
					}
					if name == "behind the throttle" {
						return nil
					}
					return errBroken
				}
				stop := r.consume(r.preset(opts...), handler)
				r.send(reliable.Envelope{ID: "order-1"}, reliable.Envelope{ID: "order-2"})
				pass(time.Second)
				began := time.Now()
				stop()
				assert.Less(t, time.Since(began), time.Second, "stopping waits for no pause")
				assert.Empty(t, r.in(poison))

				healthy = true
				stop = r.consume(r.preset(opts...), handler)
				defer stop()
				pass(time.Minute)
				assert.Empty(t, r.in(poison))
				assert.NotEmpty(t, r.attempts("order-1"))
				assert.NotEmpty(t, r.attempts("order-2"))
			})
		})
	}
}

// What has failed has failed: its copy is on its way, and is waited for.
func TestStopping_doesNotInterruptACopyOnItsWay(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.send(reliable.Envelope{ID: "order-1"})
		poisoned := 0
		stop := r.consume(r.preset(middleware.WithHooks(middleware.Hooks{
			Poisoned:  func(*message.Message, middleware.Failure) { poisoned++ },
			GivenBack: func(_ *message.Message, err error) { t.Errorf("given back: %v", err) },
		})), failing)
		pass(500 * time.Millisecond)
		r.end()
		pass(time.Second)
		assert.Equal(t, 1, poisoned)
		stop()
	}, membroker.WithLatency(time.Second))
}

func TestTimeout_isForOneAttemptOnlyAndDoesNotKeepThePoisonMessageFromBeingPublished(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var contexts []error
		stop := r.consume(r.preset(middleware.RetryInPlace(1, time.Second), middleware.WithTimeout(3*time.Second)), func(msg *message.Message) error {
			contexts = append(contexts, msg.Context().Err())
			<-msg.Context().Done()
			return msg.Context().Err()
		})
		defer stop()
		r.send(reliable.Envelope{ID: "order-1"})
		pass(time.Minute)
		assert.Equal(t, []error{nil, nil}, contexts, "each attempt begins with a context that lasts")
		require.Len(t, r.in(poison), 1)
		f, _ := middleware.FailureOf(r.in(poison)[0])
		assert.Equal(t, "timed out after 3s: context deadline exceeded", f.Reason)
	})
}

func TestHandler_cannotChangeWhatIsPoisonedOrRetried(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		stop := r.consume(r.preset(middleware.RetryInPlace(1, time.Second)), func(msg *message.Message) error {
			assert.Equal(t, "order-1", msg.UUID)
			assert.Equal(t, "eu", msg.Metadata["tenant"])
			assert.Equal(t, "2 teapots", string(msg.Payload))
			msg.UUID, msg.Payload = "other", []byte("other")
			msg.Metadata["tenant"] = "other"
			msg.SetContext(context.Background())
			return errBroken
		})
		defer stop()
		r.send(reliable.Envelope{ID: "order-1", Metadata: map[string]string{"tenant": "eu"}})
		pass(time.Minute)
		require.Len(t, r.in(poison), 1)
		got := r.in(poison)[0]
		assert.Equal(t, "order-1", got.UUID)
		assert.Equal(t, "eu", got.Metadata["tenant"])
		assert.Equal(t, "2 teapots", string(got.Payload))
	})
}

func TestProduced_isPublishedOnlyIfTheHandlerSucceeded(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.broker.Declare("invoices")
		router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
		require.NoError(t, err)
		preset := r.preset()
		err = preset.AddHandler(router, "bill", topic, r.broker.Subscriber(group), "invoices", r.publisher, func(msg *message.Message) ([]*message.Message, error) {
			invoice := message.NewMessage("invoice-of-"+msg.UUID, nil)
			if msg.UUID == "order-1" {
				return []*message.Message{invoice}, errBroken
			}
			return []*message.Message{invoice, msg}, nil // passing on what came is Watermill's custom
		})
		require.NoError(t, err)
		stop := r.route(router)
		r.send(reliable.Envelope{ID: "order-1"}, reliable.Envelope{ID: "order-2", Metadata: map[string]string{wmiddleware.CorrelationIDMetadataKey: "cart-9"}},
			reliable.Envelope{ID: "order-3", Metadata: map[string]string{reliable.HeaderReplays: "2"}})
		pass(time.Second)
		var ids, together []string
		for _, msg := range r.in("invoices") {
			ids = append(ids, msg.UUID)
			together = append(together, msg.Metadata[wmiddleware.CorrelationIDMetadataKey])
			assert.NotContains(t, msg.Metadata, reliable.HeaderReplays, "what consumers added is not passed on")
		}
		assert.Equal(t, []string{"invoice-of-order-2", "order-2", "invoice-of-order-3", "order-3"}, ids)
		assert.Equal(t, []string{"cart-9", "cart-9", "order-3", "order-3"}, together, "correlated, by ID where nothing else says")
		assert.Len(t, r.in(poison), 1)
		assert.NotContains(t, r.in(poison)[0].Metadata, wmiddleware.CorrelationIDMetadataKey, "nothing is added to the message itself")
		stop()
		r.publisher = r.broker.Watermill() // the router has closed it, as Watermill's does
	})
}

func TestReason_isOneLineOfValidTextAndCut(t *testing.T) {
	for name, text := range map[string]string{
		"long":           strings.Repeat("long ", 100_000),
		"long, of runes": strings.Repeat("ä€😀", 1000),
		"binary":         "a\x00b\xff\xfec\r\nd\u202e\te",
		"empty":          "",
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				stop := r.consume(r.preset(), func(*message.Message) error { return errors.New(text) })
				defer stop()
				r.send(reliable.Envelope{ID: "order-1"})
				pass(time.Second)
				require.Len(t, r.in(poison), 1)
				reason := r.in(poison)[0].Metadata[reliable.HeaderFailureReason]
				assert.LessOrEqual(t, len(reason), 1000)
				assert.True(t, utf8.ValidString(reason))
				assert.NotContains(t, reason, "\n")
				assert.NotContains(t, reason, "\x00")
				env := reliable.EnvelopeOf(poison, r.in(poison)[0])
				limits := reliable.DefaultLimits()
				assert.NoError(t, limits.Check(&env), "every store and broker takes it")
			})
		})
	}
}

func TestReason_isWhatTheOptionMakesOfIt(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		stop := r.consume(r.preset(middleware.WithReason(func(error) string { return "secret" })), failing)
		defer stop()
		r.send(reliable.Envelope{ID: "order-1"})
		pass(time.Second)
		f, _ := middleware.FailureOf(r.in(poison)[0])
		assert.Equal(t, "secret", f.Reason)
	})
}

// What is added must not be what keeps a message out of the poison topic.
func TestPoison_thatIsTooLargeIsShortened(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		stop := r.consume(r.preset(middleware.WithStacks()), func(*message.Message) error { panic(strings.Repeat("x", 2000)) })
		defer stop()
		r.send(reliable.Envelope{ID: "order-1"})
		pass(time.Second)
		require.Len(t, r.in(poison), 1)
		f, _ := middleware.FailureOf(r.in(poison)[0])
		assert.Len(t, f.Reason, 80)
		assert.Empty(t, f.Stack)
	}, membroker.WithLimits(reliable.Limits{Metadata: 800}))
}

func TestHooks_tellWhatHappened(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var lock sync.Mutex // the two topics have a goroutine each
		var told []string
		tell := func(format string, args ...any) {
			lock.Lock()
			defer lock.Unlock()
			told = append(told, fmt.Sprintf(format, args...))
		}
		r.broker.Undeclare(poison)
		preset := r.preset(middleware.RetryDelayed(time.Second), middleware.WithHooks(middleware.Hooks{
			Failed: func(msg *message.Message, f middleware.Failure, err error) {
				tell("%s failed %d: %v", msg.UUID, f.Attempts, err)
			},
			Retried: func(msg *message.Message, _ middleware.Failure, topic string) {
				tell("%s retried through %s", msg.UUID, topic)
			},
			Poisoned: func(msg *message.Message, f middleware.Failure) { tell("%s poisoned after %d", msg.UUID, f.Attempts) },
			GivenBack: func(msg *message.Message, err error) {
				tell("%s given back: %v", msg.UUID, errors.Is(err, reliable.ErrUnroutable))
			},
		}))
		stop := r.consume(preset, failing)
		defer stop()
		r.send(reliable.Envelope{ID: "order-1"})
		pass(1500 * time.Millisecond)
		r.broker.Declare(poison)
		pass(time.Minute)
		lock.Lock()
		defer lock.Unlock()
		assert.Equal(t, []string{
			"order-1 failed 1: cannot bill", "order-1 retried through orders.retry.billing.1",
			"order-1 failed 2: cannot bill", "order-1 given back: true",
			"order-1 failed 2: cannot bill", "order-1 poisoned after 2",
		}, told)
	})
}

// publisherFunc is a publisher that is only a function.
type publisherFunc func(topic string, messages ...*message.Message) error

func (f publisherFunc) Publish(topic string, messages ...*message.Message) error {
	return f(topic, messages...)
}
func (f publisherFunc) Close() error { return nil }
