package memstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Enqueue stores envelopes and commits them at once; see [reliable.Enqueuer]. It waits for open transactions that store
// the same ID, as a database does.
func (s *Store) Enqueue(
	ctx context.Context, req reliable.EnqueueRequest, envs ...reliable.Envelope,
) ([]reliable.Stored, error) {
	tx := newTx(ctx, s)
	stored, err := tx.enqueue(ctx, OpEnqueue, req, envs, func() { s.commit(tx) })
	if err != nil {
		return nil, err
	}
	return stored, nil
}

// enqueue stores envs in tx, then calls done, both under the lock.
func (tx *Tx) enqueue(
	ctx context.Context, op Op, req reliable.EnqueueRequest, envs []reliable.Envelope, done func(),
) ([]reliable.Stored, error) {
	s := tx.store
	var fault Fault
	if s.inject != nil {
		fault = s.inject(op, idsOf(envs, func(e *reliable.Envelope) reliable.ID { return e.ID }))
	}
	if err := s.checkEnqueue(req, envs); err != nil {
		return nil, fmt.Errorf("memstore: %s: %w", op, err)
	}
	if err := fault.before(ctx); err != nil {
		return nil, reliable.NotStored("memstore: "+string(op), err)
	}
	stored, err := tx.insert(ctx, req, envs, done)
	switch {
	case errors.Is(err, reliable.ErrConflict):
		return nil, fmt.Errorf("memstore: %s: %w", op, err)
	case err != nil:
		return nil, reliable.NotStored("memstore: "+string(op), err)
	}
	if err := fault.after(ctx); err != nil {
		return nil, fmt.Errorf("memstore: %s: %w: answer lost: %w", op, reliable.ErrUnknown, err)
	}
	return stored, nil
}

func (s *Store) checkEnqueue(req reliable.EnqueueRequest, envs []reliable.Envelope) error {
	if req.Lease < 0 {
		return reliable.Invalid("Lease", "is %v, must be 0 (none) or more", req.Lease)
	}
	if err := checkWorker(req.Worker); err != nil {
		return err
	}
	for i := range envs {
		if err := s.limits.Check(&envs[i]); err != nil {
			return err
		}
	}
	return nil
}

// insert waits until no other open transaction stores one of the IDs, then stores all or none.
func (tx *Tx) insert(
	ctx context.Context, req reliable.EnqueueRequest, envs []reliable.Envelope, done func(),
) (stored []reliable.Stored, err error) {
	err = tx.inTurn(ctx, func() *Tx { return tx.store.writerOf(envs, tx) }, func() (err error) {
		if stored, err = tx.insertLocked(req, envs, time.Now()); err == nil {
			done()
		}
		return err
	})
	return stored, err
}

// inTurn waits until nobody else is in the way, then does it; both are called under the lock.
func (tx *Tx) inTurn(ctx context.Context, inTheWay func() *Tx, do func() error) error {
	s := tx.store
	for {
		s.mu.Lock()
		other := inTheWay()
		if other == nil {
			defer s.mu.Unlock()
			return do()
		}
		for next := other; next != nil; next = next.awaits {
			if next == tx {
				s.mu.Unlock()
				return errors.New("deadlock with another transaction that stores the same ids: repeat the transaction")
			}
		}
		tx.awaits = other
		s.mu.Unlock()

		var err error
		select {
		case <-other.ended:
		case <-ctx.Done():
			err = ctx.Err()
		}
		s.mu.Lock()
		tx.awaits = nil
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// writerOf returns another open transaction that has stored one of the IDs.
func (s *Store) writerOf(envs []reliable.Envelope, self *Tx) *Tx {
	if len(s.reserved) == 0 {
		return nil
	}
	for i := range envs {
		if tx := s.reserved[envs[i].ID]; tx != nil && tx != self {
			return tx
		}
	}
	return nil
}

func (tx *Tx) insertLocked(
	req reliable.EnqueueRequest, envs []reliable.Envelope, now time.Time,
) ([]reliable.Stored, error) {
	s := tx.store
	if tx.isEnded() {
		return nil, reliable.ErrClosed
	}
	stored := make([]reliable.Stored, len(envs))
	before := len(tx.rows)
	for i := range envs {
		env := &envs[i]
		r := s.rows[env.ID]
		if r == nil {
			r = tx.own[env.ID]
		}
		if r == nil {
			r = tx.add(env, req, now)
			stored[i] = reliable.Stored{Attempt: r.attempt(now), New: true, Leased: r.leased}
			continue
		}
		if r.env.Topic != env.Topic || !bytes.Equal(r.env.Payload, env.Payload) {
			tx.withdraw(before)
			return nil, fmt.Errorf("envelope %d, id %q: %w", i, string(env.ID), reliable.ErrConflict)
		}
		stored[i] = reliable.Stored{Attempt: r.attempt(now), Status: r.status}
	}
	return stored, nil
}

// add makes the row of a new envelope, visible to this transaction only.
func (tx *Tx) add(env *reliable.Envelope, req reliable.EnqueueRequest, now time.Time) *row {
	s := tx.store
	s.seq++
	r := &row{env: *env, seq: s.seq, turn: s.seq, due: now.Add(env.Delay), storedAt: now}
	r.env.Payload = bytes.Clone(env.Payload) // compared with later duplicates, when the caller has long reused it
	r.env.Metadata = maps.Clone(env.Metadata)
	if req.Lease > 0 && env.Key == "" && env.Delay == 0 {
		r.lease(now, req.Worker, req.Lease)
	}
	tx.rows = append(tx.rows, r)
	tx.own[env.ID] = r
	s.reserved[env.ID] = tx
	return r
}
