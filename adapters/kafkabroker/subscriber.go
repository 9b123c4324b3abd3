package kafkabroker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

var (
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

const (
	maxConcurrency      = 100_000
	defaultDrainTimeout = 10 * time.Second
	// maxDrainTimeout leaves a member that gives partitions away time before its group goes on without it, which is after a
	// minute, franz-go's default.
	maxDrainTimeout  = 45 * time.Second
	defaultNackDelay = 100 * time.Millisecond
	// commitEvery is after which time a position is committed that acks have moved.
	commitEvery = time.Second
)

// SubscriberOption configures a Subscriber.
type SubscriberOption func(*subscriberSettings)

type subscriberSettings struct {
	concurrency  int
	drainTimeout time.Duration
	nackDelay    time.Duration
}

// WithConcurrency sets how many messages of one partition may be with the handler at once, counted from the oldest that is
// not acked; default 1, which keeps each partition in order, at most 100,000. More gives up that order, and lets handlers
// that wait for a database or another service share its round trips. It is also how many messages of a partition come again
// after a crash, besides those acked in the last second.
func WithConcurrency(messages int) SubscriberOption {
	return func(s *subscriberSettings) { s.concurrency = messages }
}

// WithDrainTimeout sets how long messages that are with the handler may still be acked after Close, after the end of a
// subscription's context, and before their partition goes to another member of the group, which the group waits for; default
// 10 s, 0 does not wait, at most 45 s. Then they come again. Too short makes duplicates of what a handler was about to finish.
func WithDrainTimeout(timeout time.Duration) SubscriberOption {
	return func(s *subscriberSettings) { s.drainTimeout = timeout }
}

// WithNackDelay sets after which time a nacked message is handed over again; default 100 ms, 0 is at once. Too short makes a
// busy loop of a message whose handler always fails.
func WithNackDelay(delay time.Duration) SubscriberOption {
	return func(s *subscriberSettings) { s.nackDelay = delay }
}

func (s *subscriberSettings) check(group string) error {
	var problems []error
	bad := func(field, format string, args ...any) {
		problems = append(problems, reliable.Invalid(field, format, args...))
	}
	if group == "" {
		bad("group", "is empty; name the service that consumes, the same in all its processes")
	}
	if s.concurrency < 1 || s.concurrency > maxConcurrency {
		bad("WithConcurrency", "is %d, must lie between 1 and %d", s.concurrency, maxConcurrency)
	}
	if s.drainTimeout < 0 || s.drainTimeout > maxDrainTimeout {
		bad("WithDrainTimeout", "is %v, must lie between 0 and %v", s.drainTimeout, maxDrainTimeout)
	}
	if s.nackDelay < 0 {
		bad("WithNackDelay", "is %v, must not be negative", s.nackDelay)
	}
	return errors.Join(problems...)
}

// Subscriber is a Watermill subscriber that can hand over many messages of a partition at once, where the one of
// watermill-kafka ([Broker.Subscribe]) hands over one. The position that is committed is that below which every message is
// acked, so that no message is lost: what a process held comes again when it has died, when its partition went to another
// member, and when it was closed before the ack. A nacked message is handed over again after the nack delay, and holds up
// its partition once the concurrency is used up by what follows it. Subscriptions survive restarts of the brokers.
//
// A record that the marshaler cannot read is logged and tried again every second, and holds its partition up in the same way.
// For each partition up to 4 MiB wait in memory, or one record that is larger.
//
// It is safe for concurrent use. Each subscription is a member of the group, with connections of its own.
type Subscriber struct {
	settings // where and how to connect
	subscriberSettings

	b       *Broker // declares topics; a Broker of its own, which publishes nothing
	group   string
	closing context.Context //nolint:containedctx // subscriptions end with Close, whoever began them
	endAll  context.CancelFunc
	mu      sync.Mutex // no subscription begins once Close waits for them
	active  sync.WaitGroup
	once    sync.Once
	closed  chan struct{} // Close is done
}

// Subscriber returns a subscriber for this Broker's cluster and marshaler, with connections of its own, that consumes as a
// member of group: the members share the partitions of a topic. It does no I/O. The caller closes it; it outlives the Broker.
//
// Kafka has the members of a group agree on how they share, and those of [Broker.Subscribe] (sarama) share differently: a group
// that moves from one to the other stops all its members first. A member of the other kind gets no messages, and logs why.
func (b *Broker) Subscriber(group string, opts ...SubscriberOption) (*Subscriber, error) {
	s := &Subscriber{
		settings: b.settings, group: group, closed: make(chan struct{}),
		subscriberSettings: subscriberSettings{concurrency: 1, drainTimeout: defaultDrainTimeout, nackDelay: defaultNackDelay},
	}
	for _, opt := range opts {
		opt(&s.subscriberSettings)
	}
	if err := s.subscriberSettings.check(group); err != nil {
		return nil, fmt.Errorf("kafkabroker: new subscriber: %w", err)
	}
	s.b = start(b.settings)
	s.closing, s.endAll = context.WithCancel(context.Background())
	return s, nil
}

// Subscribe implements message.Subscriber. A group that is new begins with the oldest message of the topic; one that exists
// goes on where it was. That the cluster cannot be reached, or has no such topic, is an error after the confirm timeout at
// most; what happens later is an outage, which the subscription outlives.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	sub, err := s.subscribe(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("kafkabroker: subscribe to topic %q: %w", topic, err)
	}
	return sub.out, nil
}

func (s *Subscriber) subscribe(ctx context.Context, topic string) (*subscription, error) {
	if topic == "" {
		return nil, reliable.Invalid("topic", "is empty; name the topic to consume")
	}
	sub, err := s.newSubscription(ctx, topic)
	if err != nil {
		return nil, err
	}
	asking, cancel := context.WithTimeout(sub.ctx, s.confirmTimeout)
	defer cancel()
	err = awaitLeaders(asking, sub.client, []string{topic})
	if s.closing.Err() != nil || err == nil && !s.begin(sub.run) {
		err = reliable.ErrClosed
	}
	if err != nil {
		sub.stop()
		sub.client.Close()
		return nil, err
	}
	return sub, nil
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

// SubscribeInitialize implements message.SubscribeInitializer: it makes the topic, as [Broker.Declare] does.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	ctx, cancel := context.WithTimeout(s.closing, s.confirmTimeout)
	defer cancel()
	return s.b.Declare(ctx, topic)
}

// Close ends all subscriptions: nothing more is handed over, what is with a handler may be acked for the drain timeout,
// positions are committed, the channels are closed. Closing again waits for that and does nothing.
func (s *Subscriber) Close() error {
	var err error
	s.once.Do(func() {
		defer close(s.closed)
		s.mu.Lock()
		s.endAll()
		s.mu.Unlock()
		s.active.Wait()
		err = s.b.Close()
	})
	<-s.closed
	return err
}
