package middleware

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// What stands between a retry and the handler: breaker, throttle, timeout, recoverer.

var (
	errOpen      = errors.New("the breaker is open")
	errThrottled = errors.New("the throttle lets nothing through in time")
)

// recovered turns a panic into an error.
func recovered(msg *message.Message, h message.HandlerFunc) (produced []*message.Message, err error) {
	defer func() {
		if value := recover(); value != nil {
			produced, err = nil, &PanicError{Value: value, Stack: panicStack()}
		}
	}()
	return h(msg)
}

// timed runs h with a context of its own. An error after its end says so: what the handler returns is often only that its
// database call was cancelled.
func timed(ctx context.Context, limit time.Duration, msg *message.Message, h message.HandlerFunc) ([]*message.Message, error) {
	if limit > 0 {
		limited, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		msg.SetContext(limited)
		produced, err := recovered(msg, h)
		if err != nil && limited.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("timed out after %v: %w", limit, err)
		}
		return produced, err
	}
	msg.SetContext(ctx)
	return recovered(msg, h)
}

// throttle gives attempts their turn, evenly spaced.
type throttle struct {
	every time.Duration

	mu   sync.Mutex
	next time.Time
}

// wait waits for a turn, which must come before until.
func (t *throttle) wait(ctx context.Context, until time.Time) error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	now := time.Now()
	turn := t.next
	if turn.Before(now) {
		turn = now
	}
	if turn.After(until) {
		t.mu.Unlock()
		return errThrottled
	}
	t.next = turn.Add(t.every)
	t.mu.Unlock()
	return sleep(ctx, turn.Sub(now))
}

// verdict is what an attempt tells a breaker.
type verdict uint8

const (
	says     verdict = iota // nothing: the message was at fault, or the process stops
	succeeds                // what the handler depends on works
	fails                   // it may not
)

// breaker is closed while attempts are let through, open while none is, and half open while one is.
type breaker struct {
	limit int
	open  time.Duration

	mu      sync.Mutex
	failed  map[string]bool // the messages that failed since the last success
	until   time.Time       // open until then; zero while closed
	probing bool
	changed chan struct{} // closed at the next change
}

func newBreaker(limit int, open time.Duration) *breaker {
	return &breaker{limit: limit, open: open, failed: make(map[string]bool, limit), changed: make(chan struct{})}
}

// enter waits to be let through, no longer than until, and says whether as the probe of a half-open breaker. Who was let
// through calls leave.
func (b *breaker) enter(ctx context.Context, until time.Time) (probe bool, err error) {
	if b == nil {
		return false, nil
	}
	for {
		b.mu.Lock()
		now := time.Now()
		if b.until.IsZero() {
			b.mu.Unlock()
			return false, nil
		}
		if !b.probing && !now.Before(b.until) {
			b.probing = true
			b.mu.Unlock()
			return true, nil
		}
		changed, wait := b.changed, until.Sub(now)
		if !b.probing {
			wait = min(wait, b.until.Sub(now))
		}
		b.mu.Unlock()
		if wait <= 0 {
			return false, errOpen
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return false, ctx.Err()
		}
	}
}

// leave reports what came of an attempt with the message of that id. Attempts that began before the breaker opened count as
// well: a success among them closes it.
func (b *breaker) leave(id string, v verdict, probe bool) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe {
		b.probing = false
	}
	switch v {
	case succeeds:
		clear(b.failed)
		b.until = time.Time{}
	case fails:
		if len(b.failed) < b.limit {
			b.failed[id] = true
		}
		if len(b.failed) == b.limit {
			b.until = time.Now().Add(b.open)
		}
	case says:
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

// sleep waits for d, or for the end of ctx, which it returns the error of.
func sleep(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil || d <= 0 {
		return err
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
