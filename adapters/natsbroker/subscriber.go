package natsbroker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybillmq/waybill/reliable"
)

var (
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// SubscriberOption configures a Subscriber.
type SubscriberOption func(*subscriberSettings)

type subscriberSettings struct {
	ackWait       time.Duration
	prefetch      int
	concurrency   int
	maxAckPending int
	closeTimeout  time.Duration
	nackDelay     func(deliveries int) time.Duration
	configure     func(*jetstream.ConsumerConfig)
}

// WithAckWait sets after how long the messages of a process that died are given to another one; default 30 s, at least
// 100 ms. A message that a living subscriber holds is kept from that however long its handler takes. Too short gives
// messages to a second process because of a pause in the first one.
func WithAckWait(d time.Duration) SubscriberOption {
	return func(s *subscriberSettings) { s.ackWait = d }
}

// WithPrefetch sets how many messages a subscription holds, those being handled included; default 100. Smaller costs
// throughput; larger keeps messages from other processes of the group.
func WithPrefetch(messages int) SubscriberOption {
	return func(s *subscriberSettings) { s.prefetch = messages }
}

// WithConcurrency sets how many messages of a subscription may be with the handler at once; default 1, which keeps them
// in order as long as none is nacked. It must not exceed the prefetch.
func WithConcurrency(messages int) SubscriberOption {
	return func(s *subscriberSettings) { s.concurrency = messages }
}

// WithMaxAckPending sets how many unacked messages a whole group may hold of a topic; default 1000. 1 keeps the order
// even over redeliveries and for all processes of the group together, at the rate of one message per round trip.
func WithMaxAckPending(messages int) SubscriberOption {
	return func(s *subscriberSettings) { s.maxAckPending = messages }
}

// WithCloseTimeout sets how long, after Close or the end of a subscription's context, messages that are with the
// handler may still be acked; default 10 s. Then they are given back. Too short makes duplicates of what a handler was
// about to finish.
func WithCloseTimeout(d time.Duration) SubscriberOption {
	return func(s *subscriberSettings) { s.closeTimeout = d }
}

// WithNackDelay sets how long a nacked message waits before its redelivery, by how often it was delivered so far (1 or
// more); default 100 ms, doubling up to 30 s. Too short makes a busy loop of a message whose handler always fails.
func WithNackDelay(of func(deliveries int) time.Duration) SubscriberOption {
	return func(s *subscriberSettings) { s.nackDelay = of }
}

// WithConsumer changes the configuration of the durable consumer before it is created or updated: where to begin, how
// often to deliver at most, its name. Its ack policy must remain explicit.
func WithConsumer(configure func(*jetstream.ConsumerConfig)) SubscriberOption {
	return func(s *subscriberSettings) { s.configure = configure }
}

func doubling(deliveries int) time.Duration {
	const first, most = 100 * time.Millisecond, 30 * time.Second
	return min(first<<min(max(deliveries-1, 0), 16), most)
}

func (s *subscriberSettings) validate(group string) error {
	var problems []error
	refuse := func(field, format string, args ...any) {
		problems = append(problems, reliable.Invalid(field, format, args...))
	}
	if group == "" {
		refuse("group", "is empty; name the service that consumes, the same in all its processes")
	}
	if s.ackWait < 100*time.Millisecond {
		refuse("WithAckWait", "is %v, must be at least 100ms", s.ackWait)
	}
	if s.prefetch < 1 {
		refuse("WithPrefetch", "is %d, must be at least 1", s.prefetch)
	}
	if s.concurrency < 1 || s.concurrency > s.prefetch {
		refuse("WithConcurrency", "is %d, must lie between 1 and the prefetch of %d", s.concurrency, s.prefetch)
	}
	if s.maxAckPending < 1 {
		refuse("WithMaxAckPending", "is %d, must be at least 1", s.maxAckPending)
	}
	if s.closeTimeout < 0 {
		refuse("WithCloseTimeout", "is %v, must not be negative", s.closeTimeout)
	}
	if s.nackDelay == nil {
		refuse("WithNackDelay", "is nil; leave the option out for the default")
	}
	return errors.Join(problems...)
}

// Subscriber is a Watermill subscriber with durable pull consumers: one for each topic and group, which the processes
// of the group share. A message that is not acked comes again: after a delay when it was nacked, after the ack wait
// when its process died, within a moment when its subscription ended or its subscriber was closed. Subscriptions survive
// a restart of the server.
//
// It is safe for concurrent use. It connects at the first Subscribe.
type Subscriber struct {
	b     *Broker // where and how to connect; its own connection is not used
	group string
	subscriberSettings

	closing context.Context //nolint:containedctx // ends with Close
	endAll  context.CancelFunc
	active  sync.WaitGroup
	closed  chan struct{} // Close is done
	once    sync.Once

	mu   sync.Mutex
	wire *wire
	nc   *nats.Conn
	subs map[*subscription]struct{}
}

// Subscriber returns a subscriber for this broker's server and topology, with a connection of its own, that consumes as
// a member of group. Streams must exist; see [Subscriber.SubscribeInitialize]. It does no I/O. The caller closes it; it
// outlives the broker.
func (b *Broker) Subscriber(group string, opts ...SubscriberOption) (*Subscriber, error) {
	s := &Subscriber{
		b: prepare(b.cfg, b.settings), group: group,
		subscriberSettings: subscriberSettings{
			ackWait: 30 * time.Second, prefetch: 100, concurrency: 1, maxAckPending: 1000,
			closeTimeout: 10 * time.Second, nackDelay: doubling,
		},
		closed: make(chan struct{}),
		subs:   make(map[*subscription]struct{}),
	}
	for _, opt := range opts {
		opt(&s.subscriberSettings)
	}
	if err := s.validate(group); err != nil {
		return nil, fmt.Errorf("natsbroker: new subscriber: %w", err)
	}
	s.closing, s.endAll = context.WithCancel(context.Background())
	return s, nil
}

// Subscribe implements message.Subscriber. The consumer begins with the oldest message of the topic that its stream
// still has, unless [WithConsumer] says otherwise; once it exists it goes on where the group was. Connecting and making
// the consumer take no longer than the broker's confirm timeout.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	sub, err := s.subscribe(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("natsbroker: subscribe to topic %q: %w", printable(topic), err)
	}
	return sub.out, nil
}

