package kafkabroker

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/IBM/sarama"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"

	"github.com/waybillmq/waybill/reliable"
)

const (
	defaultWindow         = 1000
	maxWindow             = 100_000
	defaultConfirmTimeout = 15 * time.Second
	minConfirmTimeout     = time.Second
	defaultCloseTimeout   = 5 * time.Second
	defaultMaxMessage     = 1_000_012
	minMaxMessage         = 16 << 10
	maxMaxMessage         = 1 << 30
	defaultClientID       = "waybill"
)

// Option changes how a Broker works.
type Option func(*settings)

// settings is what options change. It is only read after New.
type settings struct {
	brokers        []string
	clientID       string
	window         int
	linger         time.Duration
	confirmTimeout time.Duration
	closeTimeout   time.Duration
	maxMessage     int
	marshaler      wkafka.MarshalerUnmarshaler
	asWatermill    bool // partition as watermill-kafka does
	partitions     int32
	replicas       int16
	subscriber     []func(*wkafka.SubscriberConfig)
	login          *login
	tls            *tls.Config
	dial           func(ctx context.Context, network, address string) (net.Conn, error)
	logger         *slog.Logger
	hooks          Hooks
}

// Hooks are told what happens to connections. Nil functions are not called. They are called on the client's goroutines:
// one that blocks delays confirms.
type Hooks struct {
	// Connected is called when a connection to a broker (host:port) was made.
	Connected func(broker string)
	// Disconnected is called when one ended, for whatever reason.
	Disconnected func(broker string)
}

