package memstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// withheld is an envelope that waits for a business transaction in another database.
type withheld struct {
	reliable.Withheld
	storedAt, askAt time.Time
}

// Withhold keeps envelopes back; see [reliable.Withholder].
func (s *Store) Withhold(ctx context.Context, patience time.Duration, ws ...reliable.Withheld) error {
	ids := func() []reliable.ID { return idsOf(ws, func(w *reliable.Withheld) reliable.ID { return w.ID }) }
	return s.do(ctx, OpWithhold, ids, func(now time.Time) error {
		if patience < 0 {
			return reliable.Invalid("patience", "is %v, must be 0 or more", patience)
		}
		for i := range ws {
			w := &ws[i]
			if err := errors.Join(w.Check(), s.limits.Check(&w.Envelope)); err != nil {
				return err
			}
			if s.withheld[w.Ticket] != nil {
				return fmt.Errorf("%w: ticket %q is taken", reliable.ErrNotStored, string(w.Ticket))
			}
			if r := s.rows[w.ID]; r != nil && (r.env.Topic != w.Topic || !bytes.Equal(r.env.Payload, w.Payload)) {
				return fmt.Errorf("envelope %d, id %q: %w", i, string(w.ID), reliable.ErrConflict)
			}
		}
		for i := range ws {
			w := &withheld{ws[i], now, now.Add(patience)}
			w.Payload, w.Metadata = bytes.Clone(w.Payload), maps.Clone(w.Metadata)
			w.Age, w.Asked = 0, 0
			s.withheld[w.Ticket] = w
		}
		return nil
	})
}

