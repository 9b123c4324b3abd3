package sqlbroker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

var (
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// SubscriberOption configures a Subscriber.
type SubscriberOption func(*subscriberSettings)

type subscriberSettings struct {
	fetch         int
	ackDeadline   time.Duration
	pollInterval  time.Duration
	resendAfter   time.Duration
	retryInterval time.Duration
}

// WithFetch sets how many messages are read, and their transaction kept open, at once; default 1 on MySQL, 10 on
// PostgreSQL. On MySQL a transaction that has read up to the end of the topic, because fewer messages were there, locks
// the end: who publishes to the topic waits until all that was read is handled. With 1 nobody ever waits for a handler.
// On PostgreSQL nobody waits, but no subscriber of the server sees a message that began after this transaction until it
// ends. Larger is faster, and repeats more messages after a crash.
func WithFetch(messages int) SubscriberOption {
	return func(s *subscriberSettings) { s.fetch = messages }
}

// WithAckDeadline sets how long a message may be with its handler; default 30 s. Then its context ends, its ack counts no
// longer, and it is delivered again. It bounds how long a handler that hangs keeps its transaction open, and with it
// what is said at [WithFetch]. Too short delivers again what a handler was about to finish.
func WithAckDeadline(d time.Duration) SubscriberOption {
	return func(s *subscriberSettings) { s.ackDeadline = d }
}

// WithPollInterval sets the pause before looking again at a topic that has nothing new; default 100 ms. Shorter costs
// the database a transaction each time, longer is how late a message comes to an idle subscriber.
func WithPollInterval(d time.Duration) SubscriberOption {
	return func(s *subscriberSettings) { s.pollInterval = d }
}

// WithResendInterval sets the pause before a nacked message is delivered again; default 1 s. Too short makes a busy loop
// of a message whose handler always fails; the transaction stays open meanwhile, and the topic waits.
func WithResendInterval(d time.Duration) SubscriberOption {
	return func(s *subscriberSettings) { s.resendAfter = d }
}

// WithRetryInterval sets the pause after an error of the database; default 1 s.
func WithRetryInterval(d time.Duration) SubscriberOption {
	return func(s *subscriberSettings) { s.retryInterval = d }
}

func (s *subscriberSettings) validate(group string) error {
	var problems []error
	refuse := func(wrong bool, field, format string, args ...any) {
		if wrong {
			problems = append(problems, reliable.Invalid(field, format, args...))
		}
	}
	refuse(group == "" || len(group) > maxGroup, "group",
		"has %d bytes, must have 1 to %d; name the service that consumes, the same in all its processes", len(group), maxGroup)
	refuse(strings.HasPrefix(group, " "), "group", "begins with a space")
	refuse(s.fetch < 1, "WithFetch", "is %d, must be at least 1", s.fetch)
	for field, d := range map[string]time.Duration{
		"WithAckDeadline": s.ackDeadline, "WithPollInterval": s.pollInterval, "WithResendInterval": s.resendAfter,
		"WithRetryInterval": s.retryInterval,
	} {
		refuse(d <= 0, field, "is %v, must be above 0", d)
	}
	return errors.Join(problems...)
}

// maxGroup is what the column of the group's name holds.
const maxGroup = 255

// Subscriber is watermill-sql's subscriber on the tables of this package, at the isolation that it asks for. The
// processes of a group share a topic in turns: one transaction at a time reads it, so there is one message of a topic
// with a handler of the group, and the order holds. Further topics and groups go on beside it. What was acked before a
// subscription ends is recorded, also if more was read together with it (see [WithFetch]) that was not.
type Subscriber struct {
	b      *Broker
	config wsql.SubscriberConfig

	closing context.Context //nolint:containedctx // ends with Close
	endAll  context.CancelFunc

	mu     sync.Mutex     // is held to begin a subscription, and to end all
	active sync.WaitGroup // subscriptions that have not ended
}

// Subscriber returns a subscriber on this broker's database and tables that consumes as a member of group. The tables
// must exist; see [Broker.Declare] and [Subscriber.SubscribeInitialize]. It does no I/O. The caller closes it; it
// outlives the broker, and must be closed before the *sql.DB is.
func (b *Broker) Subscriber(group string, opts ...SubscriberOption) (*Subscriber, error) {
	s := subscriberSettings{
		fetch: defaultFetch(b.kind), ackDeadline: 30 * time.Second, pollInterval: 100 * time.Millisecond,
		resendAfter: time.Second, retryInterval: time.Second,
	}
	for _, opt := range opts {
		opt(&s)
	}
	if err := s.validate(group); err != nil {
		return nil, fmt.Errorf("sqlbroker: subscriber: %w", err)
	}
	schema, offsets := b.dialect.adapters(b.tables, s.fetch)
	sub := &Subscriber{
		b: prepare(b.kind, b.db, b.settings),
		config: wsql.SubscriberConfig{
			ConsumerGroup: group, AckDeadline: &s.ackDeadline, PollInterval: s.pollInterval, ResendInterval: s.resendAfter,
			RetryInterval: s.retryInterval, SchemaAdapter: schema, OffsetsAdapter: offsets,
			BackoffManager: backoff{wsql.NewDefaultBackoffManager(s.pollInterval, s.retryInterval), b},
		},
	}
	sub.closing, sub.endAll = context.WithCancel(context.Background())
	return sub, nil
}

// backoff keeps what is no error out of the log, and what an error may quote.
type backoff struct {
	wsql.BackoffManager
	b *Broker
}

// HandleError implements watermill-sql's BackoffManager.
func (m backoff) HandleError(logger watermill.LoggerAdapter, noMsg bool, err error) time.Duration {
	switch {
	case errors.Is(err, context.Canceled): // the end of a subscription
		return m.BackoffManager.HandleError(logger, true, nil)
	case err != nil && m.b.classify(err) == stopped: // another subscriber was faster
		return m.BackoffManager.HandleError(watermill.NopLogger{}, noMsg, err)
	}
	return m.BackoffManager.HandleError(logger, noMsg, m.b.told(err))
}

func defaultFetch(kind Dialect) int {
	if kind == MySQL {
		return 1
	}
	return 10
}

// Subscribe implements Watermill's Subscriber. A message's context ends when it was acked or nacked, at the ack deadline,
// and with ctx; watermill-sql's TxFromContext gives a handler the transaction in which the message was read, and in which
// it is recorded as read. The channel is closed once the acks are recorded, no later than half a confirm timeout and the
// resend interval after ctx's end.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := s.b.tables.check(topic); err != nil {
		return nil, fmt.Errorf("sqlbroker: subscribe: %w", err)
	}
	messages, err := s.subscribe(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("sqlbroker: subscribe to topic %q: %w", topic, s.b.told(err))
	}
	return messages, nil
}

