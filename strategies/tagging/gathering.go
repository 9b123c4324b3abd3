package tagging

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// gathering makes statements of what concurrent callers bring: while some are under way, the rest gathers for the next.
// Its goroutines live only as long as there is something to write.
type gathering[C any] struct {
	writers int
	next    func(waiting []C) int // how many of those that wait go into one statement
	write   func(calls []C)

	mu      sync.Mutex
	waiting []C
	running int
}

func (g *gathering[C]) add(call C) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, call)
	if g.running < g.writers {
		g.running++
		go g.run()
	}
}

func (g *gathering[C]) run() {
	for calls := g.take(); len(calls) > 0; calls = g.take() {
		g.write(calls)
	}
}

func (g *gathering[C]) take() []C {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.running--
		return nil
	}
	n := g.next(g.waiting)
	calls := append([]C(nil), g.waiting[:n]...)
	rest := copy(g.waiting, g.waiting[n:])
	clear(g.waiting[rest:])
	g.waiting = g.waiting[:rest]
	return calls
}

// withholding is one transaction on its way into a shared statement before its COMMIT, resolving after it.
type withholding struct {
	ws   []reliable.Withheld
	size int
	err  error
	done chan struct{}
}

type resolving struct {
	fate     reliable.Fate
	ws       []reliable.Withheld
	size     int
	reserved bool
	err      error
	done     chan struct{}
}

func (e *Elsewhere) nextWithheld(waiting []*withholding) int {
	return e.fitting(len(waiting), func(i int) (rows, size int) { return len(waiting[i].ws), waiting[i].size })
}

// nextResolved puts calls with and without places in memory into one statement only if all of them have, or none has.
func (e *Elsewhere) nextResolved(waiting []*resolving) int {
	n := 1
	for n < len(waiting) && waiting[n].reserved == waiting[0].reserved {
		n++
	}
	return e.fitting(n, func(i int) (rows, size int) { return len(waiting[i].ws), waiting[i].size })
}

// fitting is how many of the first n calls one statement may hold.
func (e *Elsewhere) fitting(n int, of func(i int) (rows, size int)) int {
	rows, size := of(0)
	for i := 1; i < n; i++ {
		r, s := of(i)
		if rows, size = rows+r, size+s; rows > e.s.cfg.groupRows || size > e.s.cfg.groupBytes {
			return i
		}
	}
	return n
}

// withhold writes calls in one statement. If that is refused because of what one of them holds, each is stored on its own.
func (e *Elsewhere) withhold(calls []*withholding) {
	var ws []reliable.Withheld
	for _, call := range calls {
		ws = append(ws, call.ws...)
	}
	// No single caller's context: the statement belongs to all of them.
	ctx, cancel := context.WithTimeout(context.Background(), e.s.cfg.storeTimeout)
	defer cancel()
	err := e.withholder.Withhold(ctx, e.cfg.askAfter, ws...)
	if len(calls) > 1 && (errors.Is(err, reliable.ErrConflict) || errors.Is(err, reliable.ErrInvalid)) {
		for _, call := range calls {
			e.withhold([]*withholding{call})
		}
		return
	}
	for _, call := range calls {
		call.err = err
		close(call.done)
	}
}

// resolve writes calls in one transaction and hands over what it leased.
func (e *Elsewhere) resolve(calls []*resolving) {
	var rs []reliable.Resolution
	size := 0
	for _, call := range calls {
		for i := range call.ws {
			rs = append(rs, reliable.Resolution{Withheld: call.ws[i], Fate: call.fate})
		}
		size += call.size
	}
	req := reliable.EnqueueRequest{Worker: e.s.cfg.worker}
	reserved := calls[0].reserved
	if reserved {
		req.Lease = e.s.cfg.lease
	}
	ctx, cancel := context.WithTimeout(context.Background(), e.s.cfg.storeTimeout)
	defer cancel()
	leasedAt := time.Now()
	results, err := e.withholder.Resolve(ctx, req, rs...)
	for _, call := range calls {
		call.err = err
		close(call.done)
	}
	stored := make([]reliable.Stored, len(results))
	for i := range results {
		stored[i] = results[i].Stored
	}
	e.tellConflicts(rs, results)
	attempts, all := leased(stored)
	switch {
	case reserved && err != nil:
		e.s.relay.Unreserve(len(rs), size)
	case reserved:
		e.s.relay.Submit(attempts, leasedAt, len(rs), size)
	}
	if !all {
		e.s.alarm.ring()
	}
}
