package middleware_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	topic  = "orders"
	poison = "orders.poison"
	group  = "billing"
)

var errBroken = errors.New("cannot bill")

// rig is a broker whose topics must be declared, and a consumer of one of them. It lives in a bubble of synctest.
type rig struct {
	t         *testing.T
	broker    *membroker.Broker
	publisher message.Publisher
	end       context.CancelFunc // ends the contexts of the messages, as a process does that is told to stop

	mu    sync.Mutex
	calls []call
}

// call is one attempt, as the handler saw it.
type call struct {
	id       string
	at       time.Duration // since the rig was made
	metadata message.Metadata
}

// bubble runs test with a rig in virtual time.
func bubble(t *testing.T, test func(t *testing.T, r *rig), opts ...membroker.Option) {
	t.Helper()
	virtualtime.Test(t, func(t *testing.T) {
		r := &rig{t: t, broker: membroker.New(append(opts, membroker.WithDeclaredTopicsOnly())...)}
		r.broker.Declare(topic, poison)
		r.publisher = r.broker.Watermill()
		defer func() {
			assert.NoError(t, r.publisher.Close())
			assert.NoError(t, r.broker.Close())
		}()
		test(t, r)
	})
}

func (r *rig) preset(opts ...middleware.Option) *middleware.Preset {
	r.t.Helper()
	opts = append([]middleware.Option{middleware.WithLogger(slog.New(slog.DiscardHandler))}, opts...)
	preset, err := middleware.New(group, r.publisher, poison, opts...)
	require.NoError(r.t, err)
	return preset
}

// consume runs a router with the handler "bill" on the topic, until stop is called.
func (r *rig) consume(preset *middleware.Preset, handler message.NoPublishHandlerFunc) (stop func()) {
	r.t.Helper()
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(r.t, err)
	// A router subscribes to one topic after the other: the first message may fail before its retry topic is there.
	r.broker.Declare(preset.RetryTopics(topic)...)
	began := time.Now()
	require.NoError(r.t, preset.AddConsumerHandler(router, "bill", topic, r.broker.Subscriber(group), func(msg *message.Message) error {
		r.mu.Lock()
		r.calls = append(r.calls, call{id: msg.UUID, at: time.Since(began), metadata: msg.Copy().Metadata})
		r.mu.Unlock()
		return handler(msg)
	}))
	return r.route(router)
}

func (r *rig) route(router *message.Router) (stop func()) {
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	r.end = cancel
	go func() { done <- router.Run(ctx) }()
	<-router.Running()
	var once sync.Once
	return func() {
		once.Do(func() {
			// First, so that no handler pauses any more: while Close waits, other goroutines of the router wait for a
			// mutex, and virtual time stands still.
			cancel()
			assert.NoError(r.t, router.Close())
			assert.NoError(r.t, <-done)
		})
	}
}

// send puts messages in the topic, as an outbox would.
func (r *rig) send(envs ...reliable.Envelope) {
	r.t.Helper()
	for _, env := range envs {
		env.Topic = topic
		if env.Payload == nil {
			env.Payload = []byte("2 teapots")
		}
		require.NoError(r.t, r.publisher.Publish(topic, env.Message()))
	}
}

// made returns all calls so far.
func (r *rig) made() []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// attempts returns the calls for one message.
func (r *rig) attempts(id string) (of []call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.calls {
		if c.id == id {
			of = append(of, c)
		}
	}
	return of
}

// in returns what a topic holds, in order, as a consumer of it would get it.
func (r *rig) in(name string) (held []*message.Message) {
	for _, delivery := range r.broker.Delivered(name) {
		held = append(held, delivery.Envelope.Message())
	}
	return held
}

// pass lets virtual time pass.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func failing(*message.Message) error { return errBroken }
