package middleware

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// Preset is how one consumer group treats messages that cannot be processed. It is safe for concurrent use, starts no
// goroutine, and serves any number of handlers and topics; each handler has a breaker and a throttle of its own.
type Preset struct {
	group       string
	publisher   message.Publisher
	poisonTopic string
	settings

	confirms *confirmer   // nil without processed confirms
	numbers  []int        // by retry: the number of its topic
	trouble  atomic.Int64 // how many messages in a row had to be given back

	mu      sync.Mutex
	handled map[string]bool   // topics that have a handler
	origins map[string]string // of their retry topics
}

// New returns the preset of a consumer group: what it cannot process goes to poisonTopic through publisher. A nil error of
// publisher must mean that the broker has the message, as with Watermill() of Waybill's adapters: the original is acked
// on the strength of it. Publishers of Watermill's own need their confirms turned on first.
//
// Without [RetryInPlace] or [RetryDelayed] a message is tried once.
func New(group string, publisher message.Publisher, poisonTopic string, opts ...Option) (*Preset, error) {
	p := &Preset{
		group: group, publisher: publisher, poisonTopic: poisonTopic, settings: defaults(),
		handled: make(map[string]bool), origins: make(map[string]string),
	}
	for _, opt := range opts {
		opt(&p.settings)
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("middleware: new preset: %w", err)
	}
	if p.confirming {
		p.confirms = newConfirmer(group, publisher, p.confirmTopic)
	}
	p.numbers = make([]int, len(p.delays))
	for i, delay := range p.delays {
		switch {
		case i == 0:
			p.numbers[i] = 1
		case delay == p.delays[i-1]:
			p.numbers[i] = p.numbers[i-1]
		default:
			p.numbers[i] = p.numbers[i-1] + 1
		}
	}
	return p, nil
}

// Option configures a Preset.
type Option func(*settings)

type settings struct {
	retries      int
	firstPause   time.Duration
	delays       []time.Duration
	retryTopic   func(topic, group string, number int) string
	hold         time.Duration
	pauseFirst   time.Duration
	pauseLongest time.Duration
	timeout      time.Duration
	limited      bool
	throttled    int
	per          time.Duration
	broken       bool
	failures     int
	open         time.Duration
	inner        []message.HandlerMiddleware
	permanent    func(error) bool
	reason       func(error) string
	stacks       bool
	logger       *slog.Logger
	hooks        Hooks

	confirming        bool
	confirmTopic      string
	poisonUnprocessed bool
}

func defaults() settings {
	return settings{
		retryTopic: func(topic, group string, number int) string {
			return fmt.Sprintf("%s.retry.%s.%d", topic, group, number)
		},
		hold:       15 * time.Second,
		pauseFirst: time.Second, pauseLongest: 15 * time.Second,
		permanent: func(error) bool { return false },
		reason:    error.Error,
		logger:    slog.Default(),
	}
}

// RetryInPlace tries a message again while it is held, up to retries times, after a pause that begins with first and
// doubles. Default: none. Nothing overtakes the message, so order is kept, and its queue or partition waits: all pauses
// together must stay below the hold. How often it was tried is forgotten when the process ends, or when the poison topic
// cannot be reached. With [RetryDelayed] it is done anew at each delivery.
func RetryInPlace(retries int, first time.Duration) Option {
	return func(s *settings) { s.retries, s.firstPause = retries, first }
}

// RetryDelayed puts a message in a retry topic, once for each delay, and has it tried again once the delay is over.
// Default: none. Its original is acked as soon as the broker has confirmed the copy, so nothing waits behind it: other
// messages overtake it, those of its key too. The count is in the message, and survives everything that the message does.
//
// Delays must not shrink; equal ones in a row share a topic, different ones do not, so that in each topic what is first is
// due first. A delay is measured between the clocks of the processes of a group and rounded up to when a consumer has time.
// [Preset.AddHandler] consumes the topics, [Preset.Topics] lists them.
func RetryDelayed(delays ...time.Duration) Option {
	return func(s *settings) { s.delays = delays }
}

// WithRetryTopics sets how the retry topics of a topic are named; default "topic.retry.group.number", numbers counted from
// 1. It must be a pure function and give each triple a name of its own: a retry topic is for one topic and group.
func WithRetryTopics(name func(topic, group string, number int) string) Option {
	return func(s *settings) { s.retryTopic = name }
}

// WithHold bounds how long a message is held without an ack before it is due (after that it goes to the end of its retry
// topic), and again how long it is held by pauses between retries in place and by an open breaker. Default 15 s. Twice the
// hold and the handler's own time must be below what the broker allows: watermill-sql's ack deadline is 30 s unless set,
// RabbitMQ's consumer timeout 30 min. Too short moves waiting messages around often; too long has the broker hand them to
// somebody else.
func WithHold(longest time.Duration) Option { return func(s *settings) { s.hold = longest } }

