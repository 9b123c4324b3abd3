package sqlstore

import (
	"github.com/waybillmq/waybill/reliable"
)

// verdict is what the history keeps of a settled attempt: what it takes to recognise the settlement when it is
// repeated.
type verdict struct {
	outcome reliable.Outcome
	to      reliable.Status
	charged bool
}

// note is an entry of the history to be written.
type note struct {
	id      string
	fence   int64
	entry   int
	verdict verdict
	reason  string
	worker  string
	at      int64
}

// The kinds of history entries. The first two can exist for one fence.
const (
	entryAttempt      = 0 // what came of an attempt
	entryDecision     = 1 // what was decided without one; in tables of version 1 also what came of a compensation
	entryCompensation = 2 // what came of a compensation
)

// state is one row while the settlements of a batch are decided on it.
type state struct {
	row
	past    map[int64]verdict // by fence
	notes   map[int64]note    // what to write of past
	changed bool
	settled bool // the lane of its key goes on
}

// settle decides what a settlement does to a row. slot is the hold of its topic, 0 if there is none.
//
// Facts are not fenced, decisions are: an ack wins whenever it comes, a charge counts once per fence, and everything
// else applies only while the lease is the newest one and not settled yet.
func (r *state) settle(x *reliable.Settlement, slot int64) reliable.SettleResult {
	if x.To == reliable.Confirmed {
		return r.ack(x)
	}
	if r.status == reliable.Pending && r.fence == x.Fence && r.leased() {
		r.decide(x, slot)
		return reliable.Applied
	}
	before, known := r.past[x.Fence]
	switch {
	case known && x.Sent && before == verdictOf(x):
		return reliable.Repeated
	case !known && !x.Sent && r.givenBack(x):
		return reliable.Repeated
	case x.Sent && x.Charge && !before.charged && x.Fence > 0 && x.Fence <= r.fence && !r.status.Final():
		r.fact(x)
		return reliable.Late
	}
	return reliable.Stale
}

// givenBack reports whether the newest lease was given back as x says. An attempt that was handed over left a history.
func (r *state) givenBack(x *reliable.Settlement) bool {
	return r.fence == x.Fence && !r.leased() && r.status == x.To && !r.has(flagCompensating)
}

// ack records that the broker has the message.
func (r *state) ack(x *reliable.Settlement) reliable.SettleResult {
	switch {
	case r.has(flagLateAck), r.status == reliable.Confirmed && r.ackedBy == x.Fence:
		return reliable.Repeated
	case r.status == reliable.Confirmed:
		return reliable.Stale
	}
	r.changed = true
	if r.has(flagCompensating) || r.status.Final() {
		r.ackedBy = x.Fence
		r.flags |= flagLateAck
		return reliable.Overtaken
	}
	result := reliable.Late
	if r.status == reliable.Pending && r.fence == x.Fence && r.leased() {
		result = reliable.Applied
	}
	r.ackedBy = x.Fence
	r.finish(reliable.Confirmed)
	return result
}

// decide applies the decision of the one who holds the newest lease.
func (r *state) decide(x *reliable.Settlement, slot int64) {
	r.changed = true
	r.flags &^= flagLeased
	if x.Sent {
		r.fact(x)
	} else {
		r.attempts--
	}
	switch {
	case x.To == reliable.Failed:
		r.fail()
		r.settled = r.settled || x.Release
	case x.Park && slot > 0:
		r.failing()
		r.due = HeldBase + slot
	default:
		r.due = r.now + micros(x.Delay)
	}
}

// fact records what is true of an attempt whoever holds the lease by now.
func (r *state) fact(x *reliable.Settlement) {
	r.changed = true
	if x.Charge {
		r.failures++
		r.failing()
	}
	if x.Outcome == reliable.Unknown {
		r.flags |= flagMayHaveBeenSent
	}
	v := verdictOf(x)
	if r.past == nil {
		r.past = make(map[int64]verdict)
	}
	r.past[x.Fence] = v
	if r.notes == nil {
		r.notes = make(map[int64]note)
	}
	worker := ""
	if x.Fence == r.fence {
		worker = r.worker
	}
	r.notes[x.Fence] = note{r.id, x.Fence, entryAttempt, v, cleanReason(x.Reason), worker, r.now}
	r.flags |= flagHistory
}

// failing notes since when the row has been in trouble.
func (r *state) failing() {
	if r.failingSince == 0 {
		r.failingSince = r.now
	}
}

// fail gives a pending row up: it waits for compensation, and its key for it.
func (r *state) fail() {
	r.status = reliable.Failed
	r.flags &^= flagLeased
	r.due = r.now
	r.changed = true
}

// finish gives the row a final status; due is then when that was. What waits is not the head of its key, and cannot become
// that while it is locked.
func (r *state) finish(status reliable.Status) {
	r.settled = r.settled || !r.waiting()
	r.status = status
	r.flags &^= flagLeased
	r.due = r.now
	r.changed = true
}

func verdictOf(x *reliable.Settlement) verdict { return verdict{x.Outcome, x.To, x.Charge} }

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
