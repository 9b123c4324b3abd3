package tagging

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// InTx runs fn in a transaction on db, with the messages that fn adds to its [Scope], and commits.
//
//	err := tagging.InTx(ctx, outbox, db, func(tx *sql.Tx, out *tagging.Scope) error {
//		if _, err := tx.ExecContext(ctx, "INSERT INTO orders ..."); err != nil {
//			return err
//		}
//		return out.Send(reliable.Envelope{Topic: "order.placed", Payload: payload})
//	})
//
// T is what fn works with: *sql.Tx, or pgx.Tx for PostgreSQL. db is the handle that the business uses (*sql.DB, *sql.Conn,
// *pgxpool.Pool, *pgx.Conn), nil for the store's own.
//
// The messages are buffered and stored by one statement just before COMMIT; right after it they go to the broker from
// memory. An error means that nothing was committed and nothing is sent, unless it is [reliable.ErrUnknown]: then the
// answer to the COMMIT was cut off, and repeating the whole with the same IDs is safe where the business writes are. A
// panic in fn rolls back and goes on.
func InTx[T any](ctx context.Context, outbox Transactional, db any, fn func(tx T, out *Scope) error) error {
	tx, err := outbox.begin(ctx, db)
	if err != nil {
		return fmt.Errorf("tagging: begin: %w", err)
	}
	// After COMMIT this does nothing; it also ends the transaction of a fn that panicked.
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()

	native, ok := tx.Native().(T)
	if !ok {
		return fmt.Errorf("tagging: begin: %w", reliable.Invalid("fn",
			"takes a %v, but the transaction on this db is a %T", reflect.TypeFor[T](), tx.Native()))
	}
	scope := &Scope{ctx: ctx, sender: outbox.sender(), tx: tx}
	defer func() { scope.closed = true }() // a fn that panicked may have left it to others
	if err := fn(native, scope); err != nil {
		return err
	}
	scope.closed = true
	return outbox.commit(ctx, tx, scope.envs)
}

func (s *Sender) begin(ctx context.Context, db any) (reliable.Tx, error) {
	if s.transactor == nil {
		return nil, reliable.Invalid("store", "has no transactions; use Publish")
	}
	return s.transactor.Begin(ctx, db)
}

// commit stores what was buffered, commits, and hands over.
func (s *Sender) commit(ctx context.Context, tx reliable.Tx, envs []reliable.Envelope) error {
	if len(envs) == 0 {
		return committed(tx.Commit(ctx))
	}
	req, size := reliable.EnqueueRequest{Worker: s.cfg.worker}, totalSize(envs)
	reserved := s.relay != nil && s.relay.TryReserve(len(envs), size)
	if reserved {
		req.Lease = s.cfg.lease
	}
	leasedAt := time.Now()
	stored, err := tx.Enqueue(ctx, req, envs...)
	if err == nil {
		err = committed(tx.Commit(ctx))
	} else {
		err = notStored(err)
	}
	attempts, all := leased(stored)
	switch {
	case err != nil:
		if reserved {
			s.relay.Unreserve(len(envs), size)
		}
		return err
	case reserved:
		s.relay.Submit(attempts, leasedAt, len(envs), size)
	}
	if !all {
		s.alarm.ring()
	}
	return nil
}

func committed(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, reliable.ErrUnknown) {
		return fmt.Errorf("tagging: commit: %w; repeat with the same message IDs", err)
	}
	return reliable.NotStored("tagging: commit", err)
}

// Scope collects the messages of one transaction, or of a nested part of it. It belongs to the goroutine that runs fn.
type Scope struct {
	ctx    context.Context //nolint:containedctx // a Scope lives inside one call of InTx, whose context this is
	sender *Sender
	tx     reliable.Tx
	envs   []reliable.Envelope
	closed bool
}

// Send adds messages; they are stored when the transaction commits. Bad input is refused here, before anything is stored.
func (s *Scope) Send(envs ...reliable.Envelope) error {
	_, err := s.SendIDs(envs...)
	return err
}

// SendIDs is Send, and returns the messages' IDs.
func (s *Scope) SendIDs(envs ...reliable.Envelope) ([]reliable.ID, error) {
	if s.closed {
		return nil, fmt.Errorf("tagging: send: the transaction of this scope is over: %w", reliable.ErrClosed)
	}
	prepared, err := s.sender.prepare(s.ctx, envs)
	if err != nil {
		return nil, err
	}
	s.envs = append(s.envs, prepared...)
	return idsOf(prepared), nil
}

// Nested runs fn in a savepoint. If fn returns an error, or panics, what it wrote and the messages it added are taken
// back, the error is returned, and the transaction can go on.
func (s *Scope) Nested(fn func(out *Scope) error) error {
	if s.closed {
		return fmt.Errorf("tagging: savepoint: the transaction of this scope is over: %w", reliable.ErrClosed)
	}
	savepoint, err := s.tx.Savepoint(s.ctx)
	if err != nil {
		return fmt.Errorf("tagging: savepoint: %w", err)
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
		return fmt.Errorf("tagging: savepoint: %w", err)
	}
	s.envs = append(s.envs, nested.envs...)
	return nil
}

// Publisher returns Watermill's publisher that adds to this scope, for Watermill's CQRS and existing code. Its Close does
// nothing.
func (s *Scope) Publisher() message.Publisher {
	return publisherFunc(func(envs []reliable.Envelope) error { return s.Send(envs...) })
}
