package watermillbroker

import (
	"errors"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Option configures a Broker.
type Option func(*settings)

type settings struct {
	concurrency  int
	window       int
	timeout      time.Duration
	closeTimeout time.Duration
	limits       reliable.Limits
	classify     func(error) reliable.Outcome
}

func defaults() settings {
	return settings{
		concurrency: 16, window: 1000, timeout: 30 * time.Second, closeTimeout: 10 * time.Second, classify: outcomeOf,
	}
}

func (s *settings) check() error {
	var problems []error
	if s.concurrency < 1 {
		problems = append(problems, reliable.Invalid("WithConcurrency", "is %d, must be at least 1", s.concurrency))
	}
	if s.window < s.concurrency {
		problems = append(problems, reliable.Invalid("WithWindow",
			"is %d, must be at least the concurrency of %d, which it would limit", s.window, s.concurrency))
	}
	if s.timeout <= 0 {
		problems = append(problems, reliable.Invalid("WithTimeout", "is %v, must be above 0", s.timeout))
	}
	if s.closeTimeout < 0 {
		problems = append(problems, reliable.Invalid("WithCloseTimeout", "is %v, must not be negative", s.closeTimeout))
	}
	if s.classify == nil {
		problems = append(problems, reliable.Invalid("WithClassifier", "is nil; leave it out for the default"))
	}
	return errors.Join(problems...)
}

// WithConcurrency sets how many calls of the publisher run at a time, each with one message. Default 16. With 1 everything
// is sent in order; a publisher that waits for each confirm is then as slow as one round trip after the other. More than
// the publisher's own pool of connections or channels only queues there.
func WithConcurrency(calls int) Option { return func(s *settings) { s.concurrency = calls } }

// WithWindow sets how many attempts may be without a received confirm; Publish blocks at it. Default 1000. It bounds what
// is kept for a reader that is slow.
func WithWindow(attempts int) Option { return func(s *settings) { s.window = attempts } }

// WithTimeout sets how long one call of the publisher may take until its attempt is Unknown; the context of its message ends
// then, too. Default 30 s. Too short makes duplicates of messages that were on their way; the lease must be longer.
func WithTimeout(timeout time.Duration) Option { return func(s *settings) { s.timeout = timeout } }

// WithCloseTimeout sets how long Close waits for calls that run. Default 10 s. What is cut off is Unknown.
func WithCloseTimeout(timeout time.Duration) Option {
	return func(s *settings) { s.closeTimeout = timeout }
}

// WithLimits sets above which sizes an attempt is Rejected without a call. Default: no limits. Without those of the broker
// a message that is too large is tried for ever.
func WithLimits(limits reliable.Limits) Option { return func(s *settings) { s.limits = limits } }

// WithClassifier has classify say what an error of the publisher means. Default: an error that is a [*reliable.PublishError]
// has that one's outcome, every other is [reliable.Unknown]. Return a definite outcome only for errors that prove that the
// broker does not have the message. It is called by several goroutines at a time.
func WithClassifier(classify func(error) reliable.Outcome) Option {
	return func(s *settings) { s.classify = classify }
}

// outcomeOf believes errors that were made to be believed.
func outcomeOf(err error) reliable.Outcome {
	if failed, ok := errors.AsType[*reliable.PublishError](err); ok {
		return failed.Outcome
	}
	return reliable.Unknown
}
