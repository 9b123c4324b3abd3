package delayedcheck

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// requests is the publisher of the ledger's relay: what it hands over are requests, and what it confirms is what came of
// them. Acked means that nothing more is to be done about this request.
type requests struct {
	s *Service

	under sync.WaitGroup // resends that are under way

	mu       sync.Mutex
	ctx      context.Context //nolint:containedctx // of the Run that works, for what outlives the call that hands over
	confirms []reliable.Confirm
	arrived  chan struct{}
}

func newRequests(s *Service) *requests {
	return &requests{s: s, ctx: context.Background(), arrived: make(chan struct{}, 1)}
}

// open begins the work of a Run, which ends at the latest with ctx.
func (r *requests) open(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ctx = ctx
}

// wait returns once no resend is under way.
func (r *requests) wait() { r.under.Wait() }

// MaxConfirmWait is how long a request may wait for its turn, its producer and the ledger.
func (r *requests) MaxConfirmWait() time.Duration {
	cfg := &r.s.cfg
	return r.s.limit.longestWait() + 2*cfg.resendTimeout + 6*cfg.ledgerTimeout
}

// Publish begins to work on requests. The relay's window bounds how many are under way.
func (r *requests) Publish(_ context.Context, batch []reliable.Attempt) (int, error) {
	r.mu.Lock()
	ctx := r.ctx
	r.mu.Unlock()
	for i := range batch {
		attempt := batch[i]
		r.under.Go(func() {
			outcome, err := r.s.work(ctx, &attempt)
			r.confirm(reliable.Confirm{ID: attempt.ID, Fence: attempt.Fence, Outcome: outcome, Err: err})
		})
	}
	return len(batch), nil
}

func (r *requests) confirm(confirm reliable.Confirm) {
	r.mu.Lock()
	r.confirms = append(r.confirms, confirm)
	r.mu.Unlock()
	select {
	case r.arrived <- struct{}{}:
	default:
	}
}

