package delayedcheck

import (
	"sync/atomic"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// SenderHooks are told of each step, for metrics, traces and tests. They are called synchronously, several at a time: they
// must be quick, must not call back into the Sender and must not keep what they are given. Nil ones are skipped.
type SenderHooks struct {
	// Checked is called when the checks of a transaction, or of a Publish, were confirmed or not, with how long that took. It
	// is not called while the breaker keeps them from being tried.
	Checked func(checks int, took time.Duration, err error)
	// FellBack is called when messages were stored in the fallback's outbox instead, because of err, before COMMIT.
	FellBack func(envs []reliable.Envelope, err error)
	// TooOld is called when a transaction is rolled back because so much time has passed since its checks left.
	TooOld func(envs []reliable.Envelope, age time.Duration)
	// CommitUnknown is called when the answer to a COMMIT was cut off. The messages are sent by their checks if it committed.
	CommitUnknown func(envs []reliable.Envelope, err error)
	// Answered is called for each of the broker's answers to a message, with the time since COMMIT. Whatever is not acked is
	// sent again by its check.
	Answered func(env *reliable.Envelope, confirm *reliable.Confirm, since time.Duration)
	// LeftToCheck is called when messages of a committed transaction were not handed over; their checks have them sent.
	LeftToCheck func(envs []reliable.Envelope, err error)
	// CheckLost is called in the order [MessageFirst] when the checks of a committed transaction could not be scheduled: if
	// its messages are lost too, nobody notices.
	CheckLost func(envs []reliable.Envelope, err error)
	// ResendAnswered is called for each [Sender.Resend].
	ResendAnswered func(check *Check, answer Answer, err error)
	// BreakerChanged is called when the breaker opens and when it closes.
	BreakerChanged func(open bool)
}

// SenderStats counts what a [Sender] did since it was made.
type SenderStats struct {
	// Checks were confirmed; ChecksFailed were not, in time or at all; ChecksSkipped were not tried, behind the breaker.
	Checks, ChecksFailed, ChecksSkipped int64
	// FellBack are messages that were stored in the fallback's outbox. MaybeBoth of them have a check on its way too, which
	// may have the message sent once more than needed.
	FellBack, MaybeBoth int64
	// TooOld are transactions rolled back because their checks had left too long ago.
	TooOld int64
	// CommitsUnknown are transactions whose answer to COMMIT was cut off.
	CommitsUnknown int64
	// Acked are messages that the broker confirmed, resent ones included; Unconfirmed are those that it did not.
	Acked, Unconfirmed int64
	// LeftToCheck are messages of committed transactions that were not handed over.
	LeftToCheck int64
	// ChecksLost are checks of committed transactions that could not be scheduled, in the order [MessageFirst].
	ChecksLost int64
	// Resent, Aborted, Open, Unknowable and ResendsFailed are how resends were answered.
	Resent, Aborted, Open, Unknowable, ResendsFailed int64
	// MarkersPurged are rows of the witness that were deleted, see [WithMarkerRetention].
	MarkersPurged int64
	// BreakerOpened is how often the breaker opened; BreakerOpen is whether it is open now.
	BreakerOpened int64
	BreakerOpen   bool
}

// counters are the SenderStats as they grow.
type counters struct {
	checks, checksFailed, checksSkipped atomic.Int64
	fellBack, maybeBoth                 atomic.Int64
	tooOld, commitsUnknown              atomic.Int64
	acked, unconfirmed, leftToCheck     atomic.Int64
	checksLost                          atomic.Int64
	answers                             [StillOpen + 1]atomic.Int64
	resendsFailed, breakerOpened        atomic.Int64
	markersPurged                       atomic.Int64
}

// Stats returns the counts.
func (s *Sender) Stats() SenderStats {
	c := &s.counts
	return SenderStats{
		Checks: c.checks.Load(), ChecksFailed: c.checksFailed.Load(), ChecksSkipped: c.checksSkipped.Load(),
		FellBack: c.fellBack.Load(), MaybeBoth: c.maybeBoth.Load(),
		TooOld: c.tooOld.Load(), CommitsUnknown: c.commitsUnknown.Load(),
		Acked: c.acked.Load(), Unconfirmed: c.unconfirmed.Load(), LeftToCheck: c.leftToCheck.Load(),
		ChecksLost: c.checksLost.Load(),
		Resent:     c.answers[Resent].Load(), Aborted: c.answers[Aborted].Load(), Open: c.answers[StillOpen].Load(),
		Unknowable: c.answers[Unknowable].Load(), ResendsFailed: c.resendsFailed.Load(),
		MarkersPurged: c.markersPurged.Load(), BreakerOpened: c.breakerOpened.Load(), BreakerOpen: s.breaker.isOpen(),
	}
}
