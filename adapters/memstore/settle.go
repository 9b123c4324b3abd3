package memstore

import (
	"context"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/waybillmq/waybill/reliable"
)

// Settle records a batch of outcomes; see [reliable.Store].
func (s *Store) Settle(ctx context.Context, ss ...reliable.Settlement) ([]reliable.SettleResult, error) {
	var results []reliable.SettleResult
	ids := func() []reliable.ID { return idsOf(ss, func(x *reliable.Settlement) reliable.ID { return x.ID }) }
	err := s.do(ctx, OpSettle, ids, func(now time.Time) error {
		for i := range ss {
			if err := checkSettlement(&ss[i]); err != nil {
				return err
			}
		}
		results = make([]reliable.SettleResult, len(ss))
		for i := range ss {
			results[i] = s.settle(&ss[i], now)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

func checkSettlement(x *reliable.Settlement) error {
	acked := x.Sent && x.Outcome == reliable.Acked
	switch {
	case x.To != reliable.Confirmed && x.To != reliable.Pending && x.To != reliable.Failed:
		return reliable.Invalid("To", "is %v, must be confirmed, pending or failed", x.To)
	case x.To == reliable.Confirmed && !acked:
		return reliable.Invalid("To", "is confirmed without an ack of the broker")
	case acked && x.To != reliable.Confirmed:
		return reliable.Invalid("To", "is %v for an attempt that was acked, must be confirmed", x.To)
	case x.Outcome > reliable.Rejected:
		return reliable.Invalid("Outcome", "is %d, which is no outcome", x.Outcome)
	case x.Delay < 0:
		return reliable.Invalid("Delay", "is %v, must be 0 or more", x.Delay)
	}
	return nil
}

func (s *Store) settle(x *reliable.Settlement, now time.Time) reliable.SettleResult {
	r := s.rows[x.ID]
	switch {
	case r == nil:
		return reliable.Stale
	case x.To == reliable.Confirmed:
		return s.ack(r, x, now)
	case r.status == reliable.Pending && r.fence == x.Fence && r.leased:
		s.decide(r, x, now)
		return reliable.Applied
	}
	v := verdict{fence: x.Fence, sent: x.Sent, outcome: x.Outcome, to: x.To, charge: x.Charge}
	before, known := r.past[x.Fence]
	switch {
	case r.last == v || known && before == v:
		return reliable.Repeated
	case x.Sent && x.Charge && !before.charge && x.Fence > 0 && x.Fence <= r.fence && !r.status.Final():
		r.fact(x, v, now)
		return reliable.Late
	}
	return reliable.Stale
}

// ack records that the broker has the message. It is a fact, so no fence protects against it.
func (s *Store) ack(r *row, x *reliable.Settlement, now time.Time) reliable.SettleResult {
	again := r.ackedBy == x.Fence
	switch {
	case r.status == reliable.Confirmed && again, r.lateAck:
		return reliable.Repeated
	case r.status == reliable.Confirmed:
		return reliable.Stale
	case r.compensating || r.status.Final():
		r.ackedBy = x.Fence
		r.lateAck = true
		return reliable.Overtaken
	}
	inTime := r.status == reliable.Pending && r.fence == x.Fence && r.leased
	r.ackedBy = x.Fence
	s.finish(r, reliable.Confirmed, now)
	if inTime {
		return reliable.Applied
	}
	return reliable.Late
}

// decide applies the decision of the one who holds the newest fence.
func (s *Store) decide(r *row, x *reliable.Settlement, now time.Time) {
	v := verdict{fence: x.Fence, sent: x.Sent, outcome: x.Outcome, to: x.To, charge: x.Charge}
	r.last = v
	r.leased = false
	if x.Sent {
		r.fact(x, v, now)
	} else {
		r.attempts--
	}
	if x.To == reliable.Failed {
		s.fail(r, now)
		if x.Release {
			s.release(r, now)
		}
		return
	}
	if h := s.holds[r.env.Topic]; x.Park && h != nil {
		r.failing(now)
		r.moveTo(h.waiting)
		return
	}
	r.due = now.Add(x.Delay)
	s.ready.fix(r)
}

// fact records what is true of an attempt whoever holds the lease by now.
func (r *row) fact(x *reliable.Settlement, v verdict, now time.Time) {
	if x.Charge {
		r.failures++
		r.failing(now)
	}
	if x.Outcome == reliable.Unknown {
		r.mayHaveBeenSent = true
	}
	if r.past == nil {
		r.past = make(map[int64]verdict)
	}
	r.past[x.Fence] = v
	e := entry{fence: x.Fence, outcome: x.Outcome, charged: x.Charge, reason: cleanReason(x.Reason), at: now}
	if x.Fence == r.fence {
		e.by = r.worker
	}
	r.record(e)
}

// failing notes since when the row has been in trouble.
func (r *row) failing(now time.Time) {
	if r.failingSince.IsZero() {
		r.failingSince = now
	}
}

// fail gives a pending row up: it waits for compensation, and its key for it.
func (s *Store) fail(r *row, now time.Time) {
	r.status = reliable.Failed
	r.leased = false
	r.due = now
	q := s.failed[r.env.Topic]
	if q == nil {
		q = newQueue(byDue)
		s.failed[r.env.Topic] = q
	}
	r.moveTo(q)
}

// cleanReason makes text fit for every table and log: valid UTF-8, no control characters, of bounded length.
func cleanReason(text string) string {
	text = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, "\uFFFD"))
	if len(text) <= reliable.MaxReasonBytes {
		return text
	}
	end := reliable.MaxReasonBytes
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}

func idsOf[E any](list []E, id func(*E) reliable.ID) []reliable.ID {
	ids := make([]reliable.ID, len(list))
	for i := range list {
		ids[i] = id(&list[i])
	}
	return ids
}