// Receive returns what came of requests.
func (r *requests) Receive(ctx context.Context, limit int) ([]reliable.Confirm, error) {
	for {
		r.mu.Lock()
		n := min(limit, len(r.confirms))
		taken := append([]reliable.Confirm(nil), r.confirms[:n]...)
		r.confirms = append(r.confirms[:0], r.confirms[n:]...)
		r.mu.Unlock()
		if n > 0 {
			return taken, nil
		}
		select {
		case <-r.arrived:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// work does what a request asks for, if it still does. Acked: nothing more is to be done. Nacked: it could not be done, and
// counts. Rejected: it cannot be done, a person must look. Unknown: ask again later.
func (s *Service) work(ctx context.Context, request *reliable.Attempt) (reliable.Outcome, error) {
	check, err := decodeCheck(request.Payload)
	if err != nil {
		s.cfg.logger.ErrorContext(ctx, "the ledger holds what is no resend request: does an outbox use the same tables?",
			"id", request.ID, "topic", request.Topic)
		return reliable.Unknown, fmt.Errorf("no resend request: %w", err)
	}
	waits := awaiting{check.Message.ID, check.Groups}
	missing, err := s.missing(waits)
	switch {
	case err != nil:
		return reliable.Unknown, fmt.Errorf("the ledger's confirms could not be looked up: %w", err)
	case len(missing) == 0:
		s.counts.superfluous.Add(1)
		return reliable.Acked, nil
	}
	if check.Round > s.cfg.maxRounds {
		again, err := s.requeued(ctx, request)
		switch {
		case err != nil:
			return reliable.Unknown, fmt.Errorf("the request's history could not be looked up: %w", err)
		case !again:
			s.counts.exhausted.Add(1)
			return reliable.Rejected, fmt.Errorf("sent again %d times, and no confirm of consumer group %s",
				check.Round-1, strings.Join(missing, ", "))
		}
	}
	resender := s.cfg.resenderOf(check.Producer)
	if resender == nil {
		s.counts.strangers.Add(1)
		return reliable.Rejected, fmt.Errorf("no resender is configured for producer %q: add it, then requeue", request.Topic)
	}
	waited, err := s.limit.wait(ctx)
	if waited {
		s.counts.limited.Add(1)
	}
	if err != nil {
		return reliable.Unknown, fmt.Errorf("not resent: %w", err)
	}
	if waited {
		if missing, err = s.missing(waits); err != nil || len(missing) == 0 {
			s.limit.putBack()
		}
		switch {
		case err != nil:
			return reliable.Unknown, fmt.Errorf("the ledger's confirms could not be looked up: %w", err)
		case len(missing) == 0:
			s.counts.superfluous.Add(1)
			return reliable.Acked, nil
		}
	}
	return s.resend(ctx, resender, request, &check)
}

// resend asks the producer, and records what follows from its answer.
func (s *Service) resend(ctx context.Context, resender Resender, request *reliable.Attempt, check *Check) (reliable.Outcome, error) {
	answer, err := s.ask(ctx, resender, check)
	switch {
	case err != nil && ctx.Err() != nil:
		return reliable.Unknown, fmt.Errorf("the service stopped before the producer had answered: %w", err)
	case errors.Is(err, reliable.ErrInvalid):
		s.counts.errors.Add(1)
		return reliable.Rejected, fmt.Errorf("the producer can never be asked: %w", err)
	case err != nil:
		s.counts.errors.Add(1)
		return reliable.Nacked, fmt.Errorf("the producer did not answer: %w", err)
	}
	if s.cfg.hooks.Answered != nil {
		s.cfg.hooks.Answered(check, answer)
	}
	switch answer {
	case Resent:
		return s.resent(ctx, request, check)
	case Aborted:
		s.counts.dropped.Add(1)
		return reliable.Acked, nil
	case StillOpen:
		s.counts.open.Add(1)
		return reliable.Unknown, errors.New("the transaction is still open")
	case Unknowable:
		s.counts.unknowable.Add(1)
		if s.cfg.unknowable == nil {
			return reliable.Rejected, errors.New("nobody can tell any more whether the transaction committed: find out, and send it or discard it")
		}
		timed, cancel := context.WithTimeout(ctx, s.cfg.resendTimeout)
		defer cancel()
		if err := publishWithin(timed, s.cfg.unknowable, check); err != nil {
			return reliable.Nacked, fmt.Errorf("the message could not be sent: %w", err)
		}
		return s.resent(ctx, request, check)
	}
	return reliable.Nacked, fmt.Errorf("the producer gave an answer that this program does not know: %d", answer)
}

// resent has the message asked about once more.
func (s *Service) resent(ctx context.Context, request *reliable.Attempt, check *Check) (reliable.Outcome, error) {
	s.counts.resends.Add(1)
	if err := s.scheduleNext(ctx, request.ID, check); err != nil {
		return reliable.Unknown, fmt.Errorf("sent again, but the next check could not be stored: %w", err)
	}
	return reliable.Acked, nil
}

// ask calls the resender; a panic is an error.
func (s *Service) ask(ctx context.Context, resender Resender, check *Check) (answer Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.resendTimeout)
	defer cancel()
	defer func() {
		if panicked := recover(); panicked != nil {
			s.cfg.logger.ErrorContext(ctx, "resender panicked", "id", check.Message.ID, "stack", string(debug.Stack()))
			err = fmt.Errorf("the resender panicked: %v", panicked)
		}
	}()
	return resender.Resend(ctx, *check)
}

// requeued reports whether a person has decided that a request shall be tried again. Only what would be failed is asked
// about.
func (s *Service) requeued(ctx context.Context, request *reliable.Attempt) (bool, error) {
	inspector, ok := reliable.Ability[reliable.Inspector](s.ledger)
	if !ok || request.Fence == 1 {
		return false, nil
	}
	timed, cancel := context.WithTimeout(ctx, s.cfg.ledgerTimeout)
	defer cancel()
	records, err := inspector.Lookup(timed, request.ID)
	if err != nil || len(records) == 0 {
		return false, err
	}
	return slices.ContainsFunc(records[0].History, func(entry reliable.HistoryEntry) bool {
		return entry.Kind == reliable.OperatorDecided && entry.Action == reliable.Requeue
	}), nil
}
