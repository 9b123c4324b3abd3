package tagging

import "time"

const (
	// maxGather is the longest that a statement waits for calls while none is under way; a single caller never waits.
	maxGather = time.Millisecond
	// maxBeside is the longest that it waits for the end of another one.
	maxBeside = 10 * time.Millisecond
	// fullStatement is a number of rows beside which a statement's own cost is small.
	fullStatement = 64
	// manyCalls is how many calls take so long to hand over that their callers come first.
	manyCalls = 16
)

// gather waits for as many calls as are worth a statement, and reports whether they came.
func (g *group) gather() (prompt bool) {
	over, beside, patience := g.look()
	if over {
		return true
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		expired := false
		select {
		case <-g.changed:
		case <-timer.C:
			expired = true
		}
		was := beside
		over, beside, patience = g.look()
		switch {
		case over:
			return true
		case beside != was:
			timer.Reset(patience)
		case expired:
			return false
		}
	}
}

// look reports whether to gather no longer, whether a statement is under way, and how long to wait for more calls then.
//
// While none is, callers are on their way back with their next message, and a statement that leaves before them is followed
// by one that is as dear and holds the rest: they get half of what a statement takes. While one is, the store is busy, and
// what waits goes together when that ends. Only what fills a statement leaves beside it, or what has waited for so long that
// the other one may hang.
func (g *group) look() (over, beside bool, patience time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.storing > 0 {
		over = len(g.waiting) == 0 || g.enough() // of none, the other writer takes care
		return over, true, min(max(2*g.took, maxGather), maxBeside)
	}
	return g.enough(), false, min(g.took/2, maxGather)
}

// enough reports whether as many calls wait as are worth a statement. It needs mu.
func (g *group) enough() bool {
	if g.storing > 0 {
		return g.rows >= min(fullStatement, g.s.cfg.groupRows) || g.size >= g.s.cfg.groupBytes
	}
	return g.usual <= 1 || len(g.waiting) >= g.usual
}

// next takes as many calls as one statement may hold, and what was kept to be handed over while it runs. Calls with and
// without places in memory go into one statement only if all of them have, or none has.
func (g *group) next() (calls []*groupCall, leases []leasing) {
	g.mu.Lock()
	defer g.mu.Unlock()
	leases, g.kept = g.kept, nil
	n, rows, size := 0, 0, 0
	for _, call := range g.waiting {
		if n > 0 && (rows+len(call.envs) > g.s.cfg.groupRows || size+call.size > g.s.cfg.groupBytes || call.reserved != g.waiting[0].reserved) {
			break
		}
		n, rows, size = n+1, rows+len(call.envs), size+call.size
	}
	if n == 0 {
		g.writers--
		return nil, leases
	}
	n = g.portion(n, rows)
	calls = append(calls, g.waiting[:n]...)
	rest := copy(g.waiting, g.waiting[n:])
	clear(g.waiting[rest:])
	g.waiting = g.waiting[:rest]
	for _, call := range calls {
		g.rows, g.size = g.rows-len(call.envs), g.size-call.size
	}
	if g.storing++; g.enough() {
		g.announce() // for another writer
	}
	return calls, leases
}

// ended notes what a statement held and how long it took, and returns what of its leases to hand over now.
//
// A store that no statement is under way to is idle until the callers are back: many of them have the processors first then,
// and what was leased is handed over while the next statement runs; but not if they wait for what becomes of their messages.
func (g *group) ended(calls int, took time.Duration, leases []leasing, prompt bool) (now []leasing) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.storing--
	g.usual, g.took = max(calls, g.usual-(g.usual+3)/4), max(took, g.took-g.took/4)
	g.announce()
	if !prompt || calls < manyCalls || g.storing > 0 {
		return leases
	}
	g.kept = append(g.kept, leases...)
	return nil
}

// portion returns how many of the first n calls, which have so many rows, go into one statement: as many as the store
// says, if they come out even.
func (g *group) portion(n, rows int) int {
	if g.s.portioned == nil {
		return n
	}
	best := g.s.portioned.Portion(rows)
	for fewer := n; fewer > 0 && rows >= best; fewer-- {
		if rows == best {
			return fewer
		}
		rows -= len(g.waiting[fewer-1].envs)
	}
	return n
}
