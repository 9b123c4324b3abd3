package tagging

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/internal/engine"
)

// Option configures [New] and [NewSender].
type Option func(*config)

type config struct {
	worker         string
	logger         *slog.Logger
	limits         reliable.Limits
	lease          time.Duration
	confirmWait    time.Duration
	pollInterval   time.Duration
	drainTimeout   time.Duration
	storeTimeout   time.Duration
	window         int
	capacity       int
	capacityBytes  int
	groupRows      int
	groupBytes     int
	groupWriters   int
	policy         engine.Policy
	classic        bool
	budgetSet      bool
	retention      time.Duration
	handlers       map[string]handling
	handlersAtOnce int
	handlerBackoff engine.Backoff
	hooks          Hooks
	elsewhere      map[string]*Elsewhere
	capture        func(ctx context.Context) map[string]string
	errs           []error
}

// defaultWriters is how many shared statements are under way at a time if the store has no opinion: one writes while the
// answer to the other is on its way.
const defaultWriters = 2

// keepForEver is the retention that deletes nothing.
const keepForEver = time.Duration(-1)

func newConfig(opts []Option, store reliable.Store, publisher reliable.Publisher) (config, error) {
	cfg := config{
		worker: defaultWorker(), logger: slog.Default(), limits: reliable.DefaultLimits(),
		lease: 60 * time.Second, pollInterval: 750 * time.Millisecond,
		drainTimeout: 30 * time.Second, storeTimeout: 10 * time.Second,
		window: 1000, capacity: 4096, capacityBytes: 32 << 20,
		groupRows: 500, groupBytes: 1 << 20, groupWriters: defaultWriters,
		policy: engine.Policy{
			MaxFailures: 10, MinFailing: 30 * time.Minute,
			Retry: engine.Backoff{Base: time.Second, Max: time.Minute},
			Again: engine.Backoff{Base: 250 * time.Millisecond, Max: 10 * time.Second},
		},
		retention: 24 * time.Hour,
		handlers:  make(map[string]handling), handlersAtOnce: 4,
		handlerBackoff: engine.Backoff{Base: time.Second, Max: 5 * time.Minute},
	}
	if store == nil {
		return cfg, fmt.Errorf("tagging: %w", reliable.Invalid("store", "must not be nil"))
	}
	if writing, ok := reliable.Ability[reliable.Writing](store); ok {
		cfg.groupWriters = max(1, writing.Writers())
	}
	for _, opt := range opts {
		opt(&cfg)
	}
	for _, part := range []any{store, publisher} {
		if limited, ok := reliable.Ability[reliable.Limited](part); ok {
			cfg.limits = cfg.limits.Stricter(limited.Limits())
		}
	}
	cfg.confirmWait = cfg.lease / 2
	if bounded, ok := reliable.Ability[reliable.Bounded](publisher); ok {
		if wait := bounded.MaxConfirmWait(); wait >= cfg.lease {
			cfg.invalid("WithLease", "%v must be longer than the broker adapter's confirm timeout of %v, or a message could "+
				"be sent twice while its first confirm is on the way", cfg.lease, wait)
		} else if wait > 0 {
			cfg.confirmWait = wait
		}
	}
	if cfg.capacity < cfg.window {
		cfg.invalid("WithMemory", "%d messages are fewer than the window of %d", cfg.capacity, cfg.window)
	}
	if cfg.classic && cfg.budgetSet {
		cfg.invalid("Classic", "contradicts WithFailureBudget: Classic has its own limit")
	}
	cfg.checkHandlers(store)
	cfg.checkElsewhere(store)
	if len(cfg.errs) > 0 {
		return cfg, fmt.Errorf("tagging: options: %w", errors.Join(cfg.errs...))
	}
	return cfg, nil
}

// defaultWorker tells people which process holds a lease.
func defaultWorker() string {
	host, err := os.Hostname()
	if err != nil || len(host) > 64 {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), reliable.NewID()[24:])
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

// WithLease sets how long a claimed message belongs to a process; default 60 s. It must be longer than the broker
// adapter's confirm timeout. Shorter means that another process takes over sooner after a crash; too short means
// duplicates when confirms are slow.
func WithLease(lease time.Duration) Option {
	return func(c *config) {
		if c.between("WithLease", lease, 100*time.Millisecond, time.Hour) {
			c.lease = lease
		}
	}
}

// WithPollInterval sets how often the relay looks for due rows while it finds none; default 750 ms. It bounds how late
// a message of another process is found on a store without wake-ups, and sets the load of an idle relay.
func WithPollInterval(interval time.Duration) Option {
	return func(c *config) {
		if c.between("WithPollInterval", interval, time.Millisecond, time.Hour) {
			c.pollInterval = interval
		}
	}
}

