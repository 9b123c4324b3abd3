package sqlstore

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// probeFront is how many of the oldest waiting envelopes a probe chooses from.
const probeFront = 32

// hold is a row of the hold table.
type hold struct {
	topic                       string
	slot                        int64
	refusals                    int
	openedAt, nextProbe, readAt int64
}

func (h *hold) scan(rows Rows) error {
	return rows.Scan(&h.topic, &h.slot, &h.refusals, &h.openedAt, &h.nextProbe, &h.readAt)
}

// due is that of the envelopes that wait behind the hold.
func (h *hold) due() int64 { return HeldBase + h.slot }

func (h *hold) as() reliable.Hold {
	return reliable.Hold{
		Topic:     h.topic,
		Refusals:  h.refusals,
		HeldFor:   max(duration(h.readAt-h.openedAt), 0),
		NextProbe: max(duration(h.nextProbe-h.readAt), 0),
	}
}

// holds reads rows of the hold table.
func (s *Store) holds(ctx context.Context, c Conn, st Statement, args ...any) ([]hold, error) {
	var all []hold
	err := s.query(ctx, c, func(rows Rows) error {
		var h hold
		err := h.scan(rows)
		all = append(all, h)
		return err
	}, st, args...)
	return all, err
}

// Hold opens a hold or counts a refusal on it; see [reliable.Holder].
func (s *Store) Hold(ctx context.Context, topic string, delay time.Duration) (reliable.Hold, error) {
	switch {
	case topic == "":
		return reliable.Hold{}, s.fail("hold", reliable.Invalid("topic", "is empty"))
	case delay < 0:
		return reliable.Hold{}, s.fail("hold", reliable.Invalid("delay", "is %v, must be 0 or more", delay))
	}
	var held reliable.Hold
	err := s.write(ctx, func(tx Tx) error {
		if _, err := s.exec(ctx, tx, s.dialect.Refuse, topic, micros(delay), micros(delay)); err != nil {
			return err
		}
		holds, err := s.holds(ctx, tx, s.dialect.Hold, topic)
		if len(holds) > 0 {
			held = holds[0].as()
		}
		return err
	})
	return held, s.fail("hold", err)
}

// Holds returns all holds, ordered by topic; see [reliable.Holder].
func (s *Store) Holds(ctx context.Context) ([]reliable.Hold, error) {
	var all []reliable.Hold
	err := s.read(ctx, func(c Conn) error {
		rows, err := s.holds(ctx, c, s.dialect.Holds)
		all = make([]reliable.Hold, len(rows))
		for i := range rows {
			all[i] = rows[i].as()
		}
		return err
	})
	if err != nil {
		return nil, s.fail("list holds", err)
	}
	slices.SortFunc(all, func(a, b reliable.Hold) int { return cmp.Compare(a.Topic, b.Topic) })
	return all, nil
}

// Probe claims one envelope that waits behind a hold; see [reliable.Holder].
func (s *Store) Probe(ctx context.Context, topic string, req reliable.ClaimRequest) ([]reliable.Attempt, error) {
	if err := checkClaim(req); err != nil {
		return nil, s.fail("probe", err)
	}
	var attempts []reliable.Attempt
	err := s.write(ctx, func(tx Tx) error {
		attempts = nil
		holds, err := s.holds(ctx, tx, s.dialect.TryHold, topic)
		if err != nil || len(holds) == 0 || holds[0].nextProbe > holds[0].readAt {
			return err
		}
		front, err := s.rows(ctx, tx, s.dialect.PickHeld, holds[0].due(), int64(probeFront))
		if err != nil || len(front) == 0 {
			return err
		}
		best := slices.MinFunc(front, func(a, b *row) int { return cmp.Compare(a.failures, b.failures) })
		if err := s.lease(ctx, tx, []*row{best}, req); err != nil {
			return err
		}
		if _, err := s.exec(ctx, tx, s.dialect.ProbeLater, micros(req.Lease), topic); err != nil {
			return err
		}
		attempts, err = s.attempts(ctx, tx, []*row{best})
		return err
	})
	if err != nil {
		return nil, s.fail("probe", err)
	}
	return attempts, nil
}

