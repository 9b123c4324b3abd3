package delayedcheck

import (
	"sync"
	"time"
)

// breaker keeps transactions from waiting for a scheduler that is sick. Closed, it lets everybody through; after a few
// failures in a row it is open and lets nobody; after a while one probe may try, whose result closes it or opens it anew.
type breaker struct {
	after   int           // failures in a row that open it
	pause   time.Duration // how long it stays open
	changed func(open bool)

	mu       sync.Mutex
	failures int
	open     bool
	probe    time.Time // open: when the next probe may go
	probing  bool
}

// verdict is what one try says about the scheduler.
type verdict uint8

const (
	nothing verdict = iota // the caller gave up, or the input was at fault
	healthy
	sick
)

// enter reports whether a try may be made; each that may ends with leave.
func (b *breaker) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return true
	}
	if b.probing || time.Now().Before(b.probe) {
		return false
	}
	b.probing = true
	return true
}

func (b *breaker) leave(v verdict) {
	b.mu.Lock()
	was := b.open
	switch v {
	case healthy:
		b.failures, b.open, b.probing = 0, false, false
	case sick:
		b.failures++
		if b.open || b.failures >= b.after {
			b.open, b.probing, b.probe = true, false, time.Now().Add(b.pause)
		}
	case nothing:
		b.probing = false
	}
	is := b.open
	b.mu.Unlock()
	if was != is {
		b.changed(is)
	}
}

func (b *breaker) isOpen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}