// Undecided leases what has been withheld for too long; see [reliable.Withholder].
func (s *Store) Undecided(ctx context.Context, source string, req reliable.ClaimRequest) ([]reliable.Withheld, error) {
	var undecided []reliable.Withheld
	err := s.do(ctx, OpUndecided, nil, func(now time.Time) error {
		if err := checkClaim(req); err != nil {
			return err
		}
		var due []*withheld
		for _, w := range s.withheld {
			if w.Source == source && !w.askAt.After(now) {
				due = append(due, w)
			}
		}
		slices.SortFunc(due, func(a, b *withheld) int { return cmp.Or(a.askAt.Compare(b.askAt), cmp.Compare(a.Ticket, b.Ticket)) })
		size := 0
		for i, w := range due[:min(req.Max, len(due))] {
			if size += w.Size(); i > 0 && req.MaxBytes > 0 && size > req.MaxBytes {
				break
			}
			w.askAt = now.Add(req.Lease)
			w.Asked++
			told := w.Withheld
			told.Age = now.Sub(w.storedAt)
			undecided = append(undecided, told)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return undecided, nil
}

// Resolve records what became of business transactions; see [reliable.Withholder].
func (s *Store) Resolve(
	ctx context.Context, req reliable.EnqueueRequest, rs ...reliable.Resolution,
) ([]reliable.Resolved, error) {
	var fault Fault
	if s.inject != nil {
		fault = s.inject(OpResolve, idsOf(rs, func(r *reliable.Resolution) reliable.ID { return r.ID }))
	}
	results, err := s.resolveAll(ctx, fault, req, rs)
	if err != nil {
		return nil, fmt.Errorf("memstore: %s: %w", OpResolve, err)
	}
	return results, nil
}

func (s *Store) resolveAll(
	ctx context.Context, fault Fault, req reliable.EnqueueRequest, rs []reliable.Resolution,
) ([]reliable.Resolved, error) {
	if err := s.checkEnqueue(req, nil); err != nil {
		return nil, err
	}
	for i := range rs {
		if rs[i].Again < 0 || rs[i].Fate > reliable.FateAborted {
			return nil, reliable.Invalid("resolution", "has Again %v and Fate %d", rs[i].Again, rs[i].Fate)
		}
	}
	if err := fault.before(ctx); err != nil {
		return nil, err
	}
	results := make([]reliable.Resolved, len(rs))
	for i := range rs {
		tx := newTx(ctx, s)
		inTheWay := func() *Tx { return s.writerOf([]reliable.Envelope{rs[i].Envelope}, tx) }
		err := tx.inTurn(ctx, inTheWay, func() (err error) {
			results[i], err = s.resolve(tx, req, &rs[i], time.Now())
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if err := fault.after(ctx); err != nil {
		return nil, fmt.Errorf("%w: answer lost: %w", reliable.ErrUnknown, err)
	}
	return results, nil
}

// resolve records one resolution, under the lock.
func (s *Store) resolve(tx *Tx, req reliable.EnqueueRequest, r *reliable.Resolution, now time.Time) (reliable.Resolved, error) {
	w := s.withheld[r.Ticket]
	if w == nil {
		return reliable.Resolved{Gone: true}, nil
	}
	switch r.Fate {
	case reliable.FateOpen:
		w.askAt = now.Add(r.Again)
		return reliable.Resolved{}, nil
	case reliable.FateAborted:
		delete(s.withheld, r.Ticket)
		return reliable.Resolved{}, nil
	case reliable.FateUnknowable:
		req = reliable.EnqueueRequest{}
	case reliable.FateCommitted:
	}
	stored, err := tx.insertLocked(req, []reliable.Envelope{r.Envelope}, now)
	if errors.Is(err, reliable.ErrConflict) {
		delete(s.withheld, r.Ticket)
		return reliable.Resolved{Conflict: true}, nil
	}
	if err != nil {
		return reliable.Resolved{}, err
	}
	delete(s.withheld, r.Ticket)
	result := reliable.Resolved{Stored: stored[0]}
	if r.Fate == reliable.FateUnknowable && result.New {
		s.giveUp(s.admit(tx), r.Reason, now)
		result.Status = reliable.Failed
		return result, nil
	}
	s.commit(tx)
	return result, nil
}

// admit stores the one new row of tx without a place in the line of its key, for a status that needs none.
func (s *Store) admit(tx *Tx) *row {
	r := tx.rows[0]
	tx.rows = nil
	delete(s.reserved, r.env.ID)
	s.rows[r.env.ID] = r
	s.commit(tx)
	return r
}

func (s *Store) giveUp(r *row, reason string, now time.Time) {
	s.fail(r, now)
	r.record(entry{kind: reliable.GivenUp, fence: r.fence, reason: cleanReason(reason), at: now})
}

// withheldOf is what is withheld of an ID; the first of several.
func (s *Store) withheldOf(id reliable.ID) *withheld {
	var first *withheld
	for _, w := range s.withheld {
		if w.ID == id && (first == nil || w.Ticket < first.Ticket) {
			first = w
		}
	}
	return first
}

// recall takes what a person decides about out of what is withheld; nil if it is not there.
func (s *Store) recall(ctx context.Context, id reliable.ID, now time.Time) *row {
	w := s.withheldOf(id)
	if w == nil {
		return nil
	}
	tx := newTx(ctx, s)
	if _, err := tx.insertLocked(reliable.EnqueueRequest{}, []reliable.Envelope{w.Envelope}, now); err != nil {
		return nil // stored by a transaction that is open
	}
	maps.DeleteFunc(s.withheld, func(_ reliable.ID, other *withheld) bool { return other.ID == id })
	return s.admit(tx)
}

func (w *withheld) record(now time.Time) reliable.Record {
	env := w.Envelope
	env.Delay = 0
	return reliable.Record{
		Attempt: reliable.Attempt{Envelope: env, Age: now.Sub(w.storedAt)}, Withheld: true, DueIn: w.askAt.Sub(now),
	}
}

// listWithheld lists up to limit of what is withheld behind a ticket, in the order of tickets, and returns the last one
// if more follow.
func (s *Store) listWithheld(
	f *reliable.Filter, after reliable.ID, limit int, now time.Time,
) (records []reliable.Record, last reliable.ID) {
	for _, ticket := range slices.Sorted(maps.Keys(s.withheld)) {
		w := s.withheld[ticket]
		if ticket <= after || f.Reason != "" || f.Topic != "" && f.Topic != w.Topic || now.Sub(w.storedAt) < f.OlderThan {
			continue
		}
		if len(records) == limit {
			return records, last
		}
		last = ticket
		r := w.record(now)
		r.Payload = nil
		records = append(records, r)
	}
	return records, ""
}
