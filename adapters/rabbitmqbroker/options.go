package rabbitmqbroker

import (
	"errors"
	"log/slog"
	"maps"
	"time"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/waybillmq/waybill/reliable"
)

const (
	defaultWindow         = 1000
	maxWindow             = 20_000
	defaultConfirmTimeout = 10 * time.Second
	defaultBlockedTimeout = 20 * time.Second
	defaultCloseTimeout   = 5 * time.Second
	defaultMaxMessage     = 16 << 20
	defaultBackoffMin     = 100 * time.Millisecond
	defaultBackoffMax     = 3 * time.Second

	// confirmMargin is how much later than its timeout a confirm can be on a busy machine.
	confirmMargin = 2 * time.Second
)

// Option changes how a Broker works.
type Option func(*settings)

// settings is what options change. It is only read after New.
type settings struct {
	config         wamqp.Config
	window         int
	confirmTimeout time.Duration
	blockedTimeout time.Duration
	closeTimeout   time.Duration
	maxMessage     int
	sizeChecks     bool
	mandatory      bool
	quorum         bool
	declare        declareMode
	backoffMin     time.Duration
	backoffMax     time.Duration
	logger         *slog.Logger
	hooks          Hooks
}

func defaults(config wamqp.Config) settings {
	s := settings{
		config:         config,
		window:         defaultWindow,
		confirmTimeout: defaultConfirmTimeout,
		blockedTimeout: defaultBlockedTimeout,
		closeTimeout:   defaultCloseTimeout,
		maxMessage:     defaultMaxMessage,
		sizeChecks:     true,
		mandatory:      true,
		backoffMin:     defaultBackoffMin,
		backoffMax:     defaultBackoffMax,
		logger:         slog.Default(),
	}
	if r := config.Connection.Reconnect; r != nil {
		s.backoffMin, s.backoffMax = r.BackoffInitialInterval, r.BackoffMaxInterval
	}
	return s
}

// WithWindow sets how many attempts may be handed over whose confirm was not received yet. Default 1000, 1 to 20,000.
// Small windows cost throughput, since each message waits for the broker's disk; beyond 1000 only latency grows, and the
// number of unknown outcomes when a connection dies.
func WithWindow(attempts int) Option { return func(s *settings) { s.window = attempts } }

// WithConfirmTimeout sets how long the broker may take to answer; after it the connection is abandoned, and everything on it
// is Unknown. Default 10 s, at least 100 ms. Too short makes duplicates of what a busy broker was about to confirm; too long
// keeps messages from being tried elsewhere, and needs a longer lease.
func WithConfirmTimeout(timeout time.Duration) Option {
	return func(s *settings) { s.confirmTimeout = timeout }
}

// WithBlockedTimeout sets how long an attempt may wait for its confirm while the broker says that the connection is blocked
// (a memory or disk alarm). Default 20 s, at least the confirm timeout. Too short makes unknown outcomes of a short alarm;
// too long needs a longer lease.
func WithBlockedTimeout(timeout time.Duration) Option {
	return func(s *settings) { s.blockedTimeout = timeout }
}

// WithCloseTimeout sets how long Close waits for the confirms of what is in flight; what has none by then is Unknown.
// Default 5 s, 0 does not wait. Too short makes duplicates at every shutdown.
func WithCloseTimeout(timeout time.Duration) Option {
	return func(s *settings) { s.closeTimeout = timeout }
}

// WithMaxMessageBytes sets above which payload size a message is Rejected without being sent. Default 16 MiB, RabbitMQ 4's
// own default; at least 1. Set it to the broker's max_message_size: above that, each such message closes the channel and
// makes its neighbours unknown before it is found; below, messages are refused that the broker would take.
func WithMaxMessageBytes(bytes int) Option { return func(s *settings) { s.maxMessage = bytes } }

// WithoutSizeChecks sends what WithMaxMessageBytes and the frame size of the connection would refuse, and leaves the answer
// to the broker, which closes the channel or the connection over it. It is for brokers behind a proxy with limits of its
// own, and for showing that such a message is found. Default: sizes are checked.
func WithoutSizeChecks() Option { return func(s *settings) { s.sizeChecks = false } }

// WithQuorumQueues declares queues as quorum queues (x-queue-type: quorum), for publishing and for [Broker.Subscriber].
// Default: what the config says, which is classic queues. A plain watermill-amqp subscriber needs the same argument: see
// [Broker.Config]; with another one the broker refuses its declaration. A queue that exists as classic stays classic.
func WithQuorumQueues() Option { return func(s *settings) { s.quorum = true } }

// WithDeclaredQueues declares exchange, queue and binding of a topic, by the config's topology builder, before the first
// message to it on each connection. Default: the queue if the config publishes through the default exchange, else the
// exchange only, as watermill-amqp's publisher does. A declaration that the broker refuses, or does not answer within the
// confirm timeout, is logged and nothing more: what can then not be routed is Returned.
func WithDeclaredQueues() Option { return func(s *settings) { s.declare = declareQueues } }

// WithoutDeclaring never declares anything: a message that finds no queue is Returned until somebody declares one. For
// accounts without the configure permission.
func WithoutDeclaring() Option { return func(s *settings) { s.declare = declareNothing } }

