package rabbitmqbroker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/waybillmq/waybill/reliable"
)

var (
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

const (
	defaultPrefetch     = 100
	maxPrefetch         = 65_535 // AMQP's field has 16 bits
	defaultDrainTimeout = 10 * time.Second
	defaultNackDelay    = 100 * time.Millisecond
	defaultSetUpTimeout = 15 * time.Second
)

// SubscriberOption configures a Subscriber.
type SubscriberOption func(*subscriberSettings)

type subscriberSettings struct {
	prefetch     int
	concurrency  int
	drainTimeout time.Duration
	nackDelay    time.Duration
	setUpTimeout time.Duration
}

// WithPrefetch sets how many messages the broker sends to a subscription ahead of their acks, those being handled
// included; default what the config says (Consume.Qos.PrefetchCount, which is 1 in the configs that watermill-amqp makes),
// or 100 if it says nothing. 1 costs a round trip for each message and keeps the order even over redeliveries; larger keeps
// messages from other processes of the group, and in memory.
func WithPrefetch(messages int) SubscriberOption {
	return func(s *subscriberSettings) { s.prefetch = messages }
}

// WithConcurrency sets how many messages of a subscription may be with the handler at once; default 1, which keeps them in
// order as long as none is nacked. It must not exceed the prefetch.
func WithConcurrency(messages int) SubscriberOption {
	return func(s *subscriberSettings) { s.concurrency = messages }
}

// WithDrainTimeout sets how long, after Close or the end of a subscription's context, messages that are with the handler
// may still be acked; default 10 s, 0 does not wait. Then they are given back. Too short makes duplicates of what a handler
// was about to finish.
func WithDrainTimeout(timeout time.Duration) SubscriberOption {
	return func(s *subscriberSettings) { s.drainTimeout = timeout }
}

// WithNackDelay sets how long a nacked message waits before it goes back to its queue; default 100 ms, 0 is at once. It
// keeps its place among the messages with the handler meanwhile. Too short makes a busy loop of a message whose handler
// always fails, for RabbitMQ redelivers at once; too long lets few such messages hold the rest up.
func WithNackDelay(delay time.Duration) SubscriberOption {
	return func(s *subscriberSettings) { s.nackDelay = delay }
}

// WithSetUpTimeout sets how long the broker may take to declare the topology of a topic and to begin sending its messages;
// default 15 s, at least 100 ms. After it Subscribe fails, and a subscription that lost its connection tries again, on a
// connection of its own: others are not disturbed. It bounds what RabbitMQ itself gives up after 65 s, such as a quorum queue
// without a leader. Too short keeps a busy broker from ever getting ready.
func WithSetUpTimeout(timeout time.Duration) SubscriberOption {
	return func(s *subscriberSettings) { s.setUpTimeout = timeout }
}

func (s *subscriberSettings) check() error {
	var problems []error
	bad := func(field, format string, args ...any) {
		problems = append(problems, reliable.Invalid(field, format, args...))
	}
	if s.prefetch < 1 || s.prefetch > maxPrefetch {
		bad("WithPrefetch", "is %d, must lie between 1 and %d", s.prefetch, maxPrefetch)
	}
	if s.concurrency < 1 || s.concurrency > s.prefetch {
		bad("WithConcurrency", "is %d, must lie between 1 and the prefetch of %d", s.concurrency, s.prefetch)
	}
	if s.drainTimeout < 0 {
		bad("WithDrainTimeout", "is %v, must not be negative", s.drainTimeout)
	}
	if s.nackDelay < 0 {
		bad("WithNackDelay", "is %v, must not be negative", s.nackDelay)
	}
	if s.setUpTimeout < 100*time.Millisecond {
		bad("WithSetUpTimeout", "is %v, must be at least 100ms", s.setUpTimeout)
	}
	return errors.Join(problems...)
}

// Subscriber is a Watermill subscriber on the queues that the config's topology gives to topics. A message that is not acked
// comes again: after the nack delay when it was nacked (unless Consume.NoRequeueOnNack is set: then it is dropped, or
// dead-lettered), at once when its connection was lost or its subscriber was closed. Subscriptions survive a restart of the
// broker, and the loss of their queue, which they declare again.
//
// All subscriptions share one connection, apart from the publishers', and have a channel each. One whose queue the broker is
// silent about is begun again on another connection, so that the rest need not wait for it. A message that the marshaler
// cannot read is logged, and goes back to its queue as if it had been nacked: a queue with a delivery limit or a dead-letter
// exchange takes it out. What RabbitMQ adds to the headers as numbers or tables (x-delivery-count, x-death) is metadata as
// text or, of tables, left out, where the marshaler takes text only, as watermill-amqp's own does.
//
// It is safe for concurrent use. It connects at the first Subscribe.
type Subscriber struct {
	settings // where and how to connect
	subscriberSettings

	connector connector
	closing   context.Context //nolint:containedctx // subscriptions end with Close, whoever began them
	endAll    context.CancelFunc
	mu        sync.Mutex     // no subscription begins once Close waits for them
	active    sync.WaitGroup // subscriptions, and calls of amqp091, which know no context
	once      sync.Once
	closed    chan struct{} // Close is done
}

// Subscriber returns a subscriber with this Broker's topology and marshaler, on a connection of its own. It does no I/O. The
// caller closes it; it outlives the Broker. Which consumers share the messages of a topic is a matter of the config's names
// for queues: those that consume one queue are a group.
func (b *Broker) Subscriber(opts ...SubscriberOption) (*Subscriber, error) {
	return newSubscriber(b.settings, opts)
}

func newSubscriber(settings settings, opts []SubscriberOption) (*Subscriber, error) {
	s := &Subscriber{
		settings: settings,
		subscriberSettings: subscriberSettings{
			prefetch: settings.config.Consume.Qos.PrefetchCount, concurrency: 1,
			drainTimeout: defaultDrainTimeout, nackDelay: defaultNackDelay, setUpTimeout: defaultSetUpTimeout,
		},
		closed: make(chan struct{}),
	}
	if s.prefetch == 0 {
		s.prefetch = defaultPrefetch
	}
	for _, opt := range opts {
		opt(&s.subscriberSettings)
	}
	problems := s.subscriberSettings.check()
	if s.config.Queue.GenerateName == nil {
		problems = errors.Join(problems, reliable.Invalid("Queue.GenerateName", "is nil, but a subscriber needs the names of queues"))
	}
	if problems != nil {
		return nil, fmt.Errorf("rabbitmqbroker: new subscriber: %w", problems)
	}
	s.connector = newConnector(&s.settings)
	s.closing, s.endAll = context.WithCancel(context.Background())
	return s, nil
}

// Subscribe implements message.Subscriber. It declares the topology of topic and consumes its queue until ctx ends or
// Close. That the broker cannot be reached, or does not answer within the set-up timeout, is an error at first; later it is
// an outage, which the subscription outlives.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	sub := s.newSubscription(ctx, topic)
	first, err := sub.open()
	if err == nil && !s.begin(func() { sub.run(first) }) {
		first.end()
		err = reliable.ErrClosed
	}
	if err != nil {
		sub.stop()
		return nil, fmt.Errorf("rabbitmqbroker: subscribe to topic %q: %w", topic, err)
	}
	return sub.out, nil
}

