package tagging

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/internal/engine"
)

const (
	compensationPoll = 5 * time.Second
	purgeBatch       = 1000
	// purgeLease is how long the process that deletes old rows keeps that office.
	purgeLease = 2 * time.Minute
	// purgeEvery is the longest pause between looks for old rows; a retention below it looks as often as that, but not
	// more than once a second.
	purgeEvery = time.Minute
	statsEvery = 15 * time.Second
	// laterPurge keeps what compensation or an operator ended, for people to look at.
	laterPurge = 30 * 24 * time.Hour
)

// chores is what is done beside relaying: failed envelopes are handed to their handlers, old rows deleted, and the backlog
// reported.
type chores struct {
	cfg         config
	compensator reliable.Compensator
	purger      reliable.Purger
	elector     reliable.Elector
	inspector   reliable.Inspector
	failed      chan struct{}
}

func newChores(cfg config, store reliable.Store) *chores {
	c := &chores{cfg: cfg, failed: make(chan struct{}, 1)}
	c.compensator, _ = reliable.Ability[reliable.Compensator](store)
	c.purger, _ = reliable.Ability[reliable.Purger](store)
	c.elector, _ = reliable.Ability[reliable.Elector](store)
	c.inspector, _ = reliable.Ability[reliable.Inspector](store)
	return c
}

func (c *chores) list() []engine.Chore {
	var list []engine.Chore
	if len(c.cfg.handlers) > 0 && c.compensator != nil {
		list = append(list, engine.Chore{Name: "compensation", Every: compensationPoll, Kick: c.failed, Run: c.compensate})
	}
	if c.purger != nil && c.cfg.retention != keepForEver {
		every := min(purgeEvery, max(time.Second, c.cfg.retention))
		list = append(list, engine.Chore{Name: "retention", Every: every, Run: c.purge})
	}
	if c.inspector != nil && c.cfg.hooks.Backlog != nil {
		list = append(list, engine.Chore{Name: "backlog", Every: statsEvery, Run: c.report})
	}
	return list
}

func (c *chores) kickCompensation() {
	select {
	case c.failed <- struct{}{}:
	default:
	}
}

// compensate hands failed envelopes to their handlers until none is due. They are claimed one at a time, so that each
// handler has the whole lease, and none is begun that a shutdown would break off.
func (c *chores) compensate(ctx context.Context) error {
	topics := make([]string, 0, len(c.cfg.handlers))
	for topic := range c.cfg.handlers {
		topics = append(topics, topic)
	}
	for ctx.Err() == nil {
		leaseEnd := time.Now().Add(c.cfg.lease)
		record, err := c.claimFailed(ctx, topics)
		if record == nil || err != nil {
			return err
		}
		if err := c.handle(ctx, record, leaseEnd); err != nil {
			return err
		}
	}
	return nil
}

func (c *chores) claimFailed(ctx context.Context, topics []string) (*reliable.Record, error) {
	timed, cancel := context.WithTimeout(ctx, c.cfg.storeTimeout)
	defer cancel()
	records, err := c.compensator.ClaimFailed(timed, reliable.ClaimRequest{
		Worker: c.cfg.worker, Max: 1, Lease: c.cfg.lease,
	}, topics...)
	if len(records) == 0 || err != nil {
		return nil, err
	}
	return &records[0], nil
}

// handle runs one handler within its lease and records what came of it, even if ctx ends meanwhile.
func (c *chores) handle(ctx context.Context, record *reliable.Record, leaseEnd time.Time) error {
	outcome := reliable.Compensation{ID: record.ID, Fence: record.Fence, Topic: record.Topic, Key: record.Key}
	err := c.call(ctx, record, leaseEnd)
	if err == nil {
		outcome.Done = true
	} else {
		outcome.Delay, outcome.Reason = c.cfg.policy.Retry.Delay(max(1, len(record.History))), err.Error()
		c.cfg.logger.WarnContext(ctx, "compensation handler failed, will be tried again",
			"id", record.ID, "topic", record.Topic, "error", err)
	}
	timed, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.storeTimeout)
	defer cancel()
	result, err := c.compensator.SettleCompensation(timed, outcome)
	if err != nil {
		return fmt.Errorf("record compensation of %q: %w", string(record.ID), err)
	}
	if outcome.Done && result == reliable.Applied && c.cfg.hooks.Compensated != nil {
		c.cfg.hooks.Compensated(record)
	}
	return nil
}

// call runs the handler; a panic is a failure.
func (c *chores) call(ctx context.Context, record *reliable.Record, leaseEnd time.Time) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			c.cfg.logger.ErrorContext(ctx, "compensation handler panicked", "id", record.ID, "topic", record.Topic, "stack", string(debug.Stack()))
			err = fmt.Errorf("handler panicked: %v", panicked)
		}
	}()
	timed, cancel := context.WithDeadline(ctx, leaseEnd)
	defer cancel()
	return c.cfg.handlers[record.Topic](timed, record)
}

// purge deletes old rows in bounded batches, in one process of the fleet at a time.
func (c *chores) purge(ctx context.Context) error {
	term := time.Now()
	if c.elector != nil {
		timed, cancel := context.WithTimeout(ctx, c.cfg.storeTimeout)
		defer cancel()
		elected, err := c.elector.Elect(timed, "retention", c.cfg.worker, purgeLease)
		if err != nil || !elected {
			return err
		}
	}
	for status, age := range map[reliable.Status]time.Duration{
		reliable.Confirmed:   c.cfg.retention,
		reliable.Compensated: max(laterPurge, c.cfg.retention),
		reliable.Discarded:   max(laterPurge, c.cfg.retention),
	} {
		for more := true; more && ctx.Err() == nil && time.Since(term) < purgeLease/2; {
			var err error
			if more, err = c.purgeBatch(ctx, status, age); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func (c *chores) purgeBatch(ctx context.Context, status reliable.Status, age time.Duration) (more bool, err error) {
	timed, cancel := context.WithTimeout(ctx, c.cfg.storeTimeout)
	defer cancel()
	n, err := c.purger.Purge(timed, status, age, purgeBatch)
	return n == purgeBatch, err
}

func (c *chores) report(ctx context.Context) error {
	timed, cancel := context.WithTimeout(ctx, c.cfg.storeTimeout)
	defer cancel()
	stats, err := c.inspector.Stats(timed)
	if err != nil {
		return err
	}
	c.cfg.hooks.Backlog(stats)
	return nil
}
