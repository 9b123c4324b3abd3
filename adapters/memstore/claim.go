package memstore

import (
	"context"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Claim leases what is due; see [reliable.Store].
func (s *Store) Claim(ctx context.Context, req reliable.ClaimRequest) ([]reliable.Attempt, error) {
	var attempts []reliable.Attempt
	err := s.do(ctx, OpClaim, nil, func(now time.Time) error {
		if err := checkClaim(req); err != nil {
			return err
		}
		for _, r := range s.takeDue(s.ready, now, req) {
			attempts = append(attempts, r.attempt(now))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return attempts, nil
}

// takeDue leases from the front of a queue that is ordered by due time.
func (s *Store) takeDue(q *queue, now time.Time, req reliable.ClaimRequest) []*row {
	var taken []*row
	bytes := 0
	for len(taken) < req.Max {
		r := q.first()
		if r == nil || r.due.After(now) {
			break
		}
		bytes += r.env.Size()
		if req.MaxBytes > 0 && bytes > req.MaxBytes && len(taken) > 0 {
			break
		}
		r.lease(now, req.Worker, req.Lease)
		q.fix(r)
		taken = append(taken, r)
	}
	return taken
}

func checkClaim(req reliable.ClaimRequest) error {
	switch {
	case req.Max < 1:
		return reliable.Invalid("Max", "is %d, must be at least 1", req.Max)
	case req.MaxBytes < 0:
		return reliable.Invalid("MaxBytes", "is %d, must be 0 (no limit) or more", req.MaxBytes)
	case req.Lease <= 0:
		return reliable.Invalid("Lease", "is %v, must be above 0", req.Lease)
	}
	return checkWorker(req.Worker)
}
