package delayedcheck

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// patientTimeout is how long checks may take whose callers hold no locks: of a Publish, or of a transaction that has
// committed already.
const patientTimeout = 10 * time.Second

// checksOf returns the checks of messages as they are scheduled. Committed says that no witness needs to be asked.
func (s *Sender) checksOf(envs []reliable.Envelope, token reliable.Token, committed bool) ([]reliable.Envelope, error) {
	checks := make([]reliable.Envelope, len(envs))
	for i := range envs {
		check := Check{
			Message: envs[i], Token: token, Committed: committed,
			Groups: s.cfg.groupsOf(envs[i].Topic), Producer: s.cfg.producer, Round: 1,
		}
		var err error
		if checks[i], err = check.Envelope(s.cfg.checkTopic); err != nil {
			return nil, fmt.Errorf("check of message %q: %w", envs[i].ID, err)
		}
	}
	return checks, nil
}

// errBreakerOpen is why a check was not tried.
var errBreakerOpen = errors.New("checks were not confirmed lately, and it is too early to try again")

// route is how checks are scheduled that may take so long. call says in left whether one may be on its way in spite of
// its error.
type route struct {
	timeout time.Duration
	late    error // what a call ends with that took as long
	call    func(ctx context.Context, checks []reliable.Envelope) (left bool, err error)
}

// routed returns the way to the scheduler, which is shared with the checks of others that may take as long, or to the
// topic of checks.
func (s *Sender) routed(timeout time.Duration) route {
	late := fmt.Errorf("no confirm within %v", timeout)
	if s.cfg.topicChecks {
		// What publishers are given they only read.
		header := map[string]string{reliable.HeaderDelay: s.cfg.checkDelay.String()}
		return route{timeout, late, func(ctx context.Context, checks []reliable.Envelope) (bool, error) {
			for i := range checks {
				checks[i].Metadata = header
			}
			return s.out.check(ctx, checks)
		}}
	}
	shared := &grouping{timeout: timeout, schedule: func(ctx context.Context, checks []reliable.Envelope) error {
		return s.scheduler.Schedule(ctx, s.cfg.checkDelay, checks...)
	}}
	return route{timeout, late, shared.call}
}

// schedule has checks confirmed, all together. left says whether one may be on its way in spite of an error.
func (s *Sender) schedule(ctx context.Context, checks []reliable.Envelope, by route) (left bool, err error) {
	if !s.breaker.enter() {
		s.counts.checksSkipped.Add(int64(len(checks)))
		return false, errBreakerOpen
	}
	start := time.Now()
	limited, cancel := context.WithTimeoutCause(ctx, by.timeout, by.late)
	defer cancel()
	left, err = by.call(limited, checks)
	s.breaker.leave(verdictOf(ctx, err))
	if err == nil {
		s.counts.checks.Add(int64(len(checks)))
	} else {
		s.counts.checksFailed.Add(int64(len(checks)))
	}
	if s.cfg.hooks.Checked != nil {
		s.cfg.hooks.Checked(len(checks), time.Since(start), err)
	}
	return left, err
}

func verdictOf(ctx context.Context, err error) verdict {
	switch {
	case err == nil:
		return healthy
	case ctx.Err() != nil, errors.Is(err, reliable.ErrInvalid), errors.Is(err, reliable.ErrRejected):
		return nothing // the caller gave up, or this check can never be taken
	}
	return sick
}

// notChecked is the error of who could not go on without a check.
func notChecked(err error) error { return fmt.Errorf("%w: %w", ErrNotChecked, err) }

// since is how long ago t was, by the clock that goes on while the machine sleeps too.
func since(t time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(t), now.Round(0).Sub(t.Round(0)))
}
