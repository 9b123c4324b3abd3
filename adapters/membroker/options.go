package membroker

import (
	"errors"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Option configures a Broker.
type Option func(*settings)

type settings struct {
	window         int
	confirmTimeout time.Duration
	latency        time.Duration
	limits         reliable.Limits
	script         func(Attempt) Verdict
	reorder        func(n int) int
	strict         bool
	failFast       bool
	discard        bool
}

func defaults() settings {
	return settings{window: 1000, confirmTimeout: 30 * time.Second}
}

func (s *settings) check() error {
	var problems []error
	if s.window < 1 {
		problems = append(problems, reliable.Invalid("WithWindow", "is %d, must be at least 1", s.window))
	}
	if s.confirmTimeout <= 0 {
		problems = append(problems, reliable.Invalid("WithConfirmTimeout", "is %v, must be above 0", s.confirmTimeout))
	}
	if s.latency < 0 {
		problems = append(problems, reliable.Invalid("WithLatency", "is %v, must not be negative", s.latency))
	}
	return errors.Join(problems...)
}

// WithWindow sets how many attempts a connection takes whose confirms were not received yet; Publish blocks at it. Default
// 1000. Small ones make Publish wait for the reader, large ones take memory.
func WithWindow(attempts int) Option { return func(s *settings) { s.window = attempts } }

// WithConfirmTimeout sets how long an attempt stays without an answer before its connection is abandoned, with everything
// in flight on it. Default 30 s.
func WithConfirmTimeout(timeout time.Duration) Option {
	return func(s *settings) { s.confirmTimeout = timeout }
}

// WithLatency sets the time between hand-over and confirm where the script's verdict names none. Default 0: answers are
// there when Publish returns.
func WithLatency(latency time.Duration) Option { return func(s *settings) { s.latency = latency } }

// WithLimits sets above which sizes an attempt is rejected, and what [Broker.Limits] says. Default: no limits.
func WithLimits(limits reliable.Limits) Option { return func(s *settings) { s.limits = limits } }

// WithScript has script decide on each attempt as it is handed over. It is called by one goroutine at a time, in the order
// of the hand-overs. It may call the broker's controls (Down, Undeclare, Crash ...), but must neither publish nor wait.
// Default: every verdict is the zero Verdict.
func WithScript(script func(Attempt) Verdict) Option { return func(s *settings) { s.script = script } }

// WithReorder has pick choose which of n waiting confirms Receive returns next, 0 being the oldest. Default: the oldest.
// A seeded (*rand.Rand).IntN shuffles and can be repeated; it needs to be safe for concurrent use only if several
// connections receive at the same time.
func WithReorder(pick func(n int) int) Option { return func(s *settings) { s.reorder = pick } }

// WithDeclaredTopicsOnly makes every topic unroutable that neither Declare nor a subscription has made known. Default: a
// topic exists from its first message on, unless Undeclare removed it.
func WithDeclaredTopicsOnly() Option { return func(s *settings) { s.strict = true } }

// WithFailFast makes Publish return [ErrDown] at once during an outage. Default: it waits for the end of the outage, or of
// its context.
func WithFailFast() Option { return func(s *settings) { s.failFast = true } }

// WithDiscard keeps nothing of what is stored and handed over but [Broker.Counts], for benchmarks and for runs that would
// fill the memory: Delivered and Attempts are empty, subscribers receive nothing. Default: everything is kept.
func WithDiscard() Option { return func(s *settings) { s.discard = true } }
