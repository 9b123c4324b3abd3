package sqlstore

import (
	"context"
	"database/sql"
	"runtime"
	"sync"
	"weak"
)

// wakeUps are those of the databases of this process: a program may well make one store to send and another to relay. A
// database that is no longer used takes its entries with it.
var wakeUps = struct {
	sync.Mutex
	of map[wakeKey]*wakeUp
}{of: make(map[wakeKey]*wakeUp)}

type wakeKey struct {
	db     weak.Pointer[sql.DB]
	prefix string
}

// wakeUpOf returns the wake-up that all stores of prefix on db share.
func wakeUpOf(db *sql.DB, prefix string) *wakeUp {
	if db == nil {
		return &wakeUp{}
	}
	key := wakeKey{weak.Make(db), prefix}
	wakeUps.Lock()
	defer wakeUps.Unlock()
	if w := wakeUps.of[key]; w != nil {
		return w
	}
	w := &wakeUp{}
	wakeUps.of[key] = w
	runtime.AddCleanup(db, func(key wakeKey) {
		wakeUps.Lock()
		defer wakeUps.Unlock()
		delete(wakeUps.of, key)
	}, key)
	return w
}

// wakeUp tells the relays of this process. A wake-up that finds nobody waiting is kept for the next to wait, so that a
// relay which was claiming meanwhile looks again.
type wakeUp struct {
	mu   sync.Mutex
	kept bool
	bell *bell
}

// bell is rung once.
type bell struct {
	rung    chan struct{}
	waiters int
}

// tell wakes all who wait.
func (w *wakeUp) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bell == nil || w.bell.waiters == 0 {
		w.kept = true
		return
	}
	close(w.bell.rung)
	w.bell = nil
}

// wait returns a channel that the next wake-up closes; a kept one has closed it already. leave is called when the
// caller no longer waits.
func (w *wakeUp) wait() (rung <-chan struct{}, leave func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bell == nil {
		w.bell = &bell{rung: make(chan struct{})}
	}
	b := w.bell
	b.waiters++
	if w.kept {
		w.kept = false
		close(b.rung)
		w.bell = nil
	}
	return b.rung, func() {
		w.mu.Lock()
		b.waiters--
		w.mu.Unlock()
	}
}

// Wake tells the relays on the same database in this process; see [reliable.Waker].
func (s *Store) Wake(context.Context) error {
	s.wake.tell()
	return nil
}

// AwaitWake waits for a wake-up in this process; see [reliable.Waker].
func (s *Store) AwaitWake(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	rung, leave := s.wake.wait()
	defer leave()
	select {
	case <-rung:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// WaitLocal is for stores that wait for more than a wake-up in this process: rung is closed by the next one; leave is
// called when the caller no longer waits.
func (s *Store) WaitLocal() (rung <-chan struct{}, leave func()) { return s.wake.wait() }
