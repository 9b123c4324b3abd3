package delayedcheck

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// placeTimeout is how long a call waits after COMMIT for room in the window.
const placeTimeout = time.Second

// InTx runs fn in a transaction on db, with the messages that fn adds to its [Scope], and commits.
//
//	err := delayedcheck.InTx(ctx, sender, db, func(tx *sql.Tx, out *delayedcheck.Scope) error {
//		if _, err := tx.ExecContext(ctx, "INSERT INTO orders ..."); err != nil {
//			return err
//		}
//		return out.Send(reliable.Envelope{Topic: "order.placed", Payload: payload})
//	})
//
// T is what fn works with: *sql.Tx, or pgx.Tx for PostgreSQL. db is the handle that the business uses (*sql.DB, *sql.Conn,
// *pgxpool.Pool, *pgx.Conn), nil for the handle of the store of [WithTransactions].
//
// When fn has returned, the checks of all messages are scheduled together, and confirmed before COMMIT; right after it the
// messages go to the broker. InTx does not wait for their confirms, and what becomes of them is no error: the check of one
// that is lost has it sent. An error means that nothing was committed and nothing is sent, unless it is
// [reliable.ErrUnknown]: then the answer to the COMMIT was cut off, the messages are sent if it committed, and repeating
// the whole with the same IDs is safe where the business writes are. Checks that could not be confirmed are
// [ErrNotChecked], a transaction that took too long after them is [ErrTooOld]. A panic in fn rolls back and goes on.
func InTx[T any](ctx context.Context, s *Sender, db any, fn func(tx T, out *Scope) error) error {
	if s.cfg.transactor == nil {
		return fmt.Errorf("delayedcheck: begin: %w", reliable.Invalid("WithTransactions", "is missing; InTx needs it"))
	}
	if err := s.life.enter(); err != nil {
		return fmt.Errorf("delayedcheck: begin: %w", err)
	}
	defer s.life.leave()
	tx, err := s.cfg.transactor.Begin(ctx, db)
	if err != nil {
		return fmt.Errorf("delayedcheck: begin: %w", err)
	}
	// After COMMIT this does nothing; it also ends the transaction of a fn that panicked.
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()

	native, ok := tx.Native().(T)
	if !ok {
		return fmt.Errorf("delayedcheck: begin: %w", reliable.Invalid("fn",
			"takes a %v, but the transaction on this db is a %T", reflect.TypeFor[T](), tx.Native()))
	}
	scope := &Scope{ctx: ctx, sender: s, tx: tx}
	defer func() { scope.closed = true }() // a fn that panicked may have left it to others
	if err := fn(native, scope); err != nil {
		return err
	}
	scope.closed = true
	envs := scope.envs
	switch {
	case len(envs) == 0:
		return s.end(ctx, tx, nil)
	case s.cfg.messageFirst:
		return s.commitMessageFirst(ctx, tx, envs)
	}
	return s.commit(ctx, tx, envs)
}

// commit has checks confirmed, commits, and hands the messages over.
func (s *Sender) commit(ctx context.Context, tx reliable.Tx, envs []reliable.Envelope) error {
	token, err := s.cfg.witness.Mark(ctx, tx.Native())
	if err != nil {
		return fmt.Errorf("delayedcheck: mark the transaction: %w", err)
	}
	checks, err := s.checksOf(envs, token, false)
	if err != nil {
		return fmt.Errorf("delayedcheck: %w", err)
	}
	leaving := time.Now()
	left, err := s.schedule(ctx, checks, s.hurried)
	if err != nil {
		return s.commitFallback(ctx, tx, envs, left, err)
	}
	if age := since(leaving); float64(age) > s.cfg.maxAge*float64(s.cfg.checkDelay) {
		s.counts.tooOld.Add(1)
		if s.cfg.hooks.TooOld != nil {
			s.cfg.hooks.TooOld(envs, age)
		}
		return fmt.Errorf("delayedcheck: commit: %w: %v of the check's delay of %v have passed; rolled back, repeat the whole",
			ErrTooOld, age, s.cfg.checkDelay)
	}
	if err := s.end(ctx, tx, envs); err != nil {
		return err
	}
	s.handOver(ctx, envs)
	return nil
}

// commitFallback stores the messages in the outbox instead, if there is one, and commits.
func (s *Sender) commitFallback(ctx context.Context, tx reliable.Tx, envs []reliable.Envelope, left bool, cause error) error {
	switch {
	case ctx.Err() != nil, errors.Is(cause, reliable.ErrInvalid):
		return fmt.Errorf("delayedcheck: commit: %w", notChecked(cause))
	case s.cfg.outbox == nil:
		return fmt.Errorf("delayedcheck: commit: %w; rolled back, repeat the whole, or use WithFallback", notChecked(cause))
	}
	if _, err := s.cfg.outbox.Send(ctx, tx.Native(), envs...); err != nil {
		return fmt.Errorf("delayedcheck: commit: %w; and the fallback: %w", notChecked(cause), err)
	}
	s.counts.fellBack.Add(int64(len(envs)))
	if left {
		s.counts.maybeBoth.Add(int64(len(envs)))
	}
	if s.cfg.hooks.FellBack != nil {
		s.cfg.hooks.FellBack(envs, cause)
	}
	if err := s.end(ctx, tx, envs); err != nil {
		return err
	}
	if err := s.cfg.outbox.Wake(ctx); err != nil {
		s.cfg.logger.DebugContext(ctx, "relays were not woken; they look by themselves", "error", err)
	}
	return nil
}