// SubscribeInitialize implements message.SubscribeInitializer: it declares the topology of topic, so that messages find
// their queue before anybody consumes it. It fails if the broker does not answer within the set-up timeout.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	err := s.onConnection(s.closing, func(conn *connection) error { return s.declareFor(conn.Connection, topic) })
	if err != nil {
		return fmt.Errorf("rabbitmqbroker: initialize topic %q: %w", topic, err)
	}
	return nil
}

func (s *Subscriber) declareFor(conn *amqp.Connection, topic string) error {
	if s.declare == declareNothing {
		return nil
	}
	return declareOn(conn, s.config, topic)
}

// begin runs a subscription; false once Close has begun.
func (s *Subscriber) begin(run func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Err() != nil {
		return false
	}
	s.active.Go(run)
	return true
}

// onConnection calls f with the connection. It returns when ctx ends, or the set-up timeout, even if f does not: amqp091 waits
// for the broker's answers without looking at a clock. What f leaves behind then, it has to clean up.
func (s *Subscriber) onConnection(ctx context.Context, f func(*connection) error) error {
	for {
		if s.closing.Err() != nil {
			return reliable.ErrClosed
		}
		conn, err := s.connector.get(ctx)
		if err != nil {
			if s.closing.Err() != nil {
				return reliable.ErrClosed
			}
			return err
		}
		err = s.bounded(ctx, conn, f)
		// It may have ended because of somebody else, to whom the broker was silent.
		if err == nil || errors.Is(err, errSilent) || ctx.Err() != nil || !s.connector.wasRetired(conn) {
			return err
		}
	}
}

func (s *Subscriber) bounded(ctx context.Context, conn *connection, f func(*connection) error) error {
	answer, silent := make(chan error, 1), make(chan struct{})
	var overdue atomic.Bool
	// It is retired even if nobody waits for f any more.
	limit := time.AfterFunc(s.setUpTimeout, func() {
		overdue.Store(true) // before f can fail because of what comes next
		s.connector.retire(conn)
		close(silent) // whoever is told may try again at once, and must not find the same connection
	})
	if !s.begin(func() {
		defer limit.Stop()
		answer <- f(conn)
	}) {
		limit.Stop()
		return reliable.ErrClosed
	}
	select {
	case err := <-answer:
		if err != nil && overdue.Load() {
			return errSilent
		}
		return err
	case <-silent:
		return errSilent
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close ends all subscriptions: nothing more is delivered, what is with a handler may be acked for the drain timeout, the
// rest is given back, the channels are closed. Closing again waits for that and does nothing.
func (s *Subscriber) Close() error {
	s.once.Do(func() {
		defer close(s.closed)
		s.mu.Lock()
		s.endAll()
		s.mu.Unlock()
		stuck := time.AfterFunc(s.drainTimeout+closeHandshake+dialTimeout, s.connector.abort)
		s.active.Wait()
		stuck.Stop()
		s.connector.close()
	})
	<-s.closed
	return nil
}
