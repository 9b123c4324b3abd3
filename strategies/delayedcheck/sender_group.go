package delayedcheck

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// groupsAtOnce is how many groups of checks are on their way at a time: a few, so that what comes meanwhile shares the
	// next one, and enough that a slow one is not in everybody's way.
	groupsAtOnce = 16
	// groupChecks is how many checks share a call; one caller's are never split.
	groupChecks = 256
)

// grouping has the checks of concurrent callers share calls of the scheduler.
type grouping struct {
	schedule func(ctx context.Context, checks []reliable.Envelope) error
	timeout  time.Duration // of one shared call

	mu      sync.Mutex
	waiting []*sharing
	working int
}

// sharing is a caller whose checks wait, or are on their way in a group.
type sharing struct {
	checks []reliable.Envelope
	group  *group // nil while they wait
	done   chan error
}

// group is a call that several share; it ends early when none of them waits for it any more.
type group struct {
	callers int
	cancel  context.CancelFunc
}

// call returns when checks are scheduled, or ctx ends. left says whether they may have been, in spite of an error.
func (g *grouping) call(ctx context.Context, checks []reliable.Envelope) (left bool, err error) {
	own := &sharing{checks: checks, done: make(chan error, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, own)
	if g.working < groupsAtOnce {
		g.working++
		go g.work() //nolint:gosec // a call that callers share belongs to none of them
	}
	g.mu.Unlock()
	select {
	case err := <-own.done:
		return !errors.Is(err, reliable.ErrInvalid), err
	case <-ctx.Done():
		return g.abandon(own), context.Cause(ctx)
	}
}

// abandon forgets a caller who waits no longer, and reports whether its checks may have left.
func (g *grouping) abandon(own *sharing) (left bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if own.group == nil {
		g.waiting = slices.DeleteFunc(g.waiting, func(a *sharing) bool { return a == own })
		return false
	}
	if own.group.callers--; own.group.callers == 0 {
		own.group.cancel()
	}
	return true
}

// work schedules one group after the other until nobody waits.
func (g *grouping) work() {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), g.timeout)
		callers, checks := g.take(cancel)
		if len(callers) == 0 {
			cancel()
			return
		}
		err := g.schedule(ctx, checks)
		var apart sync.WaitGroup
		for _, own := range callers {
			if len(callers) > 1 && (errors.Is(err, reliable.ErrInvalid) || errors.Is(err, reliable.ErrRejected)) {
				apart.Go(func() { own.done <- g.schedule(ctx, own.checks) }) // one of them spoils it for all
			} else {
				own.done <- err
			}
		}
		apart.Wait()
		cancel()
	}
}

// take makes a group of those who wait.
func (g *grouping) take(cancel context.CancelFunc) (callers []*sharing, checks []reliable.Envelope) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for size := 0; n < len(g.waiting); n++ {
		if size += len(g.waiting[n].checks); n > 0 && size > groupChecks {
			break
		}
	}
	if n == 0 {
		g.working--
		return nil, nil
	}
	callers = slices.Clone(g.waiting[:n])
	g.waiting = slices.Delete(g.waiting, 0, n)
	shared := &group{callers: n, cancel: cancel}
	for _, own := range callers {
		own.group = shared
		checks = append(checks, own.checks...)
	}
	return callers, checks
}
