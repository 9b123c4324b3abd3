package memstore

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

type hold struct {
	refusals  int
	openedAt  time.Time
	nextProbe time.Time
	waiting   *queue
}

// probeFront is how many of the oldest waiting envelopes a probe chooses from.
const probeFront = 32

func (h *hold) as(topic string, now time.Time) reliable.Hold {
	return reliable.Hold{
		Topic:     topic,
		Refusals:  h.refusals,
		HeldFor:   now.Sub(h.openedAt),
		NextProbe: max(h.nextProbe.Sub(now), 0),
	}
}

// Hold opens a hold or counts a refusal on it; see [reliable.Holder].
func (s *Store) Hold(ctx context.Context, topic string, delay time.Duration) (reliable.Hold, error) {
	var held reliable.Hold
	err := s.do(ctx, OpHold, nil, func(now time.Time) error {
		switch {
		case topic == "":
			return reliable.Invalid("topic", "is empty")
		case delay < 0:
			return reliable.Invalid("delay", "is %v, must be 0 or more", delay)
		}
		h := s.holds[topic]
		if h == nil {
			h = &hold{openedAt: now, waiting: newQueue(bySeq)}
			s.holds[topic] = h
		}
		h.refusals++
		h.nextProbe = now.Add(delay)
		held = h.as(topic, now)
		return nil
	})
	return held, err
}

// Holds returns all holds, ordered by topic.
func (s *Store) Holds(ctx context.Context) ([]reliable.Hold, error) {
	var holds []reliable.Hold
	err := s.do(ctx, OpHolds, nil, func(now time.Time) error {
		for topic, h := range s.holds {
			holds = append(holds, h.as(topic, now))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(holds, func(a, b reliable.Hold) int { return cmp.Compare(a.Topic, b.Topic) })
	return holds, nil
}

// Probe claims one envelope that waits behind a hold; see [reliable.Holder].
func (s *Store) Probe(ctx context.Context, topic string, req reliable.ClaimRequest) ([]reliable.Attempt, error) {
	var attempts []reliable.Attempt
	err := s.do(ctx, OpProbe, nil, func(now time.Time) error {
		if err := checkClaim(req); err != nil {
			return err
		}
		h := s.holds[topic]
		if h == nil || h.nextProbe.After(now) {
			return nil
		}
		r := h.probe()
		if r == nil {
			return nil
		}
		r.lease(now, req.Worker, req.Lease)
		r.moveTo(s.ready) // where it is found again should the prober die
		h.nextProbe = r.due
		attempts = append(attempts, r.attempt(now))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return attempts, nil
}

// probe returns the oldest of those at the front that have failed least.
func (h *hold) probe() *row {
	var best *row
	front := make([]*row, 0, probeFront)
	for len(front) < probeFront && h.waiting.len() > 0 {
		r := h.waiting.first()
		h.waiting.remove(r)
		front = append(front, r)
		if best == nil || r.failures < best.failures {
			best = r
		}
	}
	for _, r := range front {
		h.waiting.push(r)
	}
	return best
}

// Unhold makes waiting envelopes due and ends the hold once none waits; see [reliable.Holder].
func (s *Store) Unhold(ctx context.Context, topic string, limit int) (left bool, err error) {
	err = s.do(ctx, OpUnhold, nil, func(now time.Time) error {
		if limit < 1 {
			return reliable.Invalid("limit", "is %d, must be at least 1", limit)
		}
		h := s.holds[topic]
		if h == nil {
			return nil
		}
		for range limit {
			r := h.waiting.first()
			if r == nil {
				break
			}
			r.due = now
			r.moveTo(s.ready)
		}
		left = h.waiting.len() > 0
		if !left {
			delete(s.holds, topic)
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	return left, nil
}

// FailHeld gives up what has waited long enough; see [reliable.Holder].
func (s *Store) FailHeld(ctx context.Context, topic string, req reliable.FailHeldRequest) (int, error) {
	failed := 0
	err := s.do(ctx, OpFailHeld, nil, func(now time.Time) error {
		switch {
		case req.Limit < 1:
			return reliable.Invalid("Limit", "is %d, must be at least 1", req.Limit)
		case req.Waited < 0:
			return reliable.Invalid("Waited", "is %v, must be 0 or more", req.Waited)
		}
		h := s.holds[topic]
		if h == nil {
			return nil
		}
		rows := slices.DeleteFunc(slices.Clone(h.waiting.all()), func(r *row) bool {
			return now.Sub(r.failingSince) < req.Waited
		})
		slices.SortFunc(rows, func(a, b *row) int { return cmp.Compare(a.seq, b.seq) })
		for _, r := range rows[:min(req.Limit, len(rows))] {
			s.fail(r, now)
			r.record(entry{
				kind: reliable.GivenUp, fence: r.fence, outcome: r.lastOutcome(), reason: cleanReason(req.Reason), at: now,
			})
			if req.Release {
				s.release(r, now)
			}
			failed++
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return failed, nil
}

// lastOutcome is what the newest recorded attempt came to.
func (r *row) lastOutcome() reliable.Outcome {
	if len(r.history) == 0 {
		return reliable.Unknown
	}
	return r.history[len(r.history)-1].outcome
}
