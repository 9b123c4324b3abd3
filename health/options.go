package health

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Option configures [New].
type Option func(*config)

type config struct {
	relay     Relay
	broker    reliable.Pinger
	maxAge    time.Duration
	maxFailed int
	timeout   time.Duration
	interval  time.Duration
	logger    *slog.Logger
	errs      []error
}

// Relay is what can say whether it relays in this process; a *tagging.Outbox can.
type Relay interface{ Running() bool }

func newConfig(opts []Option) (config, error) {
	cfg := config{maxAge: 5 * time.Minute, timeout: 2 * time.Second, interval: 5 * time.Second, logger: slog.Default()}
	for _, opt := range opts {
		opt(&cfg)
	}
	if len(cfg.errs) > 0 {
		return cfg, fmt.Errorf("health: options: %w", errors.Join(cfg.errs...))
	}
	return cfg, nil
}

func (c *config) invalid(field, format string, args ...any) {
	c.errs = append(c.errs, reliable.Invalid(field, format, args...))
}

func (c *config) between(field string, value, low, high time.Duration) bool {
	if value < low || value > high {
		c.invalid(field, "%v must lie between %v and %v", value, low, high)
		return false
	}
	return true
}

// WithRelay makes a process whose relay does not run unavailable; default: a process that only sends.
func WithRelay(relay Relay) Option {
	return func(c *config) {
		if relay == nil {
			c.invalid("WithRelay", "must not be nil; leave it out for a process that only sends")
			return
		}
		c.relay = relay
	}
}

// WithBroker makes a process degraded while its broker cannot be reached; default: nobody asks. The adapter must be a
// [reliable.Pinger].
func WithBroker(broker reliable.Publisher) Option {
	return func(c *config) {
		pinger, ok := reliable.Ability[reliable.Pinger](broker)
		if !ok {
			c.invalid("WithBroker", "needs an adapter that is a reliable.Pinger; leave it out")
			return
		}
		c.broker = pinger
	}
}

// WithMaxPendingAge sets how old the oldest pending message of a topic may be; default 5 minutes. Below the lease (60 s by
// default) every crash of a process is an alarm; too large and an outage is heard of late. A message with a delay is
// pending from the moment it is stored: with long delays the limit must be longer.
func WithMaxPendingAge(age time.Duration) Option {
	return func(c *config) {
		if c.between("WithMaxPendingAge", age, time.Millisecond, 10*365*24*time.Hour) {
			c.maxAge = age
		}
	}
}

// WithMaxFailed sets how many failed messages a topic may have; default 0, because nothing happens to a failed message by
// itself unless its topic has a handler.
func WithMaxFailed(messages int) Option {
	return func(c *config) {
		if messages < 0 {
			c.invalid("WithMaxFailed", "%d must be 0 or more", messages)
			return
		}
		c.maxFailed = messages
	}
}

// WithTimeout bounds every answer; default 2 s. It must be shorter than the timeout of the probes, or they hear nothing
// instead of what is wrong.
func WithTimeout(timeout time.Duration) Option {
	return func(c *config) {
		if c.between("WithTimeout", timeout, time.Millisecond, time.Minute) {
			c.timeout = timeout
		}
	}
}

// WithInterval sets how long an answer of store and broker is used again; default 5 s. It bounds the load that probes can
// make, and how late they hear of a change. Whether the relay runs is always looked up.
func WithInterval(interval time.Duration) Option {
	return func(c *config) {
		if c.between("WithInterval", interval, time.Millisecond, time.Hour) {
			c.interval = interval
		}
	}
}

// WithLogger sets where changes are logged, with the errors behind them; default slog.Default().
func WithLogger(logger *slog.Logger) Option {
	return func(c *config) {
		if logger == nil {
			c.invalid("WithLogger", "must not be nil")
			return
		}
		c.logger = logger
	}
}
