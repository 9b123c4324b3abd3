package sqlstore

import (
	"context"

	"github.com/waybillmq/waybill/reliable"
)

// ClaimFailed leases failed envelopes for compensation; see [reliable.Compensator]. It reads without a lock which are
// due, so that what waits for another topic's handler is neither locked nor in the way, and then locks these and looks
// again.
func (s *Store) ClaimFailed(
	ctx context.Context, req reliable.ClaimRequest, topics ...string,
) ([]reliable.Record, error) {
	if err := checkClaim(req); err != nil {
		return nil, s.fail("claim failed", err)
	}
	if len(topics) == 0 {
		return nil, nil
	}
	var ids []string
	err := s.read(ctx, func(c Conn) (err error) {
		ids, err = s.strings(ctx, c, s.dialect.PickFailed, topics, int64(req.Max))
		return err
	})
	if err != nil || len(ids) == 0 {
		return nil, s.fail("claim failed", err)
	}
	var records []reliable.Record
	err = s.write(ctx, func(tx Tx) (err error) {
		records, err = s.claimFailed(ctx, tx, req, ids)
		return err
	})
	if err != nil {
		return nil, s.fail("claim failed", err)
	}
	return records, nil
}

func (s *Store) claimFailed(
	ctx context.Context, tx Conn, req reliable.ClaimRequest, ids []string,
) ([]reliable.Record, error) {
	var picked []*row
	err := inChunks(ids, s.dialect.ListRows, func(part []string) error {
		rows, err := s.rows(ctx, tx, s.dialect.TryFailed, part)
		picked = append(picked, rows...)
		return err
	})
	if err != nil {
		return nil, err
	}
	picked = within(picked, req.MaxBytes)
	for _, r := range picked {
		r.fence++
		r.flags |= flagLeased | flagCompensating
	}
	ids = idsOf(picked)
	err = inChunks(ids, s.dialect.ListRows, func(part []string) error {
		_, err := s.exec(ctx, tx, s.dialect.LeaseFailed, micros(req.Lease), req.Worker, part)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.payloads(ctx, tx, picked); err != nil {
		return nil, err
	}
	return s.records(ctx, tx, picked)
}

// SettleCompensation records what came of one compensation; see [reliable.Compensator].
func (s *Store) SettleCompensation(ctx context.Context, c reliable.Compensation) (reliable.SettleResult, error) {
	if c.Delay < 0 {
		return 0, s.fail("settle compensation", reliable.Invalid("Delay", "is %v, must be 0 or more", c.Delay))
	}
	var result reliable.SettleResult
	err := s.write(ctx, func(tx Tx) (err error) {
		result, err = s.settleCompensation(ctx, tx, &c, s.dialect.Order)
		return err
	})
	return result, s.fail("settle compensation", err)
}

func (s *Store) settleCompensation(
	ctx context.Context, tx Conn, c *reliable.Compensation, order OrderReads,
) (reliable.SettleResult, error) {
	states, err := s.lock(ctx, tx, []string{string(c.ID)})
	if err != nil {
		return 0, err
	}
	r := states[string(c.ID)]
	if r == nil {
		return reliable.Stale, nil
	}
	last, err := s.lastOutcomes(ctx, tx, []string{r.id})
	if err != nil {
		return 0, err
	}
	result := r.compensate(c, last[r.id])
	if err := s.save(ctx, tx, states); err != nil {
		return 0, err
	}
	return result, s.advance(ctx, tx, settledLanes(states), order)
}

// settleCompensationInside is SettleCompensation in a transaction that its owner ends. What such a transaction reads may
// be older than what it locks, and a key goes on with what was committed by now.
func (s *Store) settleCompensationInside(
	ctx context.Context, tx Conn, c *reliable.Compensation,
) (reliable.SettleResult, error) {
	if c.Delay < 0 {
		return 0, reliable.Invalid("Delay", "is %v, must be 0 or more", c.Delay)
	}
	if s.dialect.Isolation.text != "" && c.Done && c.Key != "" {
		current := false
		err := s.query(ctx, tx, func(rows Rows) error { return rows.Scan(&current) }, s.dialect.Isolation)
		if err != nil {
			return 0, err
		}
		if !current {
			return 0, reliable.Invalid("transaction", "sees what was committed before it began only, and the envelope has a "+
				"key that goes on: begin it READ COMMITTED")
		}
	}
	return s.settleCompensation(ctx, tx, c, s.dialect.OrderInside)
}

// compensate decides what a compensation does to a row. last is what the newest attempt came to.
func (r *state) compensate(c *reliable.Compensation, last reliable.Outcome) reliable.SettleResult {
	switch {
	case r.fence != c.Fence || !r.has(flagCompensating):
		return reliable.Stale
	case !r.leased() && (r.status == reliable.Compensated && c.Done || r.status == reliable.Failed && !c.Done):
		return reliable.Repeated
	case r.status != reliable.Failed || !r.leased():
		return reliable.Stale
	case c.Done:
		r.finish(reliable.Compensated)
		return reliable.Applied
	}
	r.changed = true
	r.flags = r.flags&^flagLeased | flagHistory
	r.due = r.now + micros(c.Delay)
	r.notes = map[int64]note{c.Fence: {
		id: r.id, fence: c.Fence, entry: entryCompensation, verdict: verdict{outcome: last, to: reliable.Failed},
		reason: cleanReason(c.Reason), worker: r.worker, at: r.now,
	}}
	return reliable.Applied
}
