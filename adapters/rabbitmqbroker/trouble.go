package rabbitmqbroker

import (
	"errors"
	"net"
	"time"
)

const (
	// firstReminder is how long after the first line about a failure the next one comes; then it takes twice as long each time.
	firstReminder = 10 * time.Second
	// longestReminder bounds that.
	longestReminder = 10 * time.Minute
)

// trouble keeps what fails again and again from filling the log: it is told at first, when its reason changes, then at
// growing intervals, and when it is over. It is for one goroutine.
type trouble struct {
	tries  int // that failed so far
	began  time.Time
	reason string
	next   time.Time // when to tell of the same reason again
	pause  time.Duration
}

// failed notes one more try that failed, and returns what to tell of it; nil if it is not yet time to.
func (t *trouble) failed(err error) (attributes []any) {
	now := time.Now()
	if t.tries == 0 {
		t.began = now
	}
	t.tries++
	reason := reasonOf(err)
	switch {
	case reason != t.reason:
		t.reason, t.pause = reason, firstReminder
	case now.Before(t.next):
		return nil
	default:
		t.pause = min(2*t.pause, longestReminder)
	}
	t.next = now.Add(t.pause)
	attributes = []any{"error", err}
	if t.tries > 1 {
		attributes = append(attributes, "tries", t.tries, "since", now.Sub(t.began).Round(time.Second))
	}
	return attributes
}

// over is what to tell when it works again: what it took, nothing if it had not failed.
func (t *trouble) over() (attributes []any) {
	if t.tries > 0 {
		attributes = []any{"tries", t.tries, "after", time.Since(t.began).Round(time.Second)}
	}
	*t = trouble{}
	return attributes
}

// reasonOf is what tells one failure from another one: without the port on this side, which is never the same.
func reasonOf(err error) string {
	if network, ok := errors.AsType[*net.OpError](err); ok {
		return network.Op + ": " + network.Err.Error()
	}
	return err.Error()
}
