package delayedcheck

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// DefaultCheckTopic is where checks come due unless configured otherwise.
const DefaultCheckTopic = "waybill.checks"

// SenderOption configures [NewSender].
type SenderOption func(*senderConfig)

type senderConfig struct {
	groups       []string
	topicGroups  map[string][]string
	producer     string
	checkTopic   string
	checkDelay   time.Duration
	checkTimeout time.Duration
	maxAge       float64
	breakAfter   int
	breakFor     time.Duration
	transactor   reliable.Transactor
	witness      reliable.Witness
	remembering  reliable.Remembering // the witness, if its rows are deleted here
	retention    time.Duration        // of these
	outbox       Outbox
	messageFirst bool
	topicChecks  bool
	window       int
	drainTimeout time.Duration
	limits       reliable.Limits
	capture      func(ctx context.Context) map[string]string
	hooks        SenderHooks
	logger       *slog.Logger
	errs         []error
}

func newSenderConfig(opts []SenderOption, publisher reliable.Publisher, scheduler reliable.Scheduler) (senderConfig, error) {
	cfg := senderConfig{
		topicGroups: make(map[string][]string),
		checkTopic:  DefaultCheckTopic, checkDelay: 5 * time.Minute, checkTimeout: 50 * time.Millisecond, maxAge: 0.5,
		breakAfter: 5, breakFor: time.Second,
		retention: retentionUnset, window: 1000, drainTimeout: 30 * time.Second, limits: reliable.DefaultLimits(), logger: slog.Default(),
	}
	for _, opt := range opts {
		opt(&cfg)
	}
	for _, part := range []any{publisher, scheduler} {
		if limited, ok := reliable.Ability[reliable.Limited](part); ok {
			cfg.limits = cfg.limits.Stricter(limited.Limits())
		}
	}
	switch {
	case cfg.topicChecks && scheduler != nil:
		cfg.invalid("WithTopicChecks", "contradicts the scheduler, of which there is none then: give nil")
	case !cfg.topicChecks && scheduler == nil:
		cfg.invalid("scheduler", "must not be nil, unless checks go to a topic at once: WithTopicChecks")
	}
	switch {
	case cfg.messageFirst && cfg.outbox != nil:
		cfg.invalid("WithFallback", "contradicts MessageFirst, whose checks leave when the transaction is over")
	case !cfg.messageFirst && cfg.transactor != nil && cfg.witness == nil:
		cfg.invalid("WithWitness", "is missing: somebody must tell whether a transaction whose check is due has committed")
	case cfg.transactor == nil && (cfg.witness != nil || cfg.outbox != nil || cfg.messageFirst):
		cfg.invalid("WithTransactions", "is missing: InTx needs a store that begins transactions in the business's database")
	}
	cfg.checkRetention()
	if len(cfg.errs) > 0 {
		return cfg, fmt.Errorf("delayedcheck: options: %w", errors.Join(cfg.errs...))
	}
	return cfg, nil
}

func (c *senderConfig) invalid(field, format string, args ...any) {
	c.errs = append(c.errs, reliable.Invalid(field, format, args...))
}

func (c *senderConfig) between(field string, value, low, high time.Duration) bool {
	if value < low || value > high {
		c.invalid(field, "%v must lie between %v and %v", value, low, high)
		return false
	}
	return true
}

// WithGroups sets the consumer groups whose processed confirms the checks wait for, where [WithTopicGroups] says nothing
// else of a topic. Default none: then a message to such a topic is refused.
func WithGroups(groups ...string) SenderOption {
	return func(c *senderConfig) { c.groups = c.named("WithGroups", groups) }
}

// WithTopicGroups sets the consumer groups that process the messages of one topic.
func WithTopicGroups(topic string, groups ...string) SenderOption {
	return func(c *senderConfig) { c.topicGroups[topic] = c.named("WithTopicGroups", groups) }
}

func (c *senderConfig) named(field string, groups []string) []string {
	if len(groups) == 0 || len(groups) > MaxGroups {
		c.invalid(field, "names %d consumer groups, must name 1 to %d", len(groups), MaxGroups)
	}
	for _, group := range groups {
		confirm := reliable.Processed{ID: "any", Group: group}
		if err := confirm.Check(); err != nil {
			c.errs = append(c.errs, fmt.Errorf("%s: %w", field, err))
		}
	}
	return slices.Clone(groups)
}

// groupsOf returns the groups that process a topic, none if nobody said.
func (c *senderConfig) groupsOf(topic string) []string {
	if groups, ok := c.topicGroups[topic]; ok {
		return groups
	}
	return c.groups
}

// WithProducerName sets the name under which the callback service's configuration knows where this producer answers resends;
// default empty, which that service takes for its default producer. It is a name and never an address.
func WithProducerName(name string) SenderOption { return func(c *senderConfig) { c.producer = name } }

// WithCheckTopic sets where checks come due; default [DefaultCheckTopic]. The callback service reads it.
func WithCheckTopic(topic string) SenderOption {
	return func(c *senderConfig) {
		if topic == "" {
			c.invalid("WithCheckTopic", "is empty")
		}
		c.checkTopic = topic
	}
}

// WithTopicChecks has the checks take the messages' own way to the broker: they go to the topic of checks at once, through
// the publisher, and say how long they are to wait. It is what a [TopicScheduler] does by a publisher of its own, for
// brokers that cannot delay, Kafka above all; here checks and messages share the broker's requests. The callback service
// keeps the checks in its ledger until they are due. Checks take places in the window as messages do ([WithWindow]).
func WithTopicChecks() SenderOption { return func(c *senderConfig) { c.topicChecks = true } }

