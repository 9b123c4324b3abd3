package memstore

import (
	"context"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// ClaimFailed leases failed envelopes for compensation; see [reliable.Compensator].
func (s *Store) ClaimFailed(
	ctx context.Context, req reliable.ClaimRequest, topics ...string,
) ([]reliable.Record, error) {
	var records []reliable.Record
	err := s.do(ctx, OpClaimFailed, nil, func(now time.Time) error {
		if err := checkClaim(req); err != nil {
			return err
		}
		bytes := 0
		for len(records) < req.Max {
			r := s.firstFailed(topics)
			if r == nil || r.due.After(now) {
				break
			}
			bytes += r.env.Size()
			if req.MaxBytes > 0 && bytes > req.MaxBytes && len(records) > 0 {
				break
			}
			r.fence++
			r.compensating = true
			r.leased = true
			r.worker = req.Worker
			r.due = now.Add(req.Lease)
			r.in.fix(r)
			records = append(records, s.recordOf(r, now))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return records, nil
}

// firstFailed returns the failed row of the topics whose compensation is due first.
func (s *Store) firstFailed(topics []string) *row {
	var first *row
	for _, topic := range topics {
		q := s.failed[topic]
		if q == nil {
			continue
		}
		if r := q.first(); r != nil && (first == nil || byDue(r, first)) {
			first = r
		}
	}
	return first
}

// SettleCompensation records what came of one compensation; see [reliable.Compensator].
func (s *Store) SettleCompensation(ctx context.Context, c reliable.Compensation) (reliable.SettleResult, error) {
	var result reliable.SettleResult
	ids := func() []reliable.ID { return []reliable.ID{c.ID} }
	err := s.do(ctx, OpSettleCompensation, ids, func(now time.Time) error {
		if c.Delay < 0 {
			return reliable.Invalid("Delay", "is %v, must be 0 or more", c.Delay)
		}
		if result = s.judge(&c); result == reliable.Applied {
			s.compensate(&c, now)
		}
		return nil
	})
	return result, err
}

// judge says what will come of a compensation.
func (s *Store) judge(c *reliable.Compensation) reliable.SettleResult {
	r := s.rows[c.ID]
	switch {
	case r == nil || r.fence != c.Fence || !r.compensating:
		return reliable.Stale
	case !r.leased && r.compensated.fence == c.Fence && r.compensated.done == c.Done:
		return reliable.Repeated
	case r.status != reliable.Failed || !r.leased:
		return reliable.Stale
	}
	return reliable.Applied
}

// compensate records a compensation that judge finds right.
func (s *Store) compensate(c *reliable.Compensation, now time.Time) {
	r := s.rows[c.ID]
	r.leased = false
	r.compensated = compensated{c.Fence, c.Done}
	if c.Done {
		s.finish(r, reliable.Compensated, now)
		return
	}
	r.record(entry{
		kind: reliable.CompensationFailed, fence: c.Fence, outcome: r.lastOutcome(), by: r.worker,
		reason: cleanReason(c.Reason), at: now,
	})
	r.due = now.Add(c.Delay)
	r.in.fix(r)
}

// compensated is the newest compensation that was recorded, to recognise it when it is repeated.
type compensated struct {
	fence int64
	done  bool
}