func defaults(brokers []string) settings {
	return settings{
		brokers:        brokers,
		clientID:       defaultClientID,
		window:         defaultWindow,
		confirmTimeout: defaultConfirmTimeout,
		closeTimeout:   defaultCloseTimeout,
		maxMessage:     defaultMaxMessage,
		marshaler:      wkafka.DefaultMarshaler{},
		partitions:     -1,
		replicas:       -1,
		dial:           (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext,
		logger:         slog.Default(),
	}
}

// WithWindow sets how many attempts may be handed over whose confirm was not received yet. Default 1000, 1 to 100,000.
// Small windows cost throughput, since batches are then small; large ones cost memory, and make more outcomes unknown when
// a partition stays without a leader.
func WithWindow(attempts int) Option { return func(s *settings) { s.window = attempts } }

// WithLinger sets how long a record waits for others to share its batch. Default 0, at most 1 s. The window fills batches
// by itself: a linger of 5 ms was slower at every window that was measured. It saves requests where a few records come now
// and then and nobody waits for them.
func WithLinger(linger time.Duration) Option { return func(s *settings) { s.linger = linger } }

// WithConfirmTimeout sets after which time an attempt without a verdict is given up as Unknown, with all that waits for the
// same partition. Default 15 s, at least 1 s; one request may take two fifths of it. Too short makes duplicates of what a
// busy cluster was about to confirm, and does not outlast the election of a leader; too long needs a longer lease, see
// [Broker.MaxConfirmWait].
func WithConfirmTimeout(timeout time.Duration) Option {
	return func(s *settings) { s.confirmTimeout = timeout }
}

// WithCloseTimeout sets how long Close waits for the verdicts of what is in flight; what has none by then is Unknown.
// Default 5 s, 0 does not wait. Too short makes duplicates at every shutdown.
func WithCloseTimeout(timeout time.Duration) Option {
	return func(s *settings) { s.closeTimeout = timeout }
}

// WithMaxMessageBytes sets how large a record, and a batch of records, may become before compression. What is larger is
// Rejected without being sent. Default 1,000,012, which fits into Kafka's own default; 16 KiB to 1 GiB. Set it to the
// smallest max.message.bytes of the topics: above that, brokers refuse whole batches and each record is tried alone.
func WithMaxMessageBytes(bytes int) Option { return func(s *settings) { s.maxMessage = bytes } }

// WithMarshaler sets how messages become records and back. Default watermill-kafka's DefaultMarshaler. A key that the
// marshaler sets is used in place of the envelope's, and order by key is then that of the marshaler's keys.
func WithMarshaler(m wkafka.MarshalerUnmarshaler) Option {
	return func(s *settings) { s.marshaler = m }
}

// WithWatermillPartitioning puts keys on the partitions on which watermill-kafka (sarama) puts them, by FNV-1a. Default:
// where Kafka's own clients put them, by murmur2. Use it where both kinds of publishers write to one topic, or while one
// replaces the other: a key whose partition changes loses its order.
func WithWatermillPartitioning() Option { return func(s *settings) { s.asWatermill = true } }

// WithTopics sets how many partitions and replicas [Broker.Declare] and the subscriber give to a topic that they make.
// Default -1 each, which leaves it to the cluster's num.partitions and default.replication.factor.
func WithTopics(partitions, replicas int) Option {
	return func(s *settings) {
		s.partitions, s.replicas = int32(min(partitions, 1<<20)), int16(min(replicas, 1<<10)) //nolint:gosec // bounded
	}
}

// WithSubscriber changes the configuration of subscribers after everything else was set: see [Broker.Subscribe]. It may
// be given several times.
func WithSubscriber(change func(*wkafka.SubscriberConfig)) Option {
	return func(s *settings) { s.subscriber = append(s.subscriber, change) }
}

// WithSaramaSubscriber is [WithSubscriber] for sarama's part of the configuration.
func WithSaramaSubscriber(change func(*sarama.Config)) Option {
	return WithSubscriber(func(c *wkafka.SubscriberConfig) { change(c.OverwriteSaramaConfig) })
}

// WithTLS encrypts all connections. Default: they are not. An empty ServerName is the host that is connected to.
func WithTLS(config *tls.Config) Option { return func(s *settings) { s.tls = config } }

// WithPlain logs in by SASL PLAIN, which sends the password as it is: use it with TLS. Default: no login. Of several
// logins the last one counts.
func WithPlain(user, password string) Option { return withLogin(plain, user, password) }

// WithScramSHA256 logs in by SASL SCRAM-SHA-256. Default: no login.
func WithScramSHA256(user, password string) Option { return withLogin(scramSHA256, user, password) }

// WithScramSHA512 logs in by SASL SCRAM-SHA-512. Default: no login.
func WithScramSHA512(user, password string) Option { return withLogin(scramSHA512, user, password) }

// WithDialer sets how connections are made, for networks that need more than TCP; TLS is put on top. Default net.Dialer.
func WithDialer(dial func(ctx context.Context, network, address string) (net.Conn, error)) Option {
	return func(s *settings) { s.dial = dial }
}

// WithClientID sets the name under which brokers log and limit this client. Default "waybill".
func WithClientID(id string) Option { return func(s *settings) { s.clientID = id } }

// WithLogger sets the logger. Default slog.Default(). Payloads, metadata and credentials are never logged.
func WithLogger(logger *slog.Logger) Option { return func(s *settings) { s.logger = logger } }

// WithHooks sets functions that are told what happens to connections. Default none.
func WithHooks(hooks Hooks) Option { return func(s *settings) { s.hooks = hooks } }

// check returns everything that is wrong, joined.
func (s *settings) check() error {
	var problems []error
	bad := func(field, format string, args ...any) {
		problems = append(problems, reliable.Invalid(field, format, args...))
	}
	if len(s.brokers) == 0 {
		bad("brokers", "are missing; name at least one as host:port")
	}
	for _, broker := range s.brokers {
		if host, port, err := net.SplitHostPort(broker); err != nil || host == "" || port == "" {
			bad("brokers", "has %q, expected host:port", broker)
		}
	}
	if s.window < 1 || s.window > maxWindow {
		bad("WithWindow", "is %d, must lie between 1 and %d", s.window, maxWindow)
	}
	if s.linger < 0 || s.linger > time.Second {
		bad("WithLinger", "is %v, must lie between 0 and 1s", s.linger)
	}
	if s.confirmTimeout < minConfirmTimeout {
		bad("WithConfirmTimeout", "is %v, must be at least %v", s.confirmTimeout, minConfirmTimeout)
	}
	if s.closeTimeout < 0 {
		bad("WithCloseTimeout", "is %v, must not be negative", s.closeTimeout)
	}
	if s.maxMessage < minMaxMessage || s.maxMessage > maxMaxMessage {
		bad("WithMaxMessageBytes", "is %d, must lie between %d and %d", s.maxMessage, minMaxMessage, maxMaxMessage)
	}
	if s.marshaler == nil {
		bad("WithMarshaler", "is nil; leave the option out for watermill-kafka's default")
	}
	if s.partitions < -1 || s.partitions == 0 || s.replicas < -1 || s.replicas == 0 {
		bad("WithTopics", "is %d partitions and %d replicas, each must be at least 1, or -1 for the cluster's default",
			s.partitions, s.replicas)
	}
	if s.login != nil {
		s.login.check(bad)
	}
	if s.dial == nil {
		bad("WithDialer", "is nil; leave the option out for net.Dialer")
	}
	if s.clientID == "" || len(s.clientID) > 255 {
		bad("WithClientID", "has %d bytes, must have 1 to 255", len(s.clientID))
	}
	if s.logger == nil {
		bad("WithLogger", "is nil; leave the option out for slog.Default()")
	}
	return errors.Join(problems...)
}

// MaxConfirmWait is the longest time between an attempt's hand-over and its confirm: the confirm timeout, the last request
// that was begun before it ended, and making the connection for that. A lease must be longer.
func (s *settings) MaxConfirmWait() time.Duration {
	steps := 4 // connecting, a handshake, the request there and back
	if s.login != nil {
		steps += 2
	}
	return s.confirmTimeout + time.Duration(steps)*s.step() + backoffMax + confirmMargin
}

// step is how long one step of talking to a broker may take: connecting, a handshake, the broker's work on a request, and
// that much again for its way there and back.
func (s *settings) step() time.Duration { return s.confirmTimeout / 5 }
