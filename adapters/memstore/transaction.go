package memstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Tx is a business transaction on a [Store]: business rows and envelopes that appear together, or not at all. What it
// has stored is invisible to others until it commits; another transaction that stores the same ID waits for it. It is
// used by one goroutine at a time.
type Tx struct {
	store  *Store
	begun  context.Context //nolint:containedctx // as in database/sql, it ends with the context it was begun with
	rows   []*row
	own    map[reliable.ID]*row
	writes []write
	scopes []*savepoint
	// done are the compensations that take effect with the commit.
	done []reliable.Compensation
	// received are the entries of the inbox that are made by the commit.
	received []reliable.Processed
	// committed is guarded by the store's lock.
	committed bool

	// ended is closed once committed or rolled back; awaits is the transaction that this one waits for. Both are guarded
	// by the store's lock.
	ended  chan struct{}
	awaits *Tx
}

// write is one business row.
type write struct {
	key     string
	value   any
	deleted bool
}

func newTx(begun context.Context, s *Store) *Tx {
	return &Tx{store: s, begun: begun, own: make(map[reliable.ID]*row), ended: make(chan struct{})}
}

// Bind returns an Enqueuer that stores inside tx, which must be a *[Tx] of this store; anything else is
// [reliable.ErrInvalid].
func (s *Store) Bind(tx any) (reliable.Enqueuer, error) {
	own, ok := tx.(*Tx)
	if !ok || own == nil {
		return nil, fmt.Errorf("memstore: bind: %w", reliable.Invalid("tx", "is a %T, must be a *memstore.Tx", tx))
	}
	if own.store != s {
		return nil, fmt.Errorf("memstore: bind: %w", reliable.Invalid("tx", "is a transaction of another store"))
	}
	return own, nil
}

// Begin starts a transaction, a *[Tx]. db must be nil or the store itself. A transaction whose ctx has ended cannot
// commit any more.
func (s *Store) Begin(ctx context.Context, db any) (reliable.Tx, error) {
	if own, ok := db.(*Store); db != nil && (!ok || own != s) {
		err := reliable.Invalid("db", "is a %T, must be nil or this *memstore.Store", db)
		return nil, fmt.Errorf("memstore: begin: %w", err)
	}
	var tx *Tx
	err := s.do(ctx, OpBegin, nil, func(time.Time) error {
		tx = newTx(ctx, s)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return tx, nil
}

// Business returns a business row that was committed.
func (s *Store) Business(key string) (value any, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok = s.business[key]
	return value, ok
}

// BusinessRows returns a copy of all business rows that were committed.
func (s *Store) BusinessRows() map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.business)
}

// Native returns the transaction itself.
func (tx *Tx) Native() any { return tx }

// Put writes a business row. Of two transactions that write the same row the one that commits last wins.
func (tx *Tx) Put(key string, value any) error { return tx.write(write{key: key, value: value}) }

// Delete deletes a business row, if there is one.
func (tx *Tx) Delete(key string) error { return tx.write(write{key: key, deleted: true}) }

func (tx *Tx) write(w write) error {
	tx.store.mu.Lock()
	defer tx.store.mu.Unlock()
	if tx.isEnded() {
		return fmt.Errorf("memstore: write business row: %w", reliable.ErrClosed)
	}
	tx.writes = append(tx.writes, w)
	return nil
}

// Get returns a business row as this transaction sees it.
func (tx *Tx) Get(key string) (value any, ok bool) {
	for _, w := range slices.Backward(tx.writes) {
		if w.key == key {
			return w.value, !w.deleted
		}
	}
	return tx.store.Business(key)
}

// Enqueue stores envelopes in the transaction; see [reliable.Enqueuer].
func (tx *Tx) Enqueue(
	ctx context.Context, req reliable.EnqueueRequest, envs ...reliable.Envelope,
) ([]reliable.Stored, error) {
	if err := tx.begun.Err(); err != nil {
		return nil, reliable.NotStored("memstore: "+string(OpTxEnqueue), err)
	}
	return tx.enqueue(ctx, OpTxEnqueue, req, envs, func() {})
}

// SettleCompensation records a compensation with the commit; see [reliable.CompensationSettler]. Nothing is locked until
// then: should somebody else have taken the envelope meanwhile, the commit fails and nothing takes effect.
func (tx *Tx) SettleCompensation(ctx context.Context, c reliable.Compensation) (reliable.SettleResult, error) {
	var result reliable.SettleResult
	ids := func() []reliable.ID { return []reliable.ID{c.ID} }
	err := tx.store.do(ctx, OpSettleCompensation, ids, func(time.Time) error {
		switch {
		case tx.isEnded():
			return reliable.ErrClosed
		case tx.begun.Err() != nil:
			return tx.begun.Err()
		case c.Delay < 0:
			return reliable.Invalid("Delay", "is %v, must be 0 or more", c.Delay)
		}
		for i := range tx.done {
			if tx.done[i].ID == c.ID {
				result = reliable.Stale
				if tx.done[i].Fence == c.Fence && tx.done[i].Done == c.Done {
					result = reliable.Repeated
				}
				return nil
			}
		}
		if result = tx.store.judge(&c); result == reliable.Applied {
			tx.done = append(tx.done, c)
		}
		return nil
	})
	return result, err
}

