package delayedcheck

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// ServiceOption configures [NewService].
type ServiceOption func(*serviceConfig)

type serviceConfig struct {
	worker                    string
	logger                    *slog.Logger
	resender                  Resender // for producers that are not named
	producers                 map[string]Resender
	handlers                  map[string]FailedRequestHandler
	hooks                     ServiceHooks
	checkTopic                string
	delay                     time.Duration
	maxRounds                 int
	resendRate                float64
	resendBurst, atOnce       int
	resendTimeout             time.Duration
	unknowable                message.Publisher // nil: fail
	refusals                  int
	failingFor                time.Duration
	backoffBase, backoffLimit time.Duration
	openBase, openLimit       time.Duration
	outage                    time.Duration
	retention                 time.Duration
	pollEvery, reviewEvery    time.Duration
	ledgerTimeout             time.Duration
	drainTimeout              time.Duration
	errs                      []error
}

const (
	// keepForEver is the retention that deletes nothing, retentionUnset the one that is chosen by default.
	keepForEver    = time.Duration(-1)
	retentionUnset = time.Duration(0)
	// leastRetention is the default where the delays and the outage need less.
	leastRetention = 7 * 24 * time.Hour
	// windowTime is how long the last of the requests under way waits for its turn where no other process resends, and how
	// far ahead turns are booked where the rate is not even lower.
	windowTime = 5 * time.Second
)

func newServiceConfig(ledger reliable.Store, resender Resender, opts []ServiceOption) (serviceConfig, error) {
	cfg := serviceConfig{
		worker: processName(), logger: slog.Default(), resender: resender,
		producers: make(map[string]Resender), handlers: make(map[string]FailedRequestHandler),
		checkTopic: DefaultCheckTopic, delay: 5 * time.Minute, maxRounds: 5,
		resendRate: 100, resendBurst: 100, atOnce: 32, resendTimeout: 10 * time.Second,
		refusals: 10, failingFor: 24 * time.Hour,
		backoffBase: time.Second, backoffLimit: time.Minute, openBase: 5 * time.Second, openLimit: time.Minute,
		outage: 24 * time.Hour, pollEvery: time.Second, reviewEvery: time.Minute,
		ledgerTimeout: 10 * time.Second, drainTimeout: 30 * time.Second,
	}
	for _, opt := range opts {
		opt(&cfg)
	}
	if ledger == nil {
		cfg.invalid("ledger", "must not be nil")
	} else if _, ok := reliable.Ability[reliable.Confirmations](ledger); !ok {
		cfg.invalid("ledger", "keeps no processed confirms: it needs the ability reliable.Confirmations")
	}
	if cfg.resender == nil && len(cfg.producers) == 0 {
		cfg.invalid("resender", "is nil, and WithResender names none: nobody could send a message again")
	}
	need := cfg.delay + cfg.outage + time.Duration(cfg.maxRounds)*cfg.delay
	switch {
	case cfg.retention == retentionUnset:
		cfg.retention = max(leastRetention, need)
	case cfg.retention != keepForEver && cfg.retention < need:
		cfg.invalid("WithConfirmRetention", "%v must be at least %v: the longest delay (WithNextCheck) + the longest outage "+
			"(WithLongestOutage) + %d rounds of resends (WithMaxRounds), or a confirm could be gone before its check comes",
			cfg.retention, need, cfg.maxRounds)
	}
	if len(cfg.errs) > 0 {
		return cfg, fmt.Errorf("delayedcheck: callback service: options: %w", errors.Join(cfg.errs...))
	}
	return cfg, nil
}

func (c *serviceConfig) invalid(field, format string, args ...any) {
	c.errs = append(c.errs, reliable.Invalid(field, format, args...))
}

func (c *serviceConfig) between(field string, value, low, high time.Duration) bool {
	if value < low || value > high {
		c.invalid(field, "%v must lie between %v and %v", value, low, high)
		return false
	}
	return true
}

// window is how many requests are under way at most: with a low rate fewer, so that none waits long for its turn.
func (c *serviceConfig) window() int {
	return max(1, min(c.atOnce, int(math.Min(c.resendRate*windowTime.Seconds(), 1e6))))
}

// resendInterval is the time from one resend to the next.
func (c *serviceConfig) resendInterval() time.Duration {
	return time.Duration(float64(time.Second) / c.resendRate)
}

// turnPatience is how far ahead resends are booked.
func (c *serviceConfig) turnPatience() time.Duration { return max(windowTime, c.resendInterval()) }

