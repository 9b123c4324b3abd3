package sqlbroker

import (
	"errors"
	"log/slog"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Option configures a Broker.
type Option func(*settings)

type settings struct {
	prefix         string
	window         int
	batch          int
	writers        int
	confirmTimeout time.Duration
	reconnectMin   time.Duration
	reconnectMax   time.Duration
	maxPayload     int
	apart          bool
	logger         *slog.Logger
}

func defaults() settings {
	return settings{
		prefix:         "watermill_",
		window:         1000,
		batch:          500,
		writers:        8,
		confirmTimeout: 10 * time.Second,
		reconnectMin:   50 * time.Millisecond,
		reconnectMax:   2 * time.Second,
		maxPayload:     reliable.DefaultLimits().Payload,
		logger:         slog.New(slog.DiscardHandler),
	}
}

// WithTablePrefix begins the names of all tables; default "watermill_", as watermill-sql's own. It has 1 to 30 of a-z,
// 0-9 and _, and does not begin with a digit. The longer it is, the shorter topics must be: 63 bytes in all, with
// "offsets_" between the two.
func WithTablePrefix(prefix string) Option { return func(s *settings) { s.prefix = prefix } }

// WithWindow sets how many attempts may be handed over without their confirm having been received; default 1000. Smaller
// costs throughput; larger costs memory and makes more attempts unknown when a connection dies.
func WithWindow(attempts int) Option { return func(s *settings) { s.window = attempts } }

// WithBatch sets how many messages a transaction stores at most; default 500. A batch has one topic and at most 1 MiB,
// a larger message its own. Smaller costs throughput; larger keeps subscribers waiting longer, and in a hand-over (see
// [reliable.Joiner]) locks more rows of the outbox at a time.
func WithBatch(messages int) Option { return func(s *settings) { s.batch = messages } }

// WithWriters sets how many transactions may be under way at a time, one for each topic at most; default 8. Each takes a
// connection of the pool. Too few let topics whose tables are locked, by subscribers on MySQL that take their time, hold
// up the others.
func WithWriters(transactions int) Option { return func(s *settings) { s.writers = transactions } }

// WithConfirmTimeout sets how long an attempt waits for its transaction; default 10 s, at least 100 ms. A lock is waited
// for half as long. Too short makes unknown outcomes of what a busy database would have stored; too long keeps the
// window full behind a table that is locked. A lease must be longer.
func WithConfirmTimeout(d time.Duration) Option { return func(s *settings) { s.confirmTimeout = d } }

// WithReconnectWait sets the pause after the first and, doubling, after further failed attempts to connect; default 50
// ms to 2 s, with jitter. Too short floods a server that has just come up; too long prolongs an outage.
func WithReconnectWait(first, longest time.Duration) Option {
	return func(s *settings) { s.reconnectMin, s.reconnectMax = first, longest }
}

// WithMaxPayload sets the largest payload in bytes; default 16 MiB, as the stores'. On MySQL it is lowered, once connected,
// to what max_allowed_packet leaves room for: half of it less 256 KiB. Larger ones are rejected.
func WithMaxPayload(bytes int) Option { return func(s *settings) { s.maxPayload = bytes } }

// WithoutHandOver makes the broker store messages in transactions of its own even if the outbox is in the same database;
// see [reliable.Joiner]. It is for measuring, and for a store whose every settlement must be seen by a wrapper.
func WithoutHandOver() Option { return func(s *settings) { s.apart = true } }

// WithLogger sets where connections made and lost are logged, and what watermill-sql says; default nowhere.
func WithLogger(logger *slog.Logger) Option { return func(s *settings) { s.logger = logger } }

func configure(opts []Option) (settings, error) {
	s := defaults()
	for _, opt := range opts {
		opt(&s)
	}
	return s, s.validate()
}

func (s *settings) validate() error {
	var problems []error
	refuse := func(wrong bool, field, format string, args ...any) {
		if wrong {
			problems = append(problems, reliable.Invalid(field, format, args...))
		}
	}
	refuse(!prefixShape.MatchString(s.prefix), "WithTablePrefix",
		"is %q, must be 1 to 30 of a-z, 0-9 and _, not beginning with a digit", s.prefix)
	refuse(s.window < 1, "WithWindow", "is %d, must be at least 1", s.window)
	refuse(s.batch < 1 || s.batch > maxBatch, "WithBatch", "is %d, must lie between 1 and %d", s.batch, maxBatch)
	refuse(s.writers < 1, "WithWriters", "is %d, must be at least 1", s.writers)
	refuse(s.confirmTimeout < 100*time.Millisecond, "WithConfirmTimeout", "is %v, must be at least 100ms", s.confirmTimeout)
	refuse(s.reconnectMin <= 0 || s.reconnectMax < s.reconnectMin, "WithReconnectWait",
		"is %v to %v, must be above 0 and not end before it begins", s.reconnectMin, s.reconnectMax)
	refuse(s.maxPayload < 1 || s.maxPayload > largestPayload, "WithMaxPayload",
		"is %d, must lie between 1 and %d", s.maxPayload, largestPayload)
	refuse(s.logger == nil, "WithLogger", "is nil; leave the option out to log nothing")
	return errors.Join(problems...)
}

const (
	// maxBatch keeps a statement of MySQL, three parameters a message, below 65,535 of them.
	maxBatch = 10_000
	// batchBytes is how large the messages of a transaction are together, unless a single one is larger.
	batchBytes = 1 << 20
	// largestPayload is what a value of PostgreSQL can hold, with room to spare.
	largestPayload = 512 << 20
)