// WithoutMandatory lets the broker drop messages that no queue is bound for, and takes its ack for an ack. Default:
// mandatory, such messages are Returned. It is for events that may have no consumer, and gives up what Acked promises.
func WithoutMandatory() Option { return func(s *settings) { s.mandatory = false } }

// WithReconnectBackoff sets how long to wait before connecting again: a random time up to a bound that starts at shortest
// and doubles up to longest. Default 100 ms and 3 s, or what Connection.Reconnect of the config says; above 0. A short
// longest lets a fleet press a broker that is starting; a long one delays recovery.
func WithReconnectBackoff(shortest, longest time.Duration) Option {
	return func(s *settings) { s.backoffMin, s.backoffMax = shortest, longest }
}

// WithLogger sets the logger. Default slog.Default(). Payloads, metadata and credentials are never logged.
func WithLogger(logger *slog.Logger) Option { return func(s *settings) { s.logger = logger } }

// WithHooks sets functions that are told what happens to the connection. Default none. They are called on the goroutine
// that keeps the connection: one that blocks delays confirms and reconnecting.
func WithHooks(hooks Hooks) Option { return func(s *settings) { s.hooks = hooks } }

// check returns everything that is wrong, joined.
func (s *settings) check() error {
	var problems []error
	bad := func(field, format string, args ...any) {
		problems = append(problems, reliable.Invalid(field, format, args...))
	}
	s.checkConfig(bad)
	if s.window < 1 || s.window > maxWindow {
		bad("WithWindow", "is %d, must lie between 1 and %d", s.window, maxWindow)
	}
	if s.confirmTimeout < 100*time.Millisecond {
		bad("WithConfirmTimeout", "is %v, must be at least 100ms", s.confirmTimeout)
	}
	if s.blockedTimeout < s.confirmTimeout {
		bad("WithBlockedTimeout", "is %v, must be at least the confirm timeout of %v", s.blockedTimeout, s.confirmTimeout)
	}
	if s.closeTimeout < 0 {
		bad("WithCloseTimeout", "is %v, must not be negative", s.closeTimeout)
	}
	if s.maxMessage < 1 {
		bad("WithMaxMessageBytes", "is %d, must be at least 1", s.maxMessage)
	}
	if s.backoffMin <= 0 || s.backoffMax < s.backoffMin {
		bad("WithReconnectBackoff", "is %v to %v, must be above 0 and ascending", s.backoffMin, s.backoffMax)
	}
	if s.logger == nil {
		bad("WithLogger", "is nil; leave the option out for slog.Default()")
	}
	return errors.Join(problems...)
}

// checkConfig says what in watermill-amqp's config cannot be kept here.
func (s *settings) checkConfig(bad func(field, format string, args ...any)) {
	c := &s.config
	if c.Connection.AmqpURI == "" {
		bad("Connection.AmqpURI", "is empty; expected amqp://user:password@host:port/vhost")
	} else if _, err := amqp.ParseURI(c.Connection.AmqpURI); err != nil {
		// The cause would repeat the URL, password included.
		bad("Connection.AmqpURI", "cannot be parsed; expected amqp://user:password@host:port/vhost with reserved "+
			"characters percent-encoded")
	}
	if own := c.Connection.AmqpConfig; own != nil {
		if own.Recovery != nil {
			bad("Connection.AmqpConfig.Recovery", "is set; leave it nil, this package reconnects by itself")
		}
		if own.TLSClientConfig != nil && c.Connection.TLSConfig != nil {
			bad("Connection.TLSConfig", "is set beside Connection.AmqpConfig.TLSClientConfig; set one of them")
		}
	}
	if c.Marshaler == nil {
		bad("Marshaler", "is nil; use amqp.DefaultMarshaler{}")
	}
	if c.Exchange.GenerateName == nil {
		bad("Exchange.GenerateName", "is nil; return \"\" from it for the default exchange")
	}
	if c.Publish.GenerateRoutingKey == nil {
		bad("Publish.GenerateRoutingKey", "is nil; return the topic from it to publish to the queue of that name")
	}
	if c.Publish.Transactional {
		bad("Publish.Transactional", "is set; AMQP transactions and publisher confirms exclude each other")
	}
	if c.Publish.Immediate {
		bad("Publish.Immediate", "is set; RabbitMQ does not implement it and would close the connection")
	}
	if s.declare == declareNothing {
		return
	}
	if c.TopologyBuilder == nil {
		bad("TopologyBuilder", "is nil; use &amqp.DefaultTopologyBuilder{} or the option WithoutDeclaring")
	}
	if s.declare == declareQueues && c.Queue.GenerateName == nil {
		bad("Queue.GenerateName", "is nil, but WithDeclaredQueues needs the names of the queues")
	}
	if s.declare == declareQueues && c.QueueBind.GenerateRoutingKey == nil {
		bad("QueueBind.GenerateRoutingKey", "is nil, but WithDeclaredQueues needs the keys to bind by")
	}
}

// finish makes of the config what the options ask for; what the caller passed stays as it is.
func (s *settings) finish() {
	if s.quorum {
		args := maps.Clone(s.config.Queue.Arguments)
		if args == nil {
			args = amqp.Table{}
		}
		args[amqp.QueueTypeArg] = amqp.QueueTypeQuorum
		s.config.Queue.Arguments = args
	}
}
