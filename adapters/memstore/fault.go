package memstore

import (
	"context"
	"fmt"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Op names an operation into which a fault can be injected.
type Op string

// The operations.
const (
	OpEnqueue            Op = "enqueue" // by the store itself, committed at once
	OpTxEnqueue          Op = "enqueue in transaction"
	OpBegin              Op = "begin"
	OpCommit             Op = "commit"
	OpClaim              Op = "claim"
	OpSettle             Op = "settle"
	OpHold               Op = "hold"
	OpHolds              Op = "holds"
	OpProbe              Op = "probe"
	OpUnhold             Op = "unhold"
	OpFailHeld           Op = "fail held"
	OpClaimFailed        Op = "claim failed"
	OpSettleCompensation Op = "settle compensation"
	OpStats              Op = "stats"
	OpLookup             Op = "lookup"
	OpList               Op = "list"
	OpDecide             Op = "decide"
	OpPurge              Op = "purge"
	OpElect              Op = "elect"
	OpPace               Op = "pace"
	OpWake               Op = "wake"
	OpCheck              Op = "check"
	OpReceive            Op = "receive"
	OpStoreProcessed     Op = "store processed"
	OpProcessedBy        Op = "look up processed"
	OpMark               Op = "mark"
	OpAsk                Op = "ask"
	OpWithhold           Op = "withhold"
	OpUndecided          Op = "look for undecided"
	OpResolve            Op = "resolve"
)

// Fault is what happens to one operation. The zero value is no fault. The fields are applied in their order.
type Fault struct {
	// Delay passes before anything else; if ctx ends first, nothing takes effect.
	Delay time.Duration
	// Before fails the operation without effect.
	Before error
	// HangBefore waits, without effect, until ctx ends.
	HangBefore bool
	// HangAfter takes effect, then waits until ctx ends: the answer is lost.
	HangAfter bool
	// After takes effect, then fails: the answer is lost. For Enqueue, Resolve and Commit the error is [reliable.ErrUnknown]
	// too.
	After error
}

// WithFault asks decide, before each operation, for the fault that befalls it. ids are the envelopes named by the call,
// nil where it names none (a claim, say). decide is called without a lock and concurrently.
func WithFault(decide func(op Op, ids []reliable.ID) Fault) Option {
	return func(s *Store) error {
		if decide == nil {
			return reliable.Invalid("WithFault", "is nil; leave the option out for a store without faults")
		}
		s.inject = decide
		return nil
	}
}

// do runs effect under the lock, with the fault that befalls op around it.
func (s *Store) do(ctx context.Context, op Op, ids func() []reliable.ID, effect func(now time.Time) error) error {
	var fault Fault
	if s.inject != nil {
		var named []reliable.ID
		if ids != nil {
			named = ids()
		}
		fault = s.inject(op, named)
	}
	if err := fault.before(ctx); err != nil {
		return fmt.Errorf("memstore: %s: %w", op, err)
	}
	if err := s.locked(effect); err != nil {
		return fmt.Errorf("memstore: %s: %w", op, err)
	}
	if err := fault.after(ctx); err != nil {
		return fmt.Errorf("memstore: %s: answer lost: %w", op, err)
	}
	return nil
}

func (s *Store) locked(effect func(now time.Time) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return effect(time.Now())
}

func (f Fault) before(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.Before != nil {
		return f.Before
	}
	if f.HangBefore {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (f Fault) after(ctx context.Context) error {
	if f.HangAfter {
		<-ctx.Done()
		return ctx.Err()
	}
	return f.After
}
