package engine

import (
	"context"
	"fmt"
	"sync"

	"github.com/waybillmq/waybill/reliable"
)

// drain finishes what is in flight: nothing new comes in, what was not handed over is given back, what was is waited for,
// and every outcome is recorded. After a single pass what is queued is still sent.
func (e *Engine) drain(stopDispatch context.CancelFunc, dispatchers *sync.WaitGroup, sendQueued bool) error {
	e.window.close()
	e.settler.awaitAll()
	ctx, cancel := context.WithTimeout(context.Background(), e.cfg.DrainTimeout)
	defer cancel()

	if sendQueued {
		e.awaitWindow(ctx, func(c windowCounts) bool { return c.held == 0 && c.reserved == 0 || e.unreachable.Load() })
	} else {
		// Senders that have leased, or are leasing, hand over what they have: it is given back below.
		e.awaitWindow(ctx, func(c windowCounts) bool { return c.reserved == 0 })
	}
	stopDispatch()
	dispatchers.Wait()
	e.giveBackQueued(0, 0)
	e.giveBackAlone()
	if e.awaitWindow(ctx, func(c windowCounts) bool { return c.held == 0 && c.reserved == 0 && e.settler.idle() }) {
		return nil
	}
	left := e.window.counts()
	return fmt.Errorf("%w: %d attempts were unconfirmed and %d outcomes unrecorded after %v; their leases run out and they are taken up again",
		reliable.ErrDrain, left.handed, left.held-left.handed, e.cfg.DrainTimeout)
}

// awaitWindow waits until done says so, and reports whether it did before ctx ended.
func (e *Engine) awaitWindow(ctx context.Context, done func(windowCounts) bool) bool {
	for {
		changed := e.window.changed()
		if done(e.window.counts()) {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