// Commit makes everything visible; see [reliable.Tx].
func (tx *Tx) Commit(ctx context.Context) error {
	s := tx.store
	var fault Fault
	if s.inject != nil {
		fault = s.inject(OpCommit, idsOf(tx.rows, func(r **row) reliable.ID { return (*r).env.ID }))
	}
	err := fault.before(ctx)
	if err == nil {
		err = tx.begun.Err()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("memstore: commit: %w", err), tx.Rollback(ctx))
	}
	if err := s.locked(func(now time.Time) error {
		if tx.isEnded() {
			return fmt.Errorf("memstore: commit: %w", reliable.ErrClosed)
		}
		for i := range tx.done {
			if result := s.judge(&tx.done[i]); result != reliable.Applied {
				tx.withdraw(0)
				tx.forgetReceived(0)
				close(tx.ended)
				return fmt.Errorf("memstore: commit: the compensation of %q is %v by now: somebody else has the envelope",
					tx.done[i].ID, result)
			}
		}
		s.commit(tx)
		for i := range tx.done {
			s.compensate(&tx.done[i], now)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := fault.after(ctx); err != nil {
		return fmt.Errorf("memstore: commit: %w: answer lost: %w", reliable.ErrUnknown, err)
	}
	return nil
}

// commit makes what tx did visible, under the lock.
func (s *Store) commit(tx *Tx) {
	for _, r := range tx.rows {
		delete(s.reserved, r.env.ID)
		s.enter(r)
	}
	for _, w := range tx.writes {
		if w.deleted {
			delete(s.business, w.key)
		} else {
			s.business[w.key] = w.value
		}
	}
	for _, p := range tx.received {
		delete(s.receiving, p)
		s.inbox[p] = time.Now()
	}
	tx.committed = true
	close(tx.ended)
}

// Rollback ends the transaction without a trace; see [reliable.Tx]. It never fails.
func (tx *Tx) Rollback(context.Context) error {
	tx.store.mu.Lock()
	defer tx.store.mu.Unlock()
	if tx.isEnded() {
		return nil
	}
	tx.withdraw(0)
	tx.forgetReceived(0)
	close(tx.ended)
	return nil
}

func (tx *Tx) isEnded() bool {
	select {
	case <-tx.ended:
		return true
	default:
		return false
	}
}

// withdraw takes back all rows but the first keep, under the store's lock.
func (tx *Tx) withdraw(keep int) {
	for _, r := range tx.rows[keep:] {
		delete(tx.own, r.env.ID)
		delete(tx.store.reserved, r.env.ID)
	}
	tx.rows = tx.rows[:keep]
}

// savepoint remembers how far the transaction was.
type savepoint struct {
	tx           *Tx
	depth        int // its place in tx.scopes, counted from 1
	rows, writes int
	done         int
	received     int
}

// Savepoint opens a scope that can be taken back on its own; see [reliable.Tx].
func (tx *Tx) Savepoint(ctx context.Context) (reliable.Savepoint, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("memstore: savepoint: %w", err)
	}
	tx.store.mu.Lock()
	defer tx.store.mu.Unlock()
	if tx.isEnded() {
		return nil, fmt.Errorf("memstore: savepoint: %w", reliable.ErrClosed)
	}
	sp := &savepoint{tx: tx, depth: len(tx.scopes) + 1, rows: len(tx.rows), writes: len(tx.writes), done: len(tx.done)}
	sp.received = len(tx.received)
	tx.scopes = append(tx.scopes, sp)
	return sp, nil
}

// Release keeps what was done since, and ends the scopes inside this one.
func (sp *savepoint) Release(context.Context) error { return sp.end(false) }

// Rollback takes back what was done since, scopes inside this one included.
func (sp *savepoint) Rollback(context.Context) error { return sp.end(true) }

func (sp *savepoint) end(takeBack bool) error {
	tx := sp.tx
	tx.store.mu.Lock()
	defer tx.store.mu.Unlock()
	if tx.isEnded() || len(tx.scopes) < sp.depth || tx.scopes[sp.depth-1] != sp {
		return fmt.Errorf("memstore: end savepoint: %w", reliable.ErrClosed)
	}
	tx.scopes = tx.scopes[:sp.depth-1]
	if takeBack {
		tx.withdraw(sp.rows)
		tx.writes = tx.writes[:sp.writes]
		tx.done = tx.done[:sp.done]
		tx.forgetReceived(sp.received)
	}
	return nil
}
