package engine

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Policy decides what an outcome does to an envelope. It is pure but for the jitter of its delays.
type Policy struct {
	// MaxFailures and MinFailing are the failure budget: an envelope is failed by the refusal that is its MaxFailures-th
	// or later, if it has been failing for at least MinFailing.
	MaxFailures int
	MinFailing  time.Duration
	// Retry spaces the attempts after refusals, Again those after unknown outcomes.
	Retry, Again Backoff
	// Classic counts attempts in place of failures: every outcome that is no ack is charged, and the attempt that is the
	// MaxFailures-th is the last.
	Classic bool
	// ReleaseFailed lets the followers of a key go on behind a failed envelope.
	ReleaseFailed bool
}

// Backoff spaces retries: Base, doubled each time up to Max, each shortened by up to half at random so that what failed
// together does not come back together. With Exact there is no jitter.
type Backoff struct {
	Base, Max time.Duration
	Exact     bool
}

// Delay returns the pause after the n-th failure in a row; n counts from 1.
func (b Backoff) Delay(n int) time.Duration {
	delay := b.Base
	for i := 1; i < n && delay < b.Max; i++ {
		delay *= 2
	}
	delay = min(delay, b.Max)
	if b.Exact || delay <= 1 {
		return delay
	}
	return delay/2 + rand.N(delay/2+1) //nolint:gosec // jitter needs no secrecy
}

// Decide returns what to record for an attempt that was handed over. since is how long ago the attempt was claimed;
// parked says that its topic is held.
func (p Policy) Decide(a *reliable.Attempt, c *reliable.Confirm, since time.Duration, parked bool) reliable.Settlement {
	s := reliable.Settlement{ID: a.ID, Fence: a.Fence, Topic: a.Topic, Key: a.Key, Sent: true, Outcome: c.Outcome}
	if c.Outcome == reliable.Acked {
		s.To = reliable.Confirmed
		return s
	}
	if c.Err != nil {
		s.Reason = c.Err.Error()
	}
	s.Charge = c.Outcome.Definite() || p.Classic
	if why := p.failedBy(a, c.Outcome, since); why != "" {
		s.To, s.Release = reliable.Failed, p.ReleaseFailed
		s.Reason = join(why, s.Reason)
		return s
	}
	s.To = reliable.Pending
	switch {
	case c.Outcome == reliable.Unknown:
		s.Delay = p.Again.Delay(max(1, a.Attempts-a.Failures))
	case parked:
		s.Park = true
		s.Delay = p.Retry.Delay(a.Failures + 1)
	default:
		s.Delay = p.Retry.Delay(a.Failures + 1)
	}
	return s
}

// failedBy says why an attempt that was not acked is the envelope's last one, or nothing if it is not.
func (p Policy) failedBy(a *reliable.Attempt, outcome reliable.Outcome, since time.Duration) string {
	failing := time.Duration(0)
	if a.FailingFor > 0 {
		failing = a.FailingFor + since
	}
	switch {
	case outcome == reliable.Rejected:
		return "this message can never be published"
	case p.expired(a, since):
		return fmt.Sprintf("the deadline of %v passed", a.Deadline)
	case p.Classic && a.Attempts >= p.MaxFailures:
		return fmt.Sprintf("attempt %d of %d", a.Attempts, p.MaxFailures)
	case !p.Classic && outcome.Definite() && a.Failures+1 >= p.MaxFailures && failing >= p.MinFailing:
		return fmt.Sprintf("refused %d times over %v", a.Failures+1, failing.Round(time.Second))
	}
	return ""
}

// expired reports whether the envelope's deadline has passed.
func (p Policy) expired(a *reliable.Attempt, since time.Duration) bool {
	return a.Deadline > 0 && a.Age+since >= a.Deadline || p.Classic && a.Attempts > p.MaxFailures
}

// overdue is the settlement of an attempt that comes too late to be handed over. It is certainly not sent by this
// attempt, which is what Rejected says; whether an earlier one sent it stays as it is recorded.
func (p Policy) overdue(a *reliable.Attempt) reliable.Settlement {
	why := fmt.Sprintf("the deadline of %v passed before this attempt", a.Deadline)
	if p.Classic && a.Attempts > p.MaxFailures {
		why = fmt.Sprintf("all %d attempts were made", p.MaxFailures)
	}
	return reliable.Settlement{
		ID: a.ID, Fence: a.Fence, Topic: a.Topic, Key: a.Key,
		Sent: true, Outcome: reliable.Rejected, To: reliable.Failed, Release: p.ReleaseFailed, Reason: why,
	}
}

func join(why, cause string) string {
	if cause == "" {
		return why
	}
	return why + ": " + cause
}