// WithPause sets how long a message that has to be given back is held before: because neither retry topic nor poison topic
// can be published to, or because of [Postpone]. Default 1 s, doubling up to 15 s while it goes on. Too short makes a hot
// loop of an outage, with the handler in it; too long delays the recovery.
func WithPause(first, longest time.Duration) Option {
	return func(s *settings) { s.pauseFirst, s.pauseLongest = first, longest }
}

// WithTimeout ends the context of a message this long after an attempt began. Default: never. The context of the next
// attempt is a new one. A handler that does not look at its context is not interrupted. At most the hold.
func WithTimeout(attempt time.Duration) Option {
	return func(s *settings) { s.limited, s.timeout = true, attempt }
}

// WithThrottle spaces attempts evenly, retries included, so that a process makes at most that many per period with one
// handler. Default: no limit. Attempts that would have to wait longer than the hold are given back.
func WithThrottle(attempts int, per time.Duration) Option {
	return func(s *settings) { s.throttled, s.per = attempts, per }
}

// WithBreaker stops a handler once that many different messages failed without one success in between: what it depends on
// is probably down. Default: off. After the open time one message is tried; when it succeeds, the rest goes on. Meanwhile
// messages are held, then given back, and nothing is counted against them, so that an outage does not fill the poison
// topic. [Permanent] errors say nothing about an outage and do not count. Too few failures take a few poison messages for
// an outage; too many spend their retries on one.
func WithBreaker(failures int, open time.Duration) Option {
	return func(s *settings) { s.broken, s.failures, s.open = true, failures, open }
}

// WithMiddleware adds middleware of your own or of Watermill's around the handler, inside everything else: it sees each
// attempt. The first one is the outermost. A panic in it is recovered as one in the handler is.
func WithMiddleware(inner ...message.HandlerMiddleware) Option {
	return func(s *settings) { s.inner = append(s.inner, inner...) }
}

// WithPermanent says which errors are permanent besides those marked with [Permanent]; default none.
func WithPermanent(is func(error) bool) Option { return func(s *settings) { s.permanent = is } }

// WithReason sets how the text of an error becomes the reason that a poison message carries; default its Error. Use it where
// error texts hold what must not be written down.
func WithReason(of func(error) string) Option { return func(s *settings) { s.reason = of } }

// WithStacks has a poison message carry where its handler panicked; default off. Function names and lines only, no values.
func WithStacks() Option { return func(s *settings) { s.stacks = true } }

// WithLogger sets where failures are logged; default slog.Default().
func WithLogger(logger *slog.Logger) Option { return func(s *settings) { s.logger = logger } }

// WithHooks sets what is called when something happened; default nothing.
func WithHooks(hooks Hooks) Option { return func(s *settings) { s.hooks = hooks } }

// Hooks are for metrics. Any of them may be nil. They are called by the goroutine that handles the message, and must not
// keep it.
type Hooks struct {
	// Failed is called for each attempt that is charged to the message.
	Failed func(msg *message.Message, f Failure, err error)
	// Retried is called once the broker has confirmed the copy in a retry topic.
	Retried func(msg *message.Message, f Failure, topic string)
	// Poisoned is called once the broker has confirmed the copy in the poison topic.
	Poisoned func(msg *message.Message, f Failure)
	// GivenBack is called when a message will be redelivered: it could not be published to a retry or poison topic, or was
	// not tried.
	GivenBack func(msg *message.Message, err error)
}

// Topics returns what must exist on the broker for these topics: the retry topics of each, and the poison topic.
func (p *Preset) Topics(topics ...string) []string {
	var all []string
	for _, topic := range topics {
		all = append(all, p.RetryTopics(topic)...)
	}
	return append(all, p.poisonTopic)
}

// RetryTopics returns the retry topics of a topic, in the order in which a message goes through them.
func (p *Preset) RetryTopics(topic string) []string {
	var all []string
	for _, number := range slices.Compact(slices.Clone(p.numbers)) {
		all = append(all, p.retryTopic(topic, p.group, number))
	}
	return all
}