// WithCheckDelay sets when a check comes due; default 5 min. It should exceed the time in which a message is normally
// processed by far: a check that is too early has a message sent twice that was only slow. A transaction must be over
// within a part of it, see [WithMaxAge].
func WithCheckDelay(delay time.Duration) SenderOption {
	return func(c *senderConfig) {
		if c.between("WithCheckDelay", delay, 10*time.Millisecond, 24*time.Hour) {
			c.checkDelay = delay
		}
	}
}

// WithCheckTimeout sets how long InTx waits for the confirm of a transaction's checks while it holds the locks of the
// business; default 50 ms. Shorter means that a hiccup of the broker fails transactions, or fills the fallback; longer,
// that a sick broker slows the database down, until the breaker opens.
func WithCheckTimeout(timeout time.Duration) SenderOption {
	return func(c *senderConfig) {
		if c.between("WithCheckTimeout", timeout, time.Millisecond, time.Hour) {
			c.checkTimeout = timeout
		}
	}
}

// WithMaxAge sets the part of the check's delay that may have passed since the check left when InTx commits; default 0.5,
// above 0 and at most 1. After that InTx rolls back, since the check could be answered before the transaction is over.
func WithMaxAge(part float64) SenderOption {
	return func(c *senderConfig) {
		if part <= 0 || part > 1 {
			c.invalid("WithMaxAge", "is %v, must lie above 0 and be 1 at most", part)
		}
		c.maxAge = part
	}
}

// WithBreaker sets after how many checks in a row that were not confirmed no transaction waits for one any more, and for
// how long; default 5, and 1 s. Then one transaction tries again for all.
func WithBreaker(failures int, pause time.Duration) SenderOption {
	return func(c *senderConfig) {
		if failures < 1 {
			c.invalid("WithBreaker", "opens after %d failures, must be 1 at least", failures)
		}
		if c.between("WithBreaker", pause, time.Millisecond, time.Hour) {
			c.breakAfter, c.breakFor = failures, pause
		}
	}
}

// WithTransactions sets who begins and ends the transactions of [InTx]: a store of the business's database. Only its
// transactions are used: unless there is a fallback or a commit marker, it needs no tables.
func WithTransactions(store reliable.Transactor) SenderOption {
	return func(c *senderConfig) { c.transactor = store }
}

// WithWitness sets who tells whether a transaction committed. The database's adapter has it: postgresstore.NewWitness,
// mysqlstore.NewRowWitness, sqlitestore.NewRowWitness, a store's MarkerWitness, whose horizon must be at least the delay of
// the checks and whose old rows [Sender.Run] deletes ([WithMarkerRetention]).
func WithWitness(witness reliable.Witness) SenderOption {
	return func(c *senderConfig) { c.witness = witness }
}

// Outbox is what a fallback stores in: a *tagging.Sender, or a *tagging.Outbox, on the business's database.
type Outbox interface {
	// Send stores messages in tx.
	Send(ctx context.Context, tx any, envs ...reliable.Envelope) ([]reliable.ID, error)
	// Wake tells relays that something was stored, after COMMIT.
	Wake(ctx context.Context) error
}

// WithFallback stores the messages of a transaction whose checks are not confirmed in time in an outbox, in the same
// transaction: the database has message rows only while the broker is sick. Default none: such a transaction fails.
func WithFallback(outbox Outbox) SenderOption { return func(c *senderConfig) { c.outbox = outbox } }

// MessageFirst is the order as it is usually described: COMMIT, then the message, then its check. A transaction holds its
// locks no longer than without messages and fails with no broker, but a message is lost for good if the process dies
// between COMMIT and the check, or if the broker is away then: use it where that is better than to wait. [InTx] does not
// ask the witness, so none is needed.
func MessageFirst() SenderOption { return func(c *senderConfig) { c.messageFirst = true } }

// WithWindow sets how many messages may be on their way, from COMMIT to their confirm; default 1000. When they are, who
// commits waits a moment after COMMIT, for at most a second.
func WithWindow(messages int) SenderOption {
	return func(c *senderConfig) {
		if messages < 1 {
			c.invalid("WithWindow", "is %d, must be 1 at least", messages)
		}
		c.window = messages
	}
}

// WithSenderDrainTimeout sets how long [Sender.Run] waits, once its context has ended, for transactions that are under way
// and for confirms; default 30 s.
func WithSenderDrainTimeout(timeout time.Duration) SenderOption {
	return func(c *senderConfig) {
		if c.between("WithSenderDrainTimeout", timeout, 0, time.Hour) {
			c.drainTimeout = timeout
		}
	}
}

// WithSenderCapture adds metadata taken from the context in which a message is sent, the trace context above all. What the
// message itself says wins.
func WithSenderCapture(capture func(ctx context.Context) map[string]string) SenderOption {
	return func(c *senderConfig) { c.capture = capture }
}

// WithSenderLogger sets where to log; default slog.Default(). Payloads and metadata are never logged.
func WithSenderLogger(logger *slog.Logger) SenderOption {
	return func(c *senderConfig) {
		if logger == nil {
			c.invalid("WithSenderLogger", "must not be nil")
			return
		}
		c.logger = logger
	}
}

// WithSenderHooks sets what is told of each step; default nothing.
func WithSenderHooks(hooks SenderHooks) SenderOption {
	return func(c *senderConfig) { c.hooks = hooks }
}
