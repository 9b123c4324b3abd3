package tagging

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/internal/engine"
)

// Outbox sends and relays: everything a [Sender] does and, in [Outbox.Run], the way from the store to the broker and back.
// It is safe for concurrent use.
type Outbox struct {
	*Sender
	engine *engine.Engine
	chores *chores
}

// New returns an Outbox over a store and a broker; publisher and confirms are usually one adapter. It starts nothing and
// does no I/O: until [Outbox.Run] is called, messages are stored and wait. The caller closes what it passed in, after Run
// has returned.
//
// All that is wrong with the options is reported together, as errors that are [reliable.ErrInvalid].
func New(store reliable.Store, publisher reliable.Publisher, confirms reliable.ConfirmSource, opts ...Option) (*Outbox, error) {
	if store == nil || publisher == nil || confirms == nil {
		return nil, fmt.Errorf("tagging: new: %w", reliable.Invalid("store, publisher and confirms",
			"must not be nil; a process that only stores uses NewSender"))
	}
	cfg, err := newConfig(opts, store, publisher)
	if err != nil {
		return nil, err
	}
	o := &Outbox{chores: newChores(cfg, store)}
	o.engine = engine.New(engine.Config{
		Store: store, Publisher: publisher, Confirms: confirms, Logger: cfg.logger, Worker: cfg.worker,
		Lease: cfg.lease, ConfirmWait: cfg.confirmWait, PollInterval: cfg.pollInterval,
		DrainTimeout: cfg.drainTimeout, StoreTimeout: cfg.storeTimeout,
		Window: cfg.window, Capacity: cfg.capacity, CapacityBytes: cfg.capacityBytes,
		ClaimBatch: min(claimBatch, cfg.capacity), SettleBatch: settleBatch, SettleDelay: settleDelay, AwaitedDelay: awaitedDelay,
		Policy: cfg.policy,
		Hooks: engine.Hooks{
			Handed: cfg.hooks.Handed, Answered: cfg.hooks.Answered, Held: cfg.hooks.Held, Released: cfg.hooks.Released,
			Settled: o.settled, Awaited: func(id reliable.ID) bool { return o.receipts.awaited(id) },
			FailedTogether: func(topic string, n int) {
				o.chores.compensation.kick()
				if cfg.hooks.FailedTogether != nil {
					cfg.hooks.FailedTogether(topic, n)
				}
			},
		},
		Chores: o.chores.list(),
	})
	o.Sender = newSender(cfg, store, o.engine)
	return o, nil
}

const (
	// claimBatch and settleBatch are rows per statement: large enough to make the statement's own cost small.
	claimBatch  = 1000
	settleBatch = 1000
	// settleDelay is how long outcomes wait to be recorded together. At 1,000 a second a statement for 20 instead of 3 takes
	// a fifth off what a message costs PostgreSQL; a crash makes duplicates of as many more.
	settleDelay = 20 * time.Millisecond
	// awaitedDelay is the same while the next message of a key, or a caller, waits for one of them.
	awaitedDelay = 3 * time.Millisecond
)

// Run relays until ctx ends: it sends what this process leased, claims what is due (shared with every other relay on the
// same tables), records outcomes, looks after held topics, failed envelopes and old rows. When ctx ends it stops claiming,
// gives back what was not handed over, waits for the confirms of what was, and records them, for at most the drain timeout.
//
// It returns nil after a complete drain; an error that is [reliable.ErrDrain] if something was left to its lease;
// [reliable.ErrSchema] at once if the tables cannot be used; [reliable.ErrInvalid] if it runs already. That the store or
// the broker is away is no reason to return: it waits and goes on.
func (o *Outbox) Run(ctx context.Context) error {
	if err := o.check(ctx); err != nil {
		return err
	}
	return running(o.engine.Run(ctx))
}

// check finds tables that cannot be used before anything is claimed. A store that does not answer is not such a reason.
func (o *Outbox) check(ctx context.Context) error {
	checker, ok := reliable.Ability[reliable.Checker](o.store)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, o.cfg.storeTimeout)
	defer cancel()
	err := checker.Check(ctx)
	if errors.Is(err, reliable.ErrSchema) {
		return fmt.Errorf("tagging: run: %w", err)
	}
	if err != nil {
		o.cfg.logger.WarnContext(ctx, "the store could not be checked; starting all the same", "error", err)
	}
	return nil
}

// Report is what one pass of [Outbox.SweepOnce] did.
type Report = engine.Report

// SweepOnce makes one pass and returns when its outcomes are recorded: it claims all that is due and relays it, runs the
// compensation handlers and deletes old rows once. It lets an outside scheduler (cron, a Kubernetes CronJob) drive the
// sweep, from as many processes as it likes. It cannot be called while [Outbox.Run] runs, which sweeps by itself.
func (o *Outbox) SweepOnce(ctx context.Context) (Report, error) {
	if err := o.check(ctx); err != nil {
		return Report{}, err
	}
	report, err := o.engine.Sweep(ctx)
	return report, running(err)
}

func running(err error) error {
	if errors.Is(err, engine.ErrRunning) {
		return fmt.Errorf("tagging: %w", reliable.Invalid("call", "%v; use one Outbox for each relay", err))
	}
	if err != nil {
		return fmt.Errorf("tagging: %w", err)
	}
	return nil
}

// Stats returns how many messages are pending and failed, and the age of the oldest, by topic. The error is
// [errors.ErrUnsupported] if the store cannot tell.
func (o *Outbox) Stats(ctx context.Context) ([]reliable.TopicStats, error) {
	inspector, ok := reliable.Ability[reliable.Inspector](o.store)
	if !ok {
		return nil, fmt.Errorf("tagging: stats: the store is no reliable.Inspector: %w", errors.ErrUnsupported)
	}
	return inspector.Stats(ctx)
}

// settled tells receipts and hooks what was recorded.
func (o *Outbox) settled(a *reliable.Attempt, s *reliable.Settlement, result reliable.SettleResult) {
	// A repeated ack may be one that was overtaken before; a store that can be asked knows.
	confirmed := result == reliable.Applied || result == reliable.Late ||
		result == reliable.Repeated && o.receipts.inspector == nil
	switch {
	case confirmed && s.To == reliable.Confirmed:
		o.receipts.resolve(s.ID, reliable.Confirmed)
	case s.To == reliable.Failed && (result == reliable.Applied || result == reliable.Repeated):
		o.receipts.resolve(s.ID, reliable.Failed)
		o.chores.compensation.kick()
		o.cfg.logger.Warn("message failed and waits for compensation", slog.String("id", string(s.ID)), slog.String("topic", s.Topic),
			slog.Int("attempt", a.Attempts), slog.String("outcome", s.Outcome.String()), slog.String("reason", s.Reason))
		if o.cfg.hooks.Failed != nil {
			o.cfg.hooks.Failed(a, s)
		}
	case result == reliable.Overtaken:
		o.receipts.forget(s.ID)
		o.cfg.logger.Warn("the broker has a message whose compensation has begun, or that was discarded",
			slog.String("id", string(s.ID)), slog.String("topic", s.Topic))
		if o.cfg.hooks.LateAck != nil {
			o.cfg.hooks.LateAck(a)
		}
	default:
		o.receipts.forget(s.ID) // any relay of the fleet may record the outcome: who waits asks the store
	}
	if o.cfg.hooks.Settled != nil {
		o.cfg.hooks.Settled(a, s, result)
	}
}

// Running reports whether [Outbox.Run] or [Outbox.SweepOnce] is active in this process.
func (o *Outbox) Running() bool { return o.engine.Running() }