func (s *Subscriber) subscribe(ctx context.Context, topic string) (*subscription, error) {
	subject, err := s.b.subjectOf(topic)
	if err != nil {
		return nil, err
	}
	js, err := s.connect()
	if err != nil {
		return nil, err
	}
	setup, cancel := context.WithTimeout(ctx, s.b.confirmTimeout)
	defer cancel()
	stream, err := js.StreamNameBySubject(setup, subject)
	if err != nil {
		return nil, fmt.Errorf("find the stream of subject %q: %w; make one with WithStream and Declare", subject, err)
	}
	config := jetstream.ConsumerConfig{
		Durable:       consumerName(s.group, subject),
		FilterSubject: subject,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       s.ackWait,
		MaxAckPending: s.maxAckPending,
	}
	if s.configure != nil {
		s.configure(&config)
	}
	sub := &subscription{s: s, nc: js.Conn(), js: js, stream: stream, config: config}
	if err := sub.makeConsumer(setup); err != nil {
		return nil, err
	}
	return sub, sub.start(ctx)
}

// consumerName is the group and the subject, as far as JetStream takes that for a name.
func consumerName(group, subject string) string {
	return fitName(group+"__"+subject, group+"\x00"+subject)
}

// fitName is text where JetStream takes that for a name; else what it does take of it, and enough of identity's hash to
// tell it from others.
func fitName(text, identity string) string {
	clean := strings.Map(func(r rune) rune {
		if r <= ' ' || strings.ContainsRune(".*>/\\", r) {
			return '_'
		}
		return r
	}, text)
	const longest = 100 // it is also the name of a folder
	if clean == text && len(clean) <= longest {
		return clean
	}
	if len(clean) > longest {
		clean = strings.ToValidUTF8(clean[:longest], "_")
	}
	sum := sha256.Sum256([]byte(identity))
	return clean + "-" + hex.EncodeToString(sum[:4])
}

// SubscribeInitialize implements message.SubscribeInitializer: it makes the streams of [WithStream] that do not exist,
// and fails if none of the server's takes the topic's subject then.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	ctx, cancel := context.WithTimeout(s.closing, s.b.confirmTimeout)
	defer cancel()
	err := func() error {
		subject, err := s.b.subjectOf(topic)
		if err != nil {
			return err
		}
		js, err := s.connect()
		if err != nil {
			return err
		}
		for _, config := range s.b.streams {
			if err := ensure(ctx, js, config); err != nil {
				return fmt.Errorf("declare stream %q: %w", config.Name, err)
			}
		}
		_, err = js.StreamNameBySubject(ctx, subject)
		return err
	}()
	if err != nil {
		return fmt.Errorf("natsbroker: initialize topic %q: %w", printable(topic), err)
	}
	return nil
}

// connect makes the connection at the first call. The client keeps it: whatever it sends late is an ack, or a question
// that is asked again.
func (s *Subscriber) connect() (jetstream.JetStream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Err() != nil {
		return nil, reliable.ErrClosed
	}
	if s.nc == nil {
		w := newWire(context.Background())
		nc, err := s.b.dial(w, s.keepConnected)
		if err != nil {
			w.cut()
			return nil, err
		}
		s.wire, s.nc = w, nc
	}
	return s.b.jetStream(s.nc)
}

func (s *Subscriber) keepConnected(o *nats.Options) {
	o.AllowReconnect, o.MaxReconnect, o.RetryOnFailedConnect = true, -1, false
	o.IgnoreAuthErrorAbort = true
	o.CustomReconnectDelayCB = func(attempts int) time.Duration {
		return min(s.b.reconnectMin<<min(attempts, 16), s.b.reconnectMax)
	}
	reconnected, failed := o.ReconnectedCB, o.AsyncErrorCB
	o.ReconnectedCB = func(nc *nats.Conn) {
		s.b.logger.LogAttrs(s.closing, slog.LevelInfo, "nats subscriber reconnected")
		s.askAgain()
		if reconnected != nil {
			reconnected(nc)
		}
	}
	o.AsyncErrorCB = func(nc *nats.Conn, sub *nats.Subscription, err error) {
		s.b.logger.LogAttrs(s.closing, slog.LevelWarn, "nats server complains", slog.Any("error", err))
		if failed != nil {
			failed(nc, sub, err)
		}
	}
}

// askAgain tells every subscription that what it asked on the connection before is forgotten.
func (s *Subscriber) askAgain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sub := range s.subs {
		signal(sub.again)
	}
}

// Close ends all subscriptions: nothing more is delivered, what is with a handler may be acked for the close timeout,
// the rest is given back, the channels are closed. Closing again waits for that and does nothing.
func (s *Subscriber) Close() error {
	s.once.Do(func() {
		defer close(s.closed)
		s.mu.Lock()
		s.endAll()
		s.mu.Unlock()
		s.active.Wait()
		_ = s.b.Close() // it never connected
		if s.nc == nil {
			return
		}
		stuck := time.AfterFunc(s.b.confirmTimeout, s.wire.cut)
		_ = s.nc.Flush() // the last acks; what does not get through is delivered again
		s.nc.Close()
		stuck.Stop()
		s.wire.cut()
	})
	<-s.closed
	return nil
}