// commitMessageFirst is the order as it is usually described.
func (s *Sender) commitMessageFirst(ctx context.Context, tx reliable.Tx, envs []reliable.Envelope) error {
	checks, err := s.checksOf(envs, "", true)
	if err != nil {
		return fmt.Errorf("delayedcheck: %w", err)
	}
	if err := s.end(ctx, tx, envs); err != nil {
		return err
	}
	s.handOver(ctx, envs)
	if _, err := s.schedule(context.WithoutCancel(ctx), checks, s.patient); err != nil {
		s.counts.checksLost.Add(int64(len(checks)))
		s.cfg.logger.WarnContext(ctx, "messages of a committed transaction have no check", "messages", len(checks), "error", err)
		if s.cfg.hooks.CheckLost != nil {
			s.cfg.hooks.CheckLost(envs, err)
		}
	}
	return nil
}

// end commits.
func (s *Sender) end(ctx context.Context, tx reliable.Tx, envs []reliable.Envelope) error {
	err := tx.Commit(ctx)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, reliable.ErrUnknown):
		return reliable.NotStored("delayedcheck: commit", err)
	}
	s.counts.commitsUnknown.Add(1)
	if s.cfg.hooks.CommitUnknown != nil {
		s.cfg.hooks.CommitUnknown(envs, err)
	}
	return fmt.Errorf("delayedcheck: commit: %w; repeat with the same message IDs", err)
}

// handOver gives messages of a committed transaction to the broker. What it cannot take is left to its check.
func (s *Sender) handOver(ctx context.Context, envs []reliable.Envelope) {
	ctx, cancel := context.WithTimeout(ctx, placeTimeout)
	defer cancel()
	if _, err := s.out.accept(ctx, envs); err != nil {
		s.leave(envs, err)
	}
}

func (s *Sender) leave(envs []reliable.Envelope, err error) {
	s.counts.leftToCheck.Add(int64(len(envs)))
	s.cfg.logger.Debug("messages were not handed over, and are left to their checks", "messages", len(envs), "error", err)
	if s.cfg.hooks.LeftToCheck != nil {
		s.cfg.hooks.LeftToCheck(envs, err)
	}
}

// Scope collects the messages of one transaction, or of a nested part of it. It belongs to the goroutine that runs fn.
type Scope struct {
	ctx    context.Context //nolint:containedctx // a Scope lives inside one call of InTx, whose context this is
	sender *Sender
	tx     reliable.Tx
	envs   []reliable.Envelope
	closed bool
}

// Send adds messages; they are sent when the transaction has committed. Bad input is refused here.
func (s *Scope) Send(envs ...reliable.Envelope) error {
	_, err := s.SendIDs(envs...)
	return err
}

// SendIDs is Send, and returns the messages' IDs.
func (s *Scope) SendIDs(envs ...reliable.Envelope) ([]reliable.ID, error) {
	if s.closed {
		return nil, fmt.Errorf("delayedcheck: send: the transaction of this scope is over: %w", reliable.ErrClosed)
	}
	prepared, err := s.sender.prepare(s.ctx, envs)
	if err != nil {
		return nil, fmt.Errorf("delayedcheck: send: %w", err)
	}
	s.envs = append(s.envs, prepared...)
	ids := make([]reliable.ID, len(prepared))
	for i := range prepared {
		ids[i] = prepared[i].ID
	}
	return ids, nil
}

// Nested runs fn in a savepoint. If fn returns an error, or panics, what it wrote and the messages it added are taken
// back, the error is returned, and the transaction can go on.
func (s *Scope) Nested(fn func(out *Scope) error) error {
	if s.closed {
		return fmt.Errorf("delayedcheck: savepoint: the transaction of this scope is over: %w", reliable.ErrClosed)
	}
	savepoint, err := s.tx.Savepoint(s.ctx)
	if err != nil {
		return fmt.Errorf("delayedcheck: savepoint: %w", err)
	}
	nested, done := &Scope{ctx: s.ctx, sender: s.sender, tx: s.tx}, false
	defer func() {
		nested.closed = true
		if !done { // fn panicked
			_ = savepoint.Rollback(context.WithoutCancel(s.ctx))
		}
	}()
	if err := fn(nested); err != nil {
		done = true
		return errors.Join(err, savepoint.Rollback(context.WithoutCancel(s.ctx)))
	}
	done = true
	if err := savepoint.Release(s.ctx); err != nil {
		return fmt.Errorf("delayedcheck: savepoint: %w", err)
	}
	s.envs = append(s.envs, nested.envs...)
	return nil
}

// Publisher returns Watermill's publisher that adds to this scope, for Watermill's CQRS and existing code. Its Close does
// nothing.
func (s *Scope) Publisher() message.Publisher { return scopePublisher{s} }

type scopePublisher struct{ scope *Scope }

func (p scopePublisher) Publish(topic string, messages ...*message.Message) error {
	for _, msg := range messages {
		if err := p.scope.Send(reliable.EnvelopeOf(topic, msg)); err != nil {
			return err
		}
	}
	return nil
}

func (scopePublisher) Close() error { return nil }
