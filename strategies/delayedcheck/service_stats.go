package delayedcheck

import (
	"sync/atomic"

	"github.com/waybillmq/waybill/reliable"
)

// serviceCounts are what a process has done since it made its Service.
type serviceCounts struct {
	confirms, checks, requests, refused             atomic.Uint64
	resends, dropped, open, unknowable, errors      atomic.Uint64
	superfluous, limited, exhausted, strangers      atomic.Uint64
	late, overtaken, failed, purged, compensatedOff atomic.Uint64
}

// ServiceStats counts what this process has done since it made its [Service].
type ServiceStats struct {
	// Confirms were stored, those that the ledger had already included.
	Confirms uint64
	// Checks were answered; Requests of them became resend requests, the others were confirmed.
	Checks, Requests uint64
	// Refused are messages that were neither check nor processed confirm.
	Refused uint64
	// Resends are copies that were sent again; Dropped are requests whose transaction had aborted; Open and Unknowable are
	// answers of those kinds; Errors are resends that ended without an answer.
	Resends, Dropped, Open, Unknowable, Errors uint64
	// Superfluous are requests that ended without a resend because the confirms had come meanwhile.
	Superfluous uint64
	// RateLimited are requests that had to wait for the limit on the rate of resends, those included that it put off.
	RateLimited uint64
	// Exhausted are requests that were failed after all rounds, Unconfigured those of a producer that nobody knows, and
	// Failed all that were failed, for whatever reason.
	Exhausted, Unconfigured, Failed uint64
	// Late are failed requests that a late confirm has made confirmed; LateButCompensated are those whose compensation had
	// begun already.
	Late, LateButCompensated uint64
	// NotCompensated are failed requests whose handler was not called, because the confirms had come.
	NotCompensated uint64
	// Purged are confirms that were deleted.
	Purged uint64
}

// Stats returns what this process has done so far; [Service.Backlog] tells of the whole fleet.
func (s *Service) Stats() ServiceStats {
	c := &s.counts
	return ServiceStats{
		Confirms: c.confirms.Load(), Checks: c.checks.Load(), Requests: c.requests.Load(), Refused: c.refused.Load(),
		Resends: c.resends.Load(), Dropped: c.dropped.Load(), Open: c.open.Load(), Unknowable: c.unknowable.Load(),
		Errors: c.errors.Load(), Superfluous: c.superfluous.Load(), RateLimited: c.limited.Load(),
		Exhausted: c.exhausted.Load(), Unconfigured: c.strangers.Load(), Failed: c.failed.Load(),
		Late: c.late.Load(), LateButCompensated: c.overtaken.Load(), NotCompensated: c.compensatedOff.Load(), Purged: c.purged.Load(),
	}
}

// WithServiceHooks sets what is told of each step; default nothing.
func WithServiceHooks(hooks ServiceHooks) ServiceOption {
	return func(c *serviceConfig) { c.hooks = hooks }
}

// ServiceHooks are told of each step, for metrics, traces and tests. They are called synchronously, several at a time: they
// must be quick, must not call back into the Service and must not keep what they are given. Nil ones are skipped.
type ServiceHooks struct {
	// Confirmed is called for each message of processed confirms that was stored.
	Confirmed func(confirms []reliable.Processed)
	// Checked is called for each check that was answered; requested means that a resend request is stored.
	Checked func(check *Check, requested bool)
	// Answered is called for each answer of a [Resender].
	Answered func(check *Check, answer Answer)
	// Failed is called for each request that this process has recorded as failed, FailedTogether with how many of a producer
	// that has not answered for long were failed at once.
	Failed         func(request *reliable.Attempt, reason string)
	FailedTogether func(producer string, n int)
	// Late is called for each failed request that a late confirm has made confirmed.
	Late func(request *reliable.Record)
	// Backlog is called every 15 s with what is pending and failed, by producer.
	Backlog func(stats []reliable.TopicStats)
}

func (s *Service) failed(a *reliable.Attempt, settlement *reliable.Settlement) {
	s.counts.failed.Add(1)
	if s.cfg.hooks.Failed != nil {
		s.cfg.hooks.Failed(a, settlement.Reason)
	}
}

func (s *Service) failedTogether(producer string, n int) {
	s.counts.failed.Add(uint64(max(n, 0)))
	if s.cfg.hooks.FailedTogether != nil {
		s.cfg.hooks.FailedTogether(producer, n)
	}
}
