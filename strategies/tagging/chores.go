package tagging

import (
	"context"
	"time"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/internal/engine"
)

const (
	purgeBatch = 1000
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
	cfg          config
	compensation *compensation
	purger       reliable.Purger
	elector      reliable.Elector
	inspector    reliable.Inspector
}

func newChores(cfg config, store reliable.Store) *chores {
	c := &chores{cfg: cfg, compensation: newCompensation(cfg, store)}
	c.purger, _ = reliable.Ability[reliable.Purger](store)
	c.elector, _ = reliable.Ability[reliable.Elector](store)
	c.inspector, _ = reliable.Ability[reliable.Inspector](store)
	return c
}

func (c *chores) list() []engine.Chore {
	var list []engine.Chore
	if len(c.cfg.handlers) > 0 {
		list = append(list, engine.Chore{
			Name: "compensation", Every: compensationPoll, Kick: c.compensation.kicked, Run: c.compensation.pass,
		})
	}
	if c.purger != nil && c.cfg.retention != keepForEver {
		every := min(purgeEvery, max(time.Second, c.cfg.retention))
		list = append(list, engine.Chore{Name: "retention", Every: every, Run: c.purge})
	}
	for _, e := range c.cfg.elsewhere {
		list = append(list, e.chore())
	}
	if c.inspector != nil && c.cfg.hooks.Backlog != nil {
		list = append(list, engine.Chore{Name: "backlog", Every: statsEvery, Run: c.report})
	}
	return list
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