// WithWindow sets how many messages may be handed over and unconfirmed; default 1000. Smaller is slower, and larger only
// adds latency and duplicates after a lost connection.
func WithWindow(messages int) Option {
	return func(c *config) {
		if messages < 1 || messages > 100_000 {
			c.invalid("WithWindow", "%d must lie between 1 and 100000", messages)
			return
		}
		c.window = messages
	}
}

// WithMemory bounds what the relay holds in memory, from the moment a message is leased until its outcome is recorded;
// default 4096 messages and 32 MiB of them. What does not fit stays in the store; a single larger message passes alone.
func WithMemory(messages, bytes int) Option {
	return func(c *config) {
		if messages < 1 || bytes < 1 {
			c.invalid("WithMemory", "%d messages and %d bytes must both be above 0", messages, bytes)
			return
		}
		c.capacity, c.capacityBytes = messages, bytes
	}
}

// WithGroupCommit bounds one statement of [Sender.Publish], default 500 rows and 1 MiB, and sets how many are under way at
// a time, default what the store asks for ([reliable.Writing]; SQLite has one writer), else 2. One leaves beside another when
// 64 rows, or as many rows or bytes as are allowed, wait for it, or have waited for twice what a statement takes, at most 10 ms.
func WithGroupCommit(rows, bytes, writers int) Option {
	return func(c *config) {
		if rows < 1 || bytes < 1 || writers < 1 || writers > 64 {
			c.invalid("WithGroupCommit", "%d rows, %d bytes and %d writers must be above 0, and writers at most 64", rows, bytes, writers)
			return
		}
		c.groupRows, c.groupBytes, c.groupWriters = rows, bytes, writers
	}
}

// WithFailureBudget sets when a message that is refused, not merely unanswered, is failed: by a refusal that is its
// refusals-th or later, once it has been failing for at least over; default 10 refusals over 30 minutes. The same budget
// counts for a destination, and for what waits behind it. Too small and a wrong permission of some minutes ends in
// compensation; too large and nobody hears of it.
func WithFailureBudget(refusals int, over time.Duration) Option {
	return func(c *config) {
		c.budgetSet = true
		if refusals < 1 {
			c.invalid("WithFailureBudget", "%d refusals must be at least 1", refusals)
		}
		c.between("WithFailureBudget", over, 0, 30*24*time.Hour)
		c.policy.MaxFailures, c.policy.MinFailing = refusals, over
	}
}

// WithBackoff sets the pause after a refusal: base after the first, doubled after each further one up to limit; default 1 s
// up to 1 minute. Probes of a held topic follow it too.
func WithBackoff(base, limit time.Duration) Option {
	return func(c *config) {
		if base <= 0 || limit < base {
			c.invalid("WithBackoff", "base %v must be above 0 and not above the limit %v", base, limit)
			return
		}
		c.policy.Retry = engine.Backoff{Base: base, Max: limit}
	}
}

// WithUnknownBackoff sets the pause before a message whose outcome is unknown is sent again, as [WithBackoff]; default
// 250 ms up to 10 s.
func WithUnknownBackoff(base, limit time.Duration) Option {
	return func(c *config) {
		if base <= 0 || limit < base {
			c.invalid("WithUnknownBackoff", "base %v must be above 0 and not above the limit %v", base, limit)
			return
		}
		c.policy.Again = engine.Backoff{Base: base, Max: limit}
	}
}

// Classic is the rule as an outbox with status tagging is usually described: look again after the interval, at most resends
// times, count every kind of failure, unknown ones too, then fail. The usual numbers are 5 minutes and 3. It replaces the
// failure budget, and an outage that lasts longer than all resends ends in failed messages: prefer the default.
func Classic(interval time.Duration, resends int) Option {
	return func(c *config) {
		c.classic = true
		if resends < 0 || resends > 1000 {
			c.invalid("Classic", "%d resends must lie between 0 and 1000", resends)
		}
		c.between("Classic", interval, time.Millisecond, 24*time.Hour)
		exact := engine.Backoff{Base: interval, Max: interval, Exact: true}
		c.policy.Classic, c.policy.MaxFailures, c.policy.MinFailing = true, resends+1, 0
		c.policy.Retry, c.policy.Again = exact, exact
	}
}

// WithKeysGoingOnAfterFailure lets the messages of a key go on behind one that failed. By default they wait until it is
// confirmed, compensated or discarded, because what follows a message may make no sense without it.
func WithKeysGoingOnAfterFailure() Option {
	return func(c *config) { c.policy.ReleaseFailed = true }
}

