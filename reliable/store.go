package reliable

import (
	"context"
	"time"
)

// Enqueuer stores envelopes, all or none.
type Enqueuer interface {
	// Enqueue stores envs in the order given and says for each, at the same index, what came of it. Every envelope has its
	// ID set and has been validated. An ID already stored with the same topic and payload is skipped: no error, New is
	// false, Status says where it stands, and the caller's transaction stays usable (PostgreSQL above READ COMMITTED
	// excepted). With another topic or payload nothing is stored and the error is [ErrConflict].
	//
	// With req.Lease > 0 the envelopes that have neither Key nor Delay are leased to req.Worker: Fence and Attempts are 1,
	// and they are due when the lease ends. All others are due after their Delay.
	//
	// Any error means that nothing was stored, with one exception: an Enqueue that commits by itself and whose answer was
	// cut off returns an error that is [ErrUnknown]; repeating it with the same IDs is safe.
	Enqueue(ctx context.Context, req EnqueueRequest, envs ...Envelope) ([]Stored, error)
}

// EnqueueRequest says for whom envelopes are leased as they are stored; the zero value leases nothing.
type EnqueueRequest struct {
	// Worker names the process that stores, for people who look at the table; at most 128 bytes.
	Worker string
	// Lease is how long new envelopes belong to Worker, on the store's clock.
	Lease time.Duration
}

// Stored is what came of one envelope.
type Stored struct {
	Attempt
	// New is false for an ID that was there already.
	New bool
	// Leased is true if the attempt belongs to the caller now.
	Leased bool
	// Status is where the envelope stands; [Pending] for a new one.
	Status Status
}

// Store keeps envelopes. It is shared by every process of a fleet; implementations are safe for concurrent use. Time
// that is stored or compared is the store's own clock, never the caller's.
type Store interface {
	Enqueuer
	// Claim leases up to req.Max pending envelopes that are due, or whose lease ran out, oldest due time first, and makes
	// them due again at the end of the lease. What became visible only after later ones were claimed (a long transaction's)
	// may be passed over for a second, but not if nothing else is due. It never waits for a lock of another claim: what
	// others are claiming is left to them. Of envelopes with the same Topic and Key it returns the head only. An empty
	// result is no error.
	Claim(ctx context.Context, req ClaimRequest) ([]Attempt, error)
	// Settle records a batch, all or none, and says for each settlement, at the same index, what came of it. The same
	// settlement repeated changes nothing more.
	//
	// Facts are not fenced, decisions are. An ack (Outcome [Acked], To [Confirmed]) wins over any later lease, over
	// Pending and over Failed (unless compensation has begun: then it is recorded as a late ack, nothing else changes, and
	// the result is [Overtaken]).
	// A charge counts, once per fence, even when it comes late. What To says otherwise applies only while Fence is the
	// newest fence of a pending envelope.
	Settle(ctx context.Context, ss ...Settlement) ([]SettleResult, error)
}

// ClaimRequest bounds one claim.
type ClaimRequest struct {
	// Worker names the process that claims; at most 128 bytes.
	Worker string
	// Max is how many envelopes at most; at least 1.
	Max int
	// MaxBytes is how large all of them together may be ([Envelope.Size]); the first one is returned whatever its size.
	// 0 means no limit.
	MaxBytes int
	// Lease is how long they belong to Worker; above 0.
	Lease time.Duration
}

// Settlement records the outcome of one attempt.
type Settlement struct {
	// ID, Fence, Topic and Key are those of the attempt.
	ID    ID
	Fence int64
	Topic string
	Key   string
	// Sent is false for an attempt that is given back: it was certainly never handed over. Its Outcome is then ignored,
	// nothing is written to the history, and Attempts goes back by one.
	Sent bool
	// Outcome is the broker's answer. [Unknown] marks the envelope as MayHaveBeenSent.
	Outcome Outcome
	// To is [Confirmed], [Pending] (try again) or [Failed].
	To Status
	// Delay is, with Pending, how long until the next attempt.
	Delay time.Duration
	// Park, with Pending, makes the envelope wait behind the hold of its topic (see [Holder]); without such a hold, or
	// without that ability, Delay is used.
	Park bool
	// Charge counts one definite failure, once per fence.
	Charge bool
	// Release, with Failed, lets the envelopes that wait behind this one's key go on. Without it they wait until the
	// envelope is confirmed, compensated or discarded.
	Release bool
	// Reason says why, for people: kept sanitised (valid UTF-8, no control characters) and cut to [MaxReasonBytes].
	Reason string
}

// MaxReasonBytes is how much of a [Settlement]'s reason is kept.
const MaxReasonBytes = 512

// SettleResult is what came of one settlement.
type SettleResult uint8

const (
	// Applied means recorded as asked.
	Applied SettleResult = iota
	// Late means that the lease had passed on, or the envelope had failed, and the fact in it (an ack, a charge) was
	// recorded all the same.
	Late
	// Stale means that nothing was recorded: a decision of a holder whose lease has passed on, or an envelope that is
	// final or gone.
	Stale
	// Repeated means that the very same settlement had been recorded before.
	Repeated
	// Overtaken means that an ack came after compensation had begun, or after the envelope was discarded: it was recorded
	// as a late ack ([Record].LateAck), and nothing else changed.
	Overtaken
)

// String returns the result as it appears in logs.
func (r SettleResult) String() string {
	switch r {
	case Applied:
		return "applied"
	case Late:
		return "late"
	case Stale:
		return "stale"
	case Repeated:
		return "repeated"
	case Overtaken:
		return "overtaken"
	}
	return "invalid"
}
