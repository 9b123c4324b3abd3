package delayedcheck

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// choreTerm is how long the process that does a chore of the fleet keeps that office.
	choreTerm = 2 * time.Minute
	// purgeEvery and purgeBatch are how often old rows are looked for, and how many are deleted together.
	purgeEvery = time.Minute
	purgeBatch = 1000
)

// chores are what one process of a fleet at a time does for all of them.
type chores struct {
	logger  *slog.Logger
	worker  string
	timeout time.Duration    // of a statement
	elector reliable.Elector // nil: each process does them
}

// newChores finds in store, or behind its wrappers, who elects the process.
func newChores(store any, logger *slog.Logger, worker string, timeout time.Duration) *chores {
	elector, _ := reliable.Ability[reliable.Elector](store)
	return &chores{logger: logger, worker: worker, timeout: timeout, elector: elector}
}

// loop does a chore again and again until ctx ends.
func (c *chores) loop(ctx context.Context, name string, every time.Duration, chore func(context.Context) error) {
	for {
		if err := chore(ctx); err != nil && ctx.Err() == nil {
			c.logger.WarnContext(ctx, "chore failed, will be tried again", "chore", name, "error", err)
		}
		if sleep(ctx, every) != nil {
			return
		}
	}
}

// elected reports whether this process does a chore now.
func (c *chores) elected(ctx context.Context, chore string) (bool, error) {
	if c.elector == nil {
		return true, nil
	}
	timed, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.elector.Elect(timed, chore, c.worker, choreTerm)
}

// purge deletes what is old in bounded batches, if this process is the one that does it. some deletes up to limit rows.
func (c *chores) purge(ctx context.Context, chore string, some func(ctx context.Context, limit int) (int, error)) error {
	if elected, err := c.elected(ctx, chore); err != nil || !elected {
		return err
	}
	for ended := time.Now().Add(choreTerm / 2); ctx.Err() == nil && time.Now().Before(ended); {
		n, err := c.purgeSome(ctx, some)
		if err != nil || n < purgeBatch {
			return err
		}
	}
	return ctx.Err()
}

func (c *chores) purgeSome(ctx context.Context, some func(ctx context.Context, limit int) (int, error)) (int, error) {
	timed, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return some(timed, purgeBatch)
}

// sleep returns ctx's error if that ends first.
func sleep(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// processName tells people which process has an office, or works on a request.
func processName() string {
	host, err := os.Hostname()
	if err != nil || len(host) > 64 {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), reliable.NewID()[24:])
}
