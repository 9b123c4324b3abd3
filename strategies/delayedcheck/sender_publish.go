package delayedcheck

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/waybillmq/waybill/reliable"
)

// Publish sends messages without a business transaction and returns nil once the broker has confirmed, first their checks,
// and then the messages themselves.
//
// An error that is [ErrLeftToCheck] means that the checks are durable, and that some message was not confirmed: its check
// has it sent, and there is nothing to repeat. One that is [ErrNotChecked] means that nothing was sent; it is
// [reliable.ErrUnknown] too if a check may have been taken all the same, whose message is sent when it comes due. Repeating
// with the same IDs is safe.
func (s *Sender) Publish(ctx context.Context, envs ...reliable.Envelope) error {
	if err := s.life.enter(); err != nil {
		return fmt.Errorf("delayedcheck: publish: %w", err)
	}
	defer s.life.leave()
	prepared, err := s.prepare(ctx, envs)
	if err != nil || len(prepared) == 0 {
		return wrapped("delayedcheck: publish", err)
	}
	checks, err := s.checksOf(prepared, "", true)
	if err != nil {
		return fmt.Errorf("delayedcheck: publish: %w", err)
	}
	if left, err := s.schedule(ctx, checks, s.patient); err != nil {
		if left {
			err = fmt.Errorf("%w: %w", reliable.ErrUnknown, err)
		}
		return fmt.Errorf("delayedcheck: publish: %w", notChecked(err))
	}
	flights, err := s.out.accept(ctx, prepared)
	if err != nil {
		s.leave(prepared, err)
		return fmt.Errorf("delayedcheck: publish: %w: %w", ErrLeftToCheck, err)
	}
	var errs []error
	for _, f := range flights {
		if err := f.wait(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("delayedcheck: publish: %w: %w", ErrLeftToCheck, errors.Join(errs...))
	}
	return nil
}

// Resend implements [Resender]: it asks the witness, and sends the message of a committed transaction again. What was sent
// without a transaction, and in the order [MessageFirst], has committed by definition: its check says so. An error means
// that the witness could not be asked, or that the broker has not confirmed.
func (s *Sender) Resend(ctx context.Context, check Check) (Answer, error) {
	answer, err := s.resend(ctx, &check)
	if err == nil {
		s.counts.answers[answer].Add(1)
	} else {
		s.counts.resendsFailed.Add(1)
		err = fmt.Errorf("delayedcheck: resend: %w", err)
	}
	if s.cfg.hooks.ResendAnswered != nil {
		s.cfg.hooks.ResendAnswered(&check, answer, err)
	}
	return answer, err
}

func (s *Sender) resend(ctx context.Context, check *Check) (Answer, error) {
	if err := check.validate(); err != nil {
		return Unknowable, err
	}
	if err := s.life.enter(); err != nil {
		return Unknowable, err
	}
	defer s.life.leave()
	fate, err := s.fateOf(ctx, check)
	if err != nil {
		return Unknowable, fmt.Errorf("ask the witness: %w", err)
	}
	switch fate {
	case reliable.FateOpen:
		return StillOpen, nil
	case reliable.FateAborted:
		return Aborted, nil
	case reliable.FateCommitted:
	default:
		return Unknowable, nil
	}
	flights, err := s.out.accept(ctx, []reliable.Envelope{again(check)})
	if err != nil {
		return Unknowable, err
	}
	if err := flights[0].wait(ctx); err != nil {
		return Unknowable, err
	}
	return Resent, nil
}

// again returns the message as it is sent again: a broker that drops repeated IDs must see that this copy is made on purpose,
// or it drops and confirms it.
func again(check *Check) reliable.Envelope {
	env := check.Message
	env.Metadata = make(map[string]string, len(check.Message.Metadata)+1)
	maps.Copy(env.Metadata, check.Message.Metadata)
	env.Metadata[reliable.HeaderCopy] = fmt.Sprintf("resend-%d", check.Round)
	return env
}

func (s *Sender) fateOf(ctx context.Context, check *Check) (reliable.Fate, error) {
	switch {
	case check.Committed:
		return reliable.FateCommitted, nil
	case s.cfg.witness == nil:
		return reliable.FateUnknowable, nil
	}
	return s.cfg.witness.Ask(ctx, check.Message.ID, check.Token)
}

// wait returns nil if the broker acked, and what became of the message otherwise.
func (f *flight) wait(ctx context.Context) error {
	failed := &reliable.PublishError{ID: f.attempt.ID, Topic: f.attempt.Topic}
	select {
	case <-f.done:
		if f.confirm.Outcome == reliable.Acked {
			return nil
		}
		failed.Outcome, failed.Cause = f.confirm.Outcome, f.confirm.Err
	case <-ctx.Done():
		failed.Cause = ctx.Err()
	}
	return failed
}

func wrapped(object string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", object, err)
}
