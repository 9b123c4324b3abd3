package middleware_test

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable"
)

const confirms = "processed"

// processed returns the ids of the confirms that the broker has, in order.
func (r *rig) processed() (ids []string) {
	r.t.Helper()
	for _, msg := range r.in(confirms) {
		told, err := reliable.ProcessedOf(msg)
		require.NoError(r.t, err)
		for _, confirm := range told {
			assert.Equal(r.t, group, confirm.Group)
			ids = append(ids, string(confirm.ID))
		}
	}
	return ids
}

func TestProcessedConfirm_isConfirmedAfterTheHandlerAndBeforeTheAck(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.broker.Declare(confirms)
		var original *message.Message
		handled := false
		preset, err := middleware.New(group, publisherFunc(func(topic string, messages ...*message.Message) error {
			assert.True(t, handled, "confirmed before the handler returned")
			time.Sleep(time.Second) // as long as the broker takes
			select {
			case <-original.Acked():
				t.Error("acked before the broker has confirmed the processed confirm")
			default:
			}
			return r.publisher.Publish(topic, messages...)
		}), poison, middleware.WithProcessedConfirms(confirms))
		require.NoError(t, err)
		defer r.consume(preset, func(msg *message.Message) error {
			original = msg
			time.Sleep(time.Second)
			msg.UUID, handled = "another", true
			return nil
		})()
		r.send(reliable.Envelope{ID: "order-1"})
		pass(time.Minute)
		assert.Equal(t, []string{"order-1"}, r.processed())
		assert.Len(t, r.attempts("order-1"), 1, "acked")
	})
}

func TestProcessedConfirm_thatCannotBePublishedHasTheMessageComeAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		defer r.consume(r.preset(middleware.WithProcessedConfirms(confirms)), func(*message.Message) error { return nil })()
		r.send(reliable.Envelope{ID: "order-1"})
		pass(10 * time.Minute)
		tries := len(r.attempts("order-1"))
		assert.Greater(t, tries, 10, "given back")
		assert.Less(t, tries, 50, "and not in a hot loop")
		assert.Empty(t, r.in(poison), "it is no fault of the message")

		r.broker.Declare(confirms)
		pass(16 * time.Second)
		assert.Equal(t, []string{"order-1"}, r.processed())
		tries = len(r.attempts("order-1"))
		pass(time.Hour)
		assert.Len(t, r.attempts("order-1"), tries, "acked")
	})
}

func TestProcessedConfirm_ofAMessageThatFailsComesWithItsEnd(t *testing.T) {
	for name, test := range map[string]struct {
		opts      []middleware.Option
		processed []string
	}{
		"poison counts as processed":     {processed: []string{"order-1"}},
		"poison counts as not processed": {opts: []middleware.Option{middleware.WithPoisonUnprocessed()}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.broker.Declare(confirms)
				opts := append(test.opts, middleware.WithProcessedConfirms(confirms), middleware.RetryDelayed(time.Minute))
				defer r.consume(r.preset(opts...), failing)()
				r.send(reliable.Envelope{ID: "order-1"})
				pass(30 * time.Second)
				assert.Empty(t, r.processed(), "it waits in a retry topic")
				pass(time.Minute)
				assert.Len(t, r.in(poison), 1)
				assert.Equal(t, test.processed, r.processed())
			})
		})
	}
}

func TestProcessedConfirm_ofAMessageThatSucceedsFromItsRetryTopic(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.broker.Declare(confirms)
		defer r.consume(r.preset(middleware.WithProcessedConfirms(confirms), middleware.RetryDelayed(time.Minute)), func(msg *message.Message) error {
			if middleware.HistoryOf(msg.Context()).Attempts == 0 {
				return errBroken
			}
			return nil
		})()
		r.send(reliable.Envelope{ID: "order-1"})
		pass(2 * time.Minute)
		assert.Equal(t, []string{"order-1"}, r.processed())
	})
}

