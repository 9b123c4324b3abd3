package httprpc

import (
	"sync"
	"time"
)

// replays remembers what was seen within the window, in bounded memory: two generations, of which the older one is
// forgotten as a whole once nothing in it can be within the window any more.
type replays struct {
	window time.Duration
	limit  int

	mu         sync.Mutex
	young, old map[string]struct{}
	youngSince time.Time
}

type sighting uint8

const (
	seenFirst sighting = iota
	seenBefore
	tooManySeen
)

// see notes a signature. A request counts from window before now to window after it, so what was seen must be remembered
// for twice as long.
func (r *replays) see(signature string, now time.Time) sighting {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.young == nil || now.Sub(r.youngSince) > 2*r.window {
		r.old, r.young, r.youngSince = r.young, make(map[string]struct{}), now
	}
	if _, seen := r.young[signature]; seen {
		return seenBefore
	}
	if _, seen := r.old[signature]; seen {
		return seenBefore
	}
	if len(r.young)+len(r.old) >= r.limit {
		return tooManySeen
	}
	r.young[signature] = struct{}{}
	return seenFirst
}