// subscribe gives each subscription a subscriber of watermill-sql to itself. The end of a context rolls back what such a
// one has read, and with it acks that were given: those of messages that were read together are recorded together. Its
// Close records them.
func (s *Subscriber) subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	inner, err := wsql.NewSubscriber(s.b.db, s.config, watermill.NewSlogLogger(s.b.logger))
	if err != nil {
		return nil, err
	}
	if !s.begin() {
		return nil, reliable.ErrClosed
	}
	s.introduce(ctx, topic)
	ending, end := context.WithCancel(ctx)
	closed := context.AfterFunc(s.closing, end)
	reading, abandon := context.WithCancel(context.WithoutCancel(ctx))
	begun := context.AfterFunc(ending, abandon) // nothing was read yet
	messages, err := inner.Subscribe(reading, topic)
	begun()
	over := func() {
		closed()
		end()
		abandon()
		s.active.Done()
	}
	if err != nil {
		over()
		return nil, err
	}
	go func() {
		defer over()
		<-ending.Done()
		// It may be waiting for another member of the group, which has the topic.
		defer time.AfterFunc(s.b.confirmTimeout/2+s.config.ResendInterval, abandon).Stop()
		_ = inner.Close() // never fails
		// Nothing comes any more, but that returns a moment before the channel is closed.
		for range messages {
		}
	}()
	return messages, nil
}

// introduce makes the group known to the topic. What keeps it from that is no error: the subscription meets it as well, and
// tries again.
func (s *Subscriber) introduce(ctx context.Context, topic string) {
	ctx, cancel := context.WithTimeout(ctx, s.b.confirmTimeout)
	defer cancel()
	if err := s.b.dialect.introduce(ctx, s.b.db, s.b.tables, topic, s.config.ConsumerGroup); err != nil {
		s.b.logger.DebugContext(ctx, "the group has no row yet", "topic", topic, "error", s.b.told(err))
	}
}

func (s *Subscriber) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Err() != nil {
		return false
	}
	s.active.Add(1)
	return true
}

// SubscribeInitialize implements Watermill's SubscribeInitializer: it does what [Broker.Declare] does, within a confirm
// timeout.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.b.confirmTimeout)
	defer cancel()
	return s.b.Declare(ctx, topic)
}

// Close ends all subscriptions and waits for that: until their acks are recorded, for the pause before a nacked message is
// delivered again, and no longer for a handler. What was not acked is delivered again, to whoever subscribes next. Closing
// again does nothing.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	s.endAll()
	s.mu.Unlock()
	s.active.Wait()
	return s.b.Close()
}