func TestProcessedConfirm_followsWhatTheHandlerProduced(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.broker.Declare("invoices", confirms)
		var order []string
		publisher := publisherFunc(func(topic string, messages ...*message.Message) error {
			order = append(order, topic)
			if topic == "invoices" && len(order) == 1 {
				return errors.New("the broker is away")
			}
			return r.publisher.Publish(topic, messages...)
		})
		preset, err := middleware.New(group, publisher, poison, middleware.WithProcessedConfirms(confirms), middleware.WithLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
		require.NoError(t, err)
		err = preset.AddHandler(router, "bill", topic, r.broker.Subscriber(group), "invoices", publisher, func(msg *message.Message) ([]*message.Message, error) {
			return []*message.Message{message.NewMessage("invoice-of-"+msg.UUID, nil)}, nil
		})
		require.NoError(t, err)
		defer r.route(router)()
		r.send(reliable.Envelope{ID: "order-1"})
		pass(time.Minute)
		assert.Equal(t, []string{"invoices", "invoices", confirms}, order, "what is not published is no processed message")
		assert.Len(t, r.in("invoices"), 1)
		assert.Equal(t, []string{"order-1"}, r.processed())
	})
}

func TestProcessedConfirm_isNotGivenForWhatWouldBePublishedAfterIt(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.broker.Declare(confirms, "invoices")
		router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
		require.NoError(t, err)
		var given error
		preset := r.preset(middleware.WithProcessedConfirms(confirms), middleware.WithHooks(middleware.Hooks{
			GivenBack: func(_ *message.Message, err error) { given = err },
		}))
		router.AddMiddleware(preset.Middleware)
		router.AddHandler("bill", topic, r.broker.Subscriber(group), "invoices", r.broker.Watermill(), func(msg *message.Message) ([]*message.Message, error) {
			return []*message.Message{message.NewMessage("invoice", nil)}, nil
		})
		defer r.route(router)()
		r.send(reliable.Envelope{ID: "order-1"})
		pass(time.Second)
		require.ErrorContains(t, given, "Preset.AddHandler")
		assert.Empty(t, r.processed())
	})
}

func TestConfirmProcessed_acksOnlyWhatIsConfirmed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		wrap, err := middleware.ConfirmProcessed(group, r.publisher, confirms)
		require.NoError(t, err)
		fail := errBroken
		handle := wrap(func(msg *message.Message) error {
			msg.UUID = "another"
			return fail
		})
		require.ErrorIs(t, handle(message.NewMessage("order-1", nil)), errBroken)
		fail = nil
		require.ErrorIs(t, handle(message.NewMessage("order-1", nil)), reliable.ErrUnroutable)
		r.broker.Declare(confirms)
		require.NoError(t, handle(message.NewMessage("order-1", nil)))
		assert.Equal(t, []string{"order-1"}, r.processed())
		require.NoError(t, handle(message.NewMessage("", nil)), "what no check can ask about needs no confirm")
		assert.Equal(t, []string{"order-1"}, r.processed())
	})
}

func TestConfirmProcessed_concurrentConfirmsShareAMessage(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var sizes []int
		wrap, err := middleware.ConfirmProcessed(group, publisherFunc(func(_ string, messages ...*message.Message) error {
			told, err := reliable.ProcessedOf(messages[0])
			assert.NoError(t, err)
			sizes = append(sizes, len(told))
			time.Sleep(time.Second)
			if len(told) == 1 {
				return nil
			}
			return errBroken
		}), confirms)
		require.NoError(t, err)
		handle := wrap(func(*message.Message) error { return nil })
		results := make(chan error)
		confirm := func(n int) {
			for range n {
				go func() { results <- handle(message.NewMessage(string(reliable.NewID()), nil)) }()
			}
			synctest.Wait()
		}
		confirm(1)
		confirm(reliable.MaxProcessed + 50)
		require.NoError(t, <-results)
		for range reliable.MaxProcessed + 50 {
			assert.ErrorIs(t, <-results, errBroken, "each hears what became of the message that it shared")
		}
		assert.Equal(t, []int{1, reliable.MaxProcessed, 50}, sizes)
	})
}

func TestConfirmProcessed_refusesWhatMakesNoSense(t *testing.T) {
	_, err := middleware.ConfirmProcessed("", nil, "")
	for _, field := range []string{"Group", "publisher", "topic"} {
		require.ErrorIs(t, err, reliable.ErrInvalid)
		assert.ErrorContains(t, err, field)
	}
	_, err = middleware.New(group, publisherFunc(nil), poison, middleware.WithPoisonUnprocessed())
	require.ErrorContains(t, err, "WithPoisonUnprocessed")
	for _, bad := range []string{"", poison} {
		_, err = middleware.New(group, publisherFunc(nil), poison, middleware.WithProcessedConfirms(bad))
		require.ErrorContains(t, err, "WithProcessedConfirms")
	}
}