// check returns all that is wrong, joined.
func (p *Preset) check() error {
	var problems []error
	refuse := func(field, format string, args ...any) {
		problems = append(problems, reliable.Invalid(field, format, args...))
	}
	if p.group == "" {
		refuse("group", "is empty; name the service that consumes, the same in all its processes")
	}
	if clean(p.group, maxName) != p.group {
		refuse("group", "is longer than %d bytes, or holds what cannot stand in a header", maxName)
	}
	if p.publisher == nil {
		refuse("publisher", "is nil")
	}
	if p.poisonTopic == "" {
		refuse("poisonTopic", "is empty; name the topic for what cannot be processed")
	}
	p.checkTimes(refuse)
	p.checkConfirms(refuse)
	for i, inner := range p.inner {
		if inner == nil {
			refuse("WithMiddleware", "number %d is nil", i+1)
		}
	}
	for field, isNil := range map[string]bool{
		"WithPermanent": p.permanent == nil, "WithReason": p.reason == nil, "WithLogger": p.logger == nil,
		"WithRetryTopics": p.retryTopic == nil,
	} {
		if isNil {
			refuse(field, "is nil; leave the option out for the default")
		}
	}
	if p.retryTopic != nil && p.poisonTopic != "" {
		p.checkNames(refuse)
	}
	return errors.Join(problems...)
}

func (p *Preset) checkTimes(refuse func(field, format string, args ...any)) {
	if p.hold <= 0 {
		refuse("WithHold", "is %v, must be above 0", p.hold)
	}
	if p.pauseFirst <= 0 || p.pauseLongest < p.pauseFirst {
		refuse("WithPause", "is %v to %v, must be above 0 and not end before it begins", p.pauseFirst, p.pauseLongest)
	}
	switch {
	case p.retries < 0:
		refuse("RetryInPlace", "%d retries: must not be negative; leave the option out for none", p.retries)
	case p.retries > 0 && p.firstPause <= 0:
		refuse("RetryInPlace", "pauses begin with %v, must be above 0", p.firstPause)
	case p.retries > 30 || p.retries > 0 && p.pausesTogether() > p.hold:
		refuse("RetryInPlace", "%d retries from %v on pause for longer than the hold of %v: fewer, shorter ones, or a longer WithHold",
			p.retries, p.firstPause, p.hold)
	}
	for i, delay := range p.delays {
		if delay <= 0 {
			refuse("RetryDelayed", "delay %d is %v, must be above 0", i+1, delay)
		}
		if i > 0 && delay < p.delays[i-1] {
			refuse("RetryDelayed", "delay %d of %v is shorter than the one before: a topic would be used for two of them", i+1, delay)
		}
	}
	if p.limited && (p.timeout <= 0 || p.timeout > p.hold) {
		refuse("WithTimeout", "is %v, must be above 0 and at most the hold of %v, see WithHold", p.timeout, p.hold)
	}
	if p.throttled != 0 || p.per != 0 {
		if p.throttled < 1 || p.per < time.Duration(p.throttled) {
			refuse("WithThrottle", "is %d attempts per %v, must be at least 1 and at most one per nanosecond", p.throttled, p.per)
		} else if p.per/time.Duration(p.throttled) > p.hold {
			refuse("WithThrottle", "of %d attempts per %v waits for longer than the hold of %v: nothing would be tried",
				p.throttled, p.per, p.hold)
		}
	}
	if p.broken && (p.failures < 1 || p.open <= 0) {
		refuse("WithBreaker", "of %d failures and %v, must be at least 1 and above 0", p.failures, p.open)
	}
}

func (p *Preset) checkConfirms(refuse func(field, format string, args ...any)) {
	switch {
	case !p.confirming && p.poisonUnprocessed:
		refuse("WithPoisonUnprocessed", "says nothing without WithProcessedConfirms")
	case p.confirming && (p.confirmTopic == "" || p.confirmTopic == p.poisonTopic):
		refuse("WithProcessedConfirms", "names topic %q; name the topic that the callback service listens to", p.confirmTopic)
	case p.confirming && len(p.group) > reliable.MaxGroupBytes:
		refuse("group", "has %d bytes; a processed confirm carries at most %d", len(p.group), reliable.MaxGroupBytes)
	}
}

// checkNames looks for topics that would be two things at once.
func (p *Preset) checkNames(refuse func(field, format string, args ...any)) {
	const topic = "topic"
	owners := map[string]int{topic: 0, p.poisonTopic: -1}
	for number := 1; number <= len(p.delays); number++ {
		name := p.retryTopic(topic, p.group, number)
		if other, taken := owners[name]; name == "" || taken && other != number {
			refuse("WithRetryTopics", "calls retry topic %d of topic %q %q, which is empty or the name of another topic", number, topic, name)
		}
		owners[name] = number
	}
	if len(p.delays) > 0 && p.retryTopic(topic, p.group, 1) == p.retryTopic("other", p.group, 1) {
		refuse("WithRetryTopics", "gives two topics the same retry topic; use all three arguments")
	}
}

func (p *Preset) pausesTogether() time.Duration {
	sum, pause := time.Duration(0), p.firstPause
	for range p.retries {
		sum, pause = sum+pause, 2*pause
		if sum > p.hold {
			break
		}
	}
	return sum
}