// resenderOf returns who sends a producer's messages again; nil if nobody is known.
func (c *serviceConfig) resenderOf(producer string) Resender {
	if producer == "" {
		producer = DefaultProducer
	}
	if resender, named := c.producers[producer]; named {
		return resender
	}
	return c.resender
}

// WithResender names who sends the messages of a producer again: the producer whose checks bear the name. Where a name is
// not known and [NewService] got no resender for all others, the request fails at once and waits for an operator.
func WithResender(name string, resender Resender) ServiceOption {
	return func(c *serviceConfig) {
		switch _, twice := c.producers[name]; {
		case name == "" || len(name) > MaxProducerBytes:
			c.invalid("WithResender", "the name has %d bytes, must have 1 to %d", len(name), MaxProducerBytes)
		case resender == nil:
			c.invalid("WithResender", "the resender of %q must not be nil", name)
		case twice:
			c.invalid("WithResender", "%q is named twice", name)
		default:
			c.producers[name] = resender
		}
	}
}

// WithNextCheck sets when a message that was sent again is asked about once more, and the topic to which that check is
// scheduled, the one that [Service.Checks] handles; default [DefaultCheckTopic] and 5 minutes. The delay must also be at
// least that of the producers' own checks: retention of confirms is computed from it.
func WithNextCheck(topic string, delay time.Duration) ServiceOption {
	return func(c *serviceConfig) {
		if topic == "" {
			c.invalid("WithNextCheck", "needs the topic of the checks")
		}
		if c.between("WithNextCheck", delay, time.Millisecond, 30*24*time.Hour) {
			c.checkTopic, c.delay = topic, delay
		}
	}
}

// WithMaxRounds sets how many times a message is sent again at most because no confirm has come; default 5, 0 means never.
// After that the request is failed, and a confirm that comes later makes it confirmed all the same. More means more copies
// while a consumer is down.
func WithMaxRounds(rounds int) ServiceOption {
	return func(c *serviceConfig) {
		if rounds < 0 || rounds >= MaxRound {
			c.invalid("WithMaxRounds", "%d must lie between 0 and %d", rounds, MaxRound-1)
			return
		}
		c.maxRounds = rounds
	}
}

// WithResendRate limits how many resends a second all processes on this ledger together ask for, and how many of them at once
// after a quiet time; default 100 and 100, for all of them the same. It keeps slow consumers, whose confirms all come late,
// from being sent everything again at once: a fifth of what they can process leaves them four fifths for what is new. Too
// little, and what was lost comes late.
//
// With a ledger that is no [reliable.Pacer] it holds for each process: divide by their number.
func WithResendRate(perSecond float64, burst int) ServiceOption {
	return func(c *serviceConfig) {
		if !(perSecond >= 1.0/60 && perSecond <= 100_000) || burst < 1 || float64(burst) > max(1, 3600*perSecond) {
			c.invalid("WithResendRate", "%v a second must lie between 1 a minute and 100000 a second, and the burst of %d between 1 "+
				"and what an hour gives", perSecond, burst)
			return
		}
		c.resendRate, c.resendBurst = perSecond, burst
	}
}

// WithResendsAtOnce sets how many resends are under way at a time in this process; default 32.
func WithResendsAtOnce(n int) ServiceOption {
	return func(c *serviceConfig) {
		if n < 1 || n > 10_000 {
			c.invalid("WithResendsAtOnce", "%d must lie between 1 and 10000", n)
			return
		}
		c.atOnce = n
	}
}

// WithResendTimeout bounds one resend, the broker's confirm at the producer included; default 10 s.
func WithResendTimeout(timeout time.Duration) ServiceOption {
	return func(c *serviceConfig) {
		if c.between("WithResendTimeout", timeout, time.Millisecond, 10*time.Minute) {
			c.resendTimeout = timeout
		}
	}
}

// WithUnknowableSent has a message sent of which nobody can tell any more whether its transaction committed: the copy that
// the check carries, by publisher. By default such a request is failed at once and waits for an operator. With this option
// something may be sent that did not commit.
func WithUnknowableSent(publisher message.Publisher) ServiceOption {
	return func(c *serviceConfig) {
		if publisher == nil {
			c.invalid("WithUnknowableSent", "must not be nil")
			return
		}
		c.unknowable = publisher
	}
}

