package delayedcheck

import (
	"context"
	"sync"
)

// places bounds how much is on its way. Who asks for more than there is waits in turn, so that a large transaction is not
// overtaken for ever by small ones.
type places struct {
	mu      sync.Mutex
	all     int
	free    int
	waiting []*claim
}

// claim is somebody who waits for places.
type claim struct {
	n       int
	granted chan struct{}
}

func newPlaces(n int) *places { return &places{all: n, free: n} }

// clamp is what n messages take: more than there are places go when nothing else is on its way.
func (p *places) clamp(n int) int { return min(n, p.all) }

// take waits for n places, at most until ctx ends.
func (p *places) take(ctx context.Context, n int) error {
	p.mu.Lock()
	if len(p.waiting) == 0 && p.free >= n {
		p.free -= n
		p.mu.Unlock()
		return nil
	}
	c := &claim{n: n, granted: make(chan struct{})}
	p.waiting = append(p.waiting, c)
	p.mu.Unlock()
	select {
	case <-c.granted:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.waiting {
		if p.waiting[i] == c {
			p.waiting = append(p.waiting[:i:i], p.waiting[i+1:]...)
			p.grant() // those behind it may ask for less
			return ctx.Err()
		}
	}
	return nil // granted meanwhile
}

// give returns n places.
func (p *places) give(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free += n
	p.grant()
}

func (p *places) grant() {
	for len(p.waiting) > 0 && p.waiting[0].n <= p.free {
		p.free -= p.waiting[0].n
		close(p.waiting[0].granted)
		p.waiting = p.waiting[1:]
	}
}
