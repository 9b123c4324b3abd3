package delayedcheck

import "sync"

// gather lets concurrent callers share the ledger's statements: while some are under way, what comes next waits and is
// taken together. It has no goroutine of its own, the callers do the work.
type gather[T any] struct {
	// do works on what was taken together, and leaves each item's result in the item.
	do func(items []T)
	// size is what an item counts for, and limit how much is taken together; a larger item is taken alone.
	size  func(T) int
	limit int
	// writers is how many statements are under way at a time.
	writers int

	mu      sync.Mutex
	waiting []*gathered[T]
	working int
}

// gathered is an item and whoever waits for it.
type gathered[T any] struct {
	item T
	turn chan []*gathered[T] // nil: it is done; else what its caller is to do, itself in front
}

// call returns when item has been worked on.
func (g *gather[T]) call(item T) {
	own := &gathered[T]{item: item, turn: make(chan []*gathered[T], 1)}
	batch := []*gathered[T]{own}
	g.mu.Lock()
	if g.working < g.writers {
		g.working++
		g.mu.Unlock()
	} else {
		g.waiting = append(g.waiting, own)
		g.mu.Unlock()
		if batch = <-own.turn; batch == nil {
			return
		}
	}
	// Even if do panics: those who wait must not wait for ever.
	defer g.passOn(batch)
	items := make([]T, len(batch))
	for i := range batch {
		items[i] = batch[i].item
	}
	g.do(items)
}

// passOn tells those whose items are done, and gives the place to the first who waits.
func (g *gather[T]) passOn(done []*gathered[T]) {
	for _, other := range done[1:] {
		other.turn <- nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.working--
		return
	}
	n, size := 1, g.size(g.waiting[0].item)
	for n < len(g.waiting) {
		if size += g.size(g.waiting[n].item); size > g.limit {
			break
		}
		n++
	}
	next := append([]*gathered[T](nil), g.waiting[:n]...)
	rest := copy(g.waiting, g.waiting[n:])
	clear(g.waiting[rest:])
	g.waiting = g.waiting[:rest]
	next[0].turn <- next
}