// WithResendBudget sets when a request is failed whose producer does not answer, or cannot send: by its refusals-th error
// or a later one, once it has been failing for at least over; default 10 errors over 24 hours. A producer that gives three
// errors in a row is asked for one request at a time until it answers.
func WithResendBudget(refusals int, over time.Duration) ServiceOption {
	return func(c *serviceConfig) {
		if refusals < 1 {
			c.invalid("WithResendBudget", "%d refusals must be at least 1", refusals)
		}
		c.between("WithResendBudget", over, 0, 30*24*time.Hour)
		c.refusals, c.failingFor = refusals, over
	}
}

// WithResendBackoff sets the pause after an error of a producer: base after the first, doubled after each further one up
// to limit; default 1 s up to 1 minute.
func WithResendBackoff(base, limit time.Duration) ServiceOption {
	return func(c *serviceConfig) {
		if base <= 0 || limit < base {
			c.invalid("WithResendBackoff", "base %v must be above 0 and not above the limit %v", base, limit)
			return
		}
		c.backoffBase, c.backoffLimit = base, limit
	}
}

// WithOpenBackoff sets the pause before the producer is asked again about a transaction that is still open, as
// [WithResendBackoff]; default 5 s up to 1 minute. It is never charged: an open transaction is asked about until it ends.
func WithOpenBackoff(base, limit time.Duration) ServiceOption {
	return func(c *serviceConfig) {
		if base <= 0 || limit < base {
			c.invalid("WithOpenBackoff", "base %v must be above 0 and not above the limit %v", base, limit)
			return
		}
		c.openBase, c.openLimit = base, limit
	}
}

// WithLongestOutage sets the longest outage, of brokers, consumers and this service together, that is survived without
// sending again what was confirmed before it; default 24 h. Confirms are kept for longer than that.
func WithLongestOutage(outage time.Duration) ServiceOption {
	return func(c *serviceConfig) {
		if c.between("WithLongestOutage", outage, 0, 365*24*time.Hour) {
			c.outage = outage
		}
	}
}

// WithConfirmRetention sets how long processed confirms are kept. It must be at least the delay of [WithNextCheck], the
// outage of [WithLongestOutage] and all rounds of resends together; default that, and at least 7 days.
func WithConfirmRetention(age time.Duration) ServiceOption {
	return func(c *serviceConfig) {
		if c.between("WithConfirmRetention", age, time.Second, 10*365*24*time.Hour) {
			c.retention = age
		}
	}
}

// WithoutConfirmRetention deletes no confirms: somebody else does.
func WithoutConfirmRetention() ServiceOption {
	return func(c *serviceConfig) { c.retention = keepForEver }
}

// WithPollEvery sets how often requests that are due are looked for; default 1 s. What this process stores itself it finds
// at once.
func WithPollEvery(interval time.Duration) ServiceOption {
	return func(c *serviceConfig) {
		if c.between("WithPollEvery", interval, time.Millisecond, time.Hour) {
			c.pollEvery = interval
		}
	}
}

// WithReviewEvery sets how often failed requests are looked at for confirms that came late; default 1 minute. One process of
// the fleet does it at a time.
func WithReviewEvery(interval time.Duration) ServiceOption {
	return func(c *serviceConfig) {
		if c.between("WithReviewEvery", interval, time.Millisecond, 24*time.Hour) {
			c.reviewEvery = interval
		}
	}
}

// WithLedgerTimeout bounds each statement on the ledger; default 10 s.
func WithLedgerTimeout(timeout time.Duration) ServiceOption {
	return func(c *serviceConfig) {
		if c.between("WithLedgerTimeout", timeout, time.Millisecond, time.Minute) {
			c.ledgerTimeout = timeout
		}
	}
}

// WithServiceDrainTimeout sets how long [Service.Run] may take to finish after its context ended; default 30 s.
func WithServiceDrainTimeout(timeout time.Duration) ServiceOption {
	return func(c *serviceConfig) {
		if c.between("WithServiceDrainTimeout", timeout, 0, time.Hour) {
			c.drainTimeout = timeout
		}
	}
}

// WithServiceWorker names this process in leases and histories, at most 128 bytes; default host name, process id and a
// random part. Two processes must not share a name.
func WithServiceWorker(name string) ServiceOption {
	return func(c *serviceConfig) {
		if name == "" || len(name) > 128 {
			c.invalid("WithServiceWorker", "must have 1 to 128 bytes, has %d", len(name))
			return
		}
		c.worker = name
	}
}

// WithServiceLogger sets where the callback service logs; default slog.Default(). Payloads are never logged.
func WithServiceLogger(logger *slog.Logger) ServiceOption {
	return func(c *serviceConfig) {
		if logger == nil {
			c.invalid("WithServiceLogger", "must not be nil")
			return
		}
		c.logger = logger
	}
}