// Unhold makes waiting envelopes due and ends the hold once none waits; see [reliable.Holder]. While it has the hold
// locked, no envelope can be parked behind it.
func (s *Store) Unhold(ctx context.Context, topic string, limit int) (left bool, err error) {
	if limit < 1 {
		return false, s.fail("unhold", reliable.Invalid("limit", "is %d, must be at least 1", limit))
	}
	err = s.write(ctx, func(tx Tx) error {
		left = false
		holds, err := s.holds(ctx, tx, s.dialect.LockHold, topic)
		if err != nil || len(holds) == 0 {
			return err
		}
		rows, err := s.rows(ctx, tx, s.dialect.PickHeld, holds[0].due(), int64(limit))
		if err != nil {
			return err
		}
		err = inChunks(idsOf(rows), s.dialect.ListRows, func(ids []string) error {
			_, err := s.exec(ctx, tx, s.dialect.ReleaseHeld, ids)
			return err
		})
		if err != nil {
			return err
		}
		err = s.query(ctx, tx, func(rows Rows) error { return rows.Scan(&left) }, s.dialect.AnyHeld, holds[0].due())
		if err != nil || left {
			return err
		}
		_, err = s.exec(ctx, tx, s.dialect.Unhold, topic)
		return err
	})
	if err != nil {
		return false, s.fail("unhold", err)
	}
	return left, nil
}

// FailHeld gives up what has waited long enough; see [reliable.Holder].
func (s *Store) FailHeld(ctx context.Context, topic string, req reliable.FailHeldRequest) (int, error) {
	switch {
	case req.Limit < 1:
		return 0, s.fail("fail held", reliable.Invalid("Limit", "is %d, must be at least 1", req.Limit))
	case req.Waited < 0:
		return 0, s.fail("fail held", reliable.Invalid("Waited", "is %v, must be 0 or more", req.Waited))
	}
	failed := 0
	err := s.write(ctx, func(tx Tx) error {
		failed = 0
		holds, err := s.holds(ctx, tx, s.dialect.LockHold, topic)
		if err != nil || len(holds) == 0 {
			return err
		}
		due := holds[0].due()
		ids, err := s.strings(ctx, tx, s.dialect.HeldSince, due, micros(req.Waited), int64(req.Limit))
		if err != nil || len(ids) == 0 {
			return err
		}
		states, err := s.lock(ctx, tx, ids)
		if err != nil {
			return err
		}
		last, err := s.lastOutcomes(ctx, tx, ids)
		if err != nil {
			return err
		}
		for id, r := range states {
			if r.status != reliable.Pending || r.due != due {
				continue
			}
			r.fail()
			r.settled = req.Release
			r.flags |= flagHistory
			r.notes = map[int64]note{r.fence: {
				id: id, fence: r.fence, entry: entryDecision, verdict: verdict{outcome: last[id], to: reliable.Failed},
				reason: cleanReason(req.Reason), at: r.now,
			}}
			failed++
		}
		if err := s.save(ctx, tx, states); err != nil {
			return err
		}
		return s.advance(ctx, tx, settledLanes(states), s.dialect.Order)
	})
	if err != nil {
		return 0, s.fail("fail held", err)
	}
	return failed, nil
}

// lastOutcomes is what the newest recorded attempt of each ID came to.
func (s *Store) lastOutcomes(ctx context.Context, tx Conn, ids []string) (map[string]reliable.Outcome, error) {
	history, err := s.history(ctx, tx, ids)
	if err != nil {
		return nil, err
	}
	last := make(map[string]reliable.Outcome, len(history))
	for id, entries := range history {
		last[id] = entries[len(entries)-1].Outcome
	}
	return last, nil
}