// WithRetention sets how long confirmed rows are kept; default 24 h, 0 deletes them as soon as the next pass comes by.
// Rows remember IDs: a repeated ID is recognised for as long as its row is kept. Compensated and discarded rows are kept
// for at least 30 days, failed ones for ever.
func WithRetention(age time.Duration) Option {
	return func(c *config) {
		if c.between("WithRetention", age, 0, 10*365*24*time.Hour) {
			c.retention = age
		}
	}
}

// WithoutRetention deletes nothing: somebody else does, or the table is partitioned.
func WithoutRetention() Option { return func(c *config) { c.retention = keepForEver } }

// WithDrainTimeout sets how long [Outbox.Run] may take to finish after its context ended; default 30 s.
func WithDrainTimeout(timeout time.Duration) Option {
	return func(c *config) {
		if c.between("WithDrainTimeout", timeout, 0, time.Hour) {
			c.drainTimeout = timeout
		}
	}
}

// WithStoreTimeout bounds each of the relay's own statements and group commits; default 10 s.
func WithStoreTimeout(timeout time.Duration) Option {
	return func(c *config) {
		if c.between("WithStoreTimeout", timeout, time.Millisecond, time.Hour) {
			c.storeTimeout = timeout
		}
	}
}

// WithLimits makes the size limits stricter than those of the store and the broker adapter.
func WithLimits(limits reliable.Limits) Option {
	return func(c *config) {
		if min(limits.Payload, limits.Metadata, limits.MetadataPairs, limits.Topic, limits.Key, limits.ID) < 0 {
			c.invalid("WithLimits", "has a negative limit; 0 leaves that of the store and the broker adapter")
			return
		}
		c.limits = c.limits.Stricter(limits)
	}
}

// WithWorker names this process in leases and history, at most 128 bytes; default host name, process id and a random part.
// Two processes must not share a name.
func WithWorker(name string) Option {
	return func(c *config) {
		if name == "" || len(name) > 128 {
			c.invalid("WithWorker", "must have 1 to 128 bytes, has %d", len(name))
			return
		}
		c.worker = name
	}
}

// WithLogger sets where to log; default slog.Default(). Payloads and metadata are never logged.
func WithLogger(logger *slog.Logger) Option {
	return func(c *config) {
		if logger == nil {
			c.invalid("WithLogger", "must not be nil")
			return
		}
		c.logger = logger
	}
}

// WithCapture adds metadata taken from the context in which a message is stored, the trace context above all, so that a
// trace survives the hop. What the message itself says wins.
func WithCapture(capture func(ctx context.Context) map[string]string) Option {
	return func(c *config) { c.capture = capture }
}

// WithHooks sets what is told of each step; default nothing.
func WithHooks(hooks Hooks) Option { return func(c *config) { c.hooks = hooks } }

// Hooks are told of each step, for metrics, traces and tests. They are called synchronously on the relay's goroutines,
// several at a time: they must be quick, must not call back into the Outbox and must not keep what they are given. Nil ones
// are skipped.
type Hooks struct {
	// Handed is called before attempts are handed to the broker.
	Handed func(attempts []reliable.Attempt)
	// Answered is called for each of the broker's answers, with the time since the attempt came to this process: for
	// messages sent by InTx and Publish, the time since COMMIT.
	Answered func(a *reliable.Attempt, c *reliable.Confirm, since time.Duration)
	// Settled is called for each outcome that was recorded, or found to be stale.
	Settled func(a *reliable.Attempt, s *reliable.Settlement, result reliable.SettleResult)
	// Held and Released are called when this process holds a topic, or counts a further refusal, and when it releases one.
	Held     func(hold reliable.Hold)
	Released func(topic string)
	// FailedTogether is called with how many messages failed behind a held topic.
	FailedTogether func(topic string, n int)
	// Failed is called for each message that this process has recorded as failed, but for those of FailedTogether.
	Failed func(a *reliable.Attempt, s *reliable.Settlement)
	// LateAck is called for each ack that came after compensation had begun, or after the message was discarded: consumers
	// have it in spite of that.
	LateAck func(a *reliable.Attempt)
	// Compensated is called for each failed message whose handler succeeded, HandlerFailed for each run that did not.
	Compensated   func(record *reliable.Record)
	HandlerFailed func(record *reliable.Record, err error)
	// Witnessed is called for each answer of a witness about a transaction [Elsewhere] that was left undecided, with a
	// message of it.
	Witnessed func(w *reliable.Withheld, fate reliable.Fate)
	// Backlog is called every 15 s with what is pending and failed, by topic.
	Backlog func(stats []reliable.TopicStats)
}
