package retries

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

// watermill-kafka's client library counts, and never stops to.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

const (
	group     = "billing"
	operators = "operators"
	// patience is how long a test waits for what must happen, on a loaded machine; on PostgreSQL also for the transactions of
	// other tests, which hide what is newer.
	patience = 2 * time.Minute
)

// place is where a test runs: make returns the URL of an empty broker, and the name of a topic there.
type place struct {
	name string
	make func(t *testing.T) (brokerURL, topic string)
}

var embeddedNATS = place{name: "NATS", make: func(t *testing.T) (string, string) {
	return "nats-embedded:" + filepath.Join(t.TempDir(), "nats"), "orders"
}}

var brokers = backend.Brokers{embedded.Backend(), rabbitmqbroker.Backend(), kafkabroker.Backend(), sqlbroker.Backend()}

// onEach runs test on every broker.
func onEach(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	for _, p := range places() {
		t.Run(p.name, func(t *testing.T) {
			r := &rig{t: t}
			r.url, r.topic = p.make(t)
			r.open()
			t.Cleanup(r.shut)
			test(t, r)
		})
	}
}

// rig is one process that consumes a topic, and what its handler saw.
type rig struct {
	t     *testing.T
	url   string
	topic string

	broker    backend.Broker
	publisher message.Publisher
	closers   []func() error

	mu    sync.Mutex
	calls []call
	heard chan struct{} // has room for a note that there is a new call
}

type call struct {
	id      string
	history middleware.Failure
}

func (r *rig) poison() string { return r.topic + ".poison" }

// open connects, as a process does that starts.
func (r *rig) open() {
	r.t.Helper()
	broker, err := brokers.Open(within(r.t), r.url)
	require.NoError(r.t, err)
	r.broker, r.publisher = broker, broker.Watermill()
	r.closers = []func() error{broker.Close, r.publisher.Close}
	if r.heard == nil {
		r.heard = make(chan struct{}, 1)
	}
}

// shut ends everything that the process has, in the reverse order.
func (r *rig) shut() {
	for _, closer := range slices.Backward(r.closers) {
		assert.NoError(r.t, closer())
	}
	r.closers = nil
}

func (r *rig) declare(topics ...string) {
	r.t.Helper()
	require.NoError(r.t, r.broker.Declare(within(r.t), topics...))
}

func (r *rig) subscriber(group string) message.Subscriber {
	r.t.Helper()
	subscriber, err := r.broker.Subscribe(group)
	require.NoError(r.t, err)
	r.closers = append(r.closers, subscriber.Close)
	return subscriber
}

func (r *rig) preset(publisher message.Publisher, opts ...middleware.Option) *middleware.Preset {
	r.t.Helper()
	opts = append([]middleware.Option{
		middleware.WithLogger(slog.New(slog.NewTextHandler(r.t.Output(), nil))), middleware.WithPause(200*time.Millisecond, time.Second),
	}, opts...)
	preset, err := middleware.New(group, publisher, r.poison(), opts...)
	require.NoError(r.t, err)
	return preset
}

// consume runs a router with the handler on the topic until the process is shut.
func (r *rig) consume(preset *middleware.Preset, handler message.NoPublishHandlerFunc) {
	r.t.Helper()
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: patience}, watermill.NopLogger{})
	require.NoError(r.t, err)
	err = preset.AddConsumerHandler(router, "bill", r.topic, r.subscriber(group), func(msg *message.Message) error {
		r.mu.Lock()
		r.calls = append(r.calls, call{id: msg.UUID, history: middleware.HistoryOf(msg.Context())})
		r.mu.Unlock()
		select {
		case r.heard <- struct{}{}:
		default:
		}
		return handler(msg)
	})
	require.NoError(r.t, err)
	done := make(chan error, 1)
	go func() { done <- router.Run(context.Background()) }()
	<-router.Running()
	r.closers = append(r.closers, func() error {
		return errors.Join(router.Close(), <-done)
	})
}

func (r *rig) send(key string, ids ...string) {
	r.t.Helper()
	messages := make([]*message.Message, len(ids))
	for i, id := range ids {
		env := reliable.Envelope{ID: reliable.ID(id), Topic: r.topic, Key: key, Metadata: map[string]string{"tenant": "eu"}, Payload: []byte("2 teapots")}
		messages[i] = env.Message()
	}
	require.NoError(r.t, r.publisher.Publish(r.topic, messages...))
}

// handled returns the calls for one message.
func (r *rig) handled(id string) (of []call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.calls {
		if c.id == id {
			of = append(of, c)
		}
	}
	return of
}

// await waits until the handler was called n times for a message.
func (r *rig) await(id string, n int) {
	r.t.Helper()
	ctx := within(r.t)
	for len(r.handled(id)) < n {
		select {
		case <-r.heard:
		case <-ctx.Done():
			require.Failf(r.t, "not handled", "%s: %d calls of %d", id, len(r.handled(id)), n)
		}
	}
}

// reader reads a topic as a group of its own.
type reader struct {
	t        *testing.T
	messages <-chan *message.Message
}

func (r *rig) reader(topic, group string) *reader {
	r.t.Helper()
	messages, err := r.subscriber(group).Subscribe(within(r.t), topic)
	require.NoError(r.t, err)
	return &reader{r.t, messages}
}

// next waits for a message and acks it.
func (r *reader) next() *message.Message {
	r.t.Helper()
	select {
	case msg, open := <-r.messages:
		require.True(r.t, open, "the subscription ended")
		msg.Ack()
		return msg
	case <-within(r.t).Done():
		require.Fail(r.t, "no message")
		return nil
	}
}

// none makes sure that nothing comes for a while.
func (r *reader) none(while time.Duration) {
	r.t.Helper()
	select {
	case msg := <-r.messages:
		require.Fail(r.t, "a message", msg.UUID)
	case <-time.After(while):
	}
}

// within returns a context that ends when the test's patience does, or the test.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func ids(prefix string, n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("%s-%02d", prefix, i))
	}
	return all
}
