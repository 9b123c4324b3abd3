package delayedcheck

import (
	"context"
	"sync"
	"time"
)

// rateLimit is a token bucket: burst tokens at most, one more each interval. Its holder waits in the order of coming.
type rateLimit struct {
	interval time.Duration
	burst    int

	mu sync.Mutex
	// full is when the bucket is full again: each token that is taken puts it off by an interval.
	full time.Time
}

// wait takes a token, and waits for it if need be; it reports whether it had to. It returns ctx's error if that ends first:
// then the token is spent all the same.
func (l *rateLimit) wait(ctx context.Context) (waited bool, err error) {
	pause := l.take(time.Now())
	if pause <= 0 {
		return false, ctx.Err()
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true, nil
	case <-ctx.Done():
		return true, ctx.Err()
	}
}

// take returns how long the taker of the next token has to wait for it.
func (l *rateLimit) take(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full.Before(now) {
		l.full = now
	}
	l.full = l.full.Add(l.interval)
	return l.full.Sub(now) - time.Duration(l.burst)*l.interval
}

// putBack returns a token that was taken and not needed.
func (l *rateLimit) putBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full = l.full.Add(-l.interval)
}
