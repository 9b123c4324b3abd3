package memstore

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/waybillmq/waybill/adapters/internal/cursor"
	"github.com/waybillmq/waybill/reliable"
)

// List returns one page of what matches, in the order of storing; see [reliable.Operator]. It looks at everything of
// the filter's status.
func (s *Store) List(ctx context.Context, req reliable.ListRequest) (reliable.Page, error) {
	var page reliable.Page
	err := s.do(ctx, OpList, nil, func(now time.Time) error {
		if err := req.Check(); err != nil {
			return err
		}
		var after cursor.Place
		if req.After != "" {
			var err error
			if after, err = cursor.Decode("memstore", req.Filter, req.After); err != nil {
				return err
			}
		}
		// What is withheld comes first; its places have a due before every other.
		if req.Status == reliable.Pending && (req.After == "" || after.Due < 0) {
			withheld, last := s.listWithheld(&req.Filter, reliable.ID(after.ID), req.Limit, now)
			if len(withheld) > 0 {
				page.Records = withheld
				next := cursor.Place{}
				if last != "" {
					next = cursor.Place{Due: -1, ID: string(last)}
				}
				page.Next = cursor.Encode("memstore", req.Filter, next)
				return nil
			}
		}
		var rows []*row
		for r := range s.having(req.Status) {
			if r.seq > after.Order && r.matches(&req.Filter, now) {
				rows = append(rows, r)
			}
		}
		slices.SortFunc(rows, func(a, b *row) int { return cmp.Compare(a.seq, b.seq) })
		for _, r := range rows[:min(req.Limit, len(rows))] {
			record := s.recordOf(r, now)
			record.Payload, record.History = nil, nil
			page.Records = append(page.Records, record)
		}
		if len(rows) > req.Limit {
			page.Next = cursor.Encode("memstore", req.Filter, cursor.Place{Order: rows[req.Limit-1].seq})
		}
		return nil
	})
	if err != nil {
		return reliable.Page{}, err
	}
	return page, nil
}

func (r *row) matches(f *reliable.Filter, now time.Time) bool {
	says := func(e entry) bool { return strings.Contains(e.reason, f.Reason) }
	return (f.Topic == "" || f.Topic == r.env.Topic) &&
		now.Sub(r.storedAt) >= f.OlderThan &&
		(f.Reason == "" || slices.ContainsFunc(r.history, says) || slices.ContainsFunc(r.decisions, says))
}

// Decide records a person's decision; see [reliable.Operator].
func (s *Store) Decide(ctx context.Context, d reliable.Decision) ([]reliable.DecisionResult, error) {
	var results []reliable.DecisionResult
	err := s.do(ctx, OpDecide, func() []reliable.ID { return d.IDs }, func(now time.Time) error {
		if err := d.Check(); err != nil {
			return err
		}
		results = make([]reliable.DecisionResult, len(d.IDs))
		found := make([]int, 0, len(d.IDs))
		for i, id := range d.IDs {
			results[i] = reliable.DecisionResult{ID: id, Verdict: reliable.NotFound}
			if s.rows[id] == nil && s.withheldOf(id) != nil {
				results[i].Verdict = reliable.WrongStatus
				if d.Action.AppliesTo(reliable.Pending) {
					s.recall(ctx, id, now)
				}
			}
			if s.rows[id] != nil {
				found = append(found, i)
			}
		}
		// What is requeued together lines up in the order of its storing.
		slices.SortStableFunc(found, func(a, b int) int { return cmp.Compare(s.rows[d.IDs[a]].seq, s.rows[d.IDs[b]].seq) })
		for _, i := range found {
			r := s.rows[d.IDs[i]]
			results[i].Verdict = s.overrule(r, &d, now)
			results[i].Status = r.status
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// overrule does what a person decided about a row.
func (s *Store) overrule(r *row, d *reliable.Decision, now time.Time) reliable.Verdict {
	from := r.status
	switch {
	case !d.Action.AppliesTo(from):
		return reliable.WrongStatus
	case from == reliable.Failed && r.leased && r.due.After(now):
		return reliable.Busy
	}
	r.fence++
	switch d.Action {
	case reliable.Requeue:
		s.requeue(r, now)
	case reliable.Compensate:
		s.finish(r, reliable.Compensated, now)
	case reliable.Discard:
		if from == reliable.Pending && r.leased {
			r.mayHaveBeenSent = true // it is on its way, and nobody will hear how that ends
		}
		s.finish(r, reliable.Discarded, now)
	}
	r.decisions = append(r.decisions, entry{
		kind: reliable.OperatorDecided, fence: r.fence, action: d.Action,
		by: cleanReason(d.Who), reason: cleanReason(d.Why), at: now,
	})
	return reliable.Decided
}

// requeue makes a row as though it had just been stored, except for what is known of where the message may be.
func (s *Store) requeue(r *row, now time.Time) {
	r.status = reliable.Pending
	r.due = now
	r.leased, r.compensating = false, false
	r.attempts, r.failures, r.failingSince = 0, 0, time.Time{}
	r.env.Deadline = 0
	if r.lateAck {
		r.lateAck, r.mayHaveBeenSent = false, true
	}
	if l := s.lanes[laneKey{r.env.Topic, r.env.Key}]; l != nil && l.head == r {
		r.moveTo(s.ready)
		return
	}
	s.seq++
	r.turn = s.seq
	s.queue(r)
}
