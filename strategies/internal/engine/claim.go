package engine

import (
	"context"
	"errors"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// minClaimPause, from the end of one claim to the next, keeps a storm of wake-ups from becoming a storm of claims.
	minClaimPause = 5 * time.Millisecond
	// maxClaimPause is the longest pause after claims that failed.
	maxClaimPause = 5 * time.Second
)

// claimLoop takes what is due for as long as there is room for it: at once while there is more, on a wake-up, and after
// each poll interval.
func (e *Engine) claimLoop(ctx context.Context) {
	retry := Backoff{Base: e.cfg.PollInterval, Max: max(maxClaimPause, e.cfg.PollInterval)}
	for failures := 0; ctx.Err() == nil; {
		more, err := e.claim(ctx)
		ended := time.Now()
		wait := e.cfg.PollInterval
		switch {
		case err != nil && ctx.Err() == nil:
			failures++
			wait = retry.Delay(failures)
			e.cfg.Logger.WarnContext(ctx, "claiming failed, will be tried again", "error", err)
		case more && !e.unreachable.Load():
			failures = 0
			continue
		default:
			failures = 0
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-e.claimKick:
			pause(ctx, minClaimPause-time.Since(ended))
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// claim takes one batch of what is due and reports whether there may be more.
func (e *Engine) claim(ctx context.Context) (more bool, err error) {
	n, size := e.window.room(ctx, e.claimLimit)
	if n == 0 {
		return false, nil
	}
	leasedAt := time.Now()
	timed, cancel := context.WithTimeout(ctx, e.cfg.StoreTimeout)
	defer cancel()
	attempts, err := e.cfg.Store.Claim(timed, reliable.ClaimRequest{Worker: e.cfg.Worker, Max: n, MaxBytes: size, Lease: e.cfg.Lease})
	if err != nil {
		e.window.unreserve(n, size)
		return false, err
	}
	e.settler.claimed(len(attempts))
	e.admit(attempts, leasedAt, false, n, size)
	// A claim is short when its bytes were used up, too.
	return len(attempts) == n || totalSize(attempts) > size/2, nil
}

func (e *Engine) claimLimit() int {
	if e.unreachable.Load() {
		return 1 // enough to find out when the broker is back
	}
	return e.cfg.ClaimBatch
}

func totalSize(attempts []reliable.Attempt) (size int) {
	for i := range attempts {
		size += attempts[i].Size()
	}
	return size
}

// wakeLoop turns the store's wake-ups into claims.
func (e *Engine) wakeLoop(ctx context.Context) {
	waker, ok := reliable.Ability[reliable.Waker](e.cfg.Store)
	if !ok {
		return
	}
	retry := Backoff{Base: time.Second, Max: time.Minute}
	for failures := 0; ctx.Err() == nil; {
		err := waker.AwaitWake(ctx)
		if err == nil {
			failures = 0
			e.Kick()
			continue
		}
		failures++
		if errors.Is(err, errors.ErrUnsupported) {
			return
		}
		if ctx.Err() == nil {
			e.cfg.Logger.DebugContext(ctx, "waiting for wake-ups failed; polling goes on", "error", err)
		}
		pause(ctx, retry.Delay(failures))
	}
}

// pass claims what is due until nothing is, with what becomes due because the head of its key was confirmed, and does each
// chore once.
func (e *Engine) pass(ctx context.Context) error {
	errs := []error{e.holds.pass(ctx)}
	for {
		more, err := e.claim(ctx)
		if err != nil {
			errs = append(errs, err)
			break
		}
		if more && !e.unreachable.Load() {
			continue
		}
		if !e.awaitPass(ctx) {
			break
		}
		if !e.settler.releasedKeys() || e.unreachable.Load() || ctx.Err() != nil {
			break
		}
	}
	for _, chore := range e.cfg.Chores {
		errs = append(errs, chore.Run(ctx))
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// awaitPass waits for the outcomes of what was claimed, no longer than a drain would: a store that went away meanwhile must
// not keep a pass for ever.
func (e *Engine) awaitPass(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.DrainTimeout)
	defer cancel()
	return e.awaitWindow(ctx, func(c windowCounts) bool { return c.held == 0 || e.unreachable.Load() })
}
