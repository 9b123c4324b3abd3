package delayedcheck

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// FuncWitness tells the fate of a transaction by a function of the user's: a look at whatever a committed transaction
// leaves behind. "Not there" alone does not mean that it aborted, since it may be open still; so a "no" counts only once
// the transaction is so old that the server must have ended it. It is the weakest of the witnesses: where it can be had,
// take that of the database's adapter.
type FuncWitness struct {
	committed func(ctx context.Context, id reliable.ID) (bool, error)
	idle      IdleLimit
	ageLimit  time.Duration
}

var _ reliable.Witness = (*FuncWitness)(nil)

// IdleLimit is how long the server leaves a transaction alone that does nothing: after that it rolls it back. It is what
// ends the transaction of a process that was paused or cut off between its check and COMMIT.
type IdleLimit struct {
	// Limit is the time, above 0.
	Limit time.Duration
	// Set sets it for a transaction: postgresstore.LimitIdle or mysqlstore.LimitIdle. Nil says that the server's
	// configuration limits the transactions of the business to Limit or less.
	Set func(ctx context.Context, tx any, limit time.Duration) error
}

// idleTimes is how many idle limits a transaction can last after its mark: until the fallback's INSERT, until COMMIT, and
// one for statements and for clocks that differ.
const idleTimes = 3

// witnessFormat begins every token of a FuncWitness.
const witnessFormat = "fn1:"

// NewFuncWitness returns a witness by a function, which says whether what the transaction of a message writes is there,
// for everybody to see; it reads from where the business writes, not from a replica. It is asked only about messages whose
// transaction is in doubt, and concurrently.
//
// ageLimit is when a "no" counts, from the mark on, by the clocks of the processes that mark and ask: at least three idle
// limits, and longer by as much as those clocks may differ. Until then the fate is open. What is wrong is reported
// together, as errors that are [reliable.ErrInvalid].
func NewFuncWitness(
	committed func(ctx context.Context, id reliable.ID) (bool, error), idle IdleLimit, ageLimit time.Duration,
) (*FuncWitness, error) {
	var errs []error
	if committed == nil {
		errs = append(errs, reliable.Invalid("committed", "must not be nil"))
	}
	if idle.Limit <= 0 {
		errs = append(errs, reliable.Invalid("IdleLimit", "is %v, must be above 0: without it an old transaction could still commit", idle.Limit))
	}
	if ageLimit < idleTimes*idle.Limit {
		errs = append(errs, reliable.Invalid("ageLimit", "is %v, must be at least %d idle limits of %v", ageLimit, idleTimes, idle.Limit))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("delayedcheck: func witness: %w", err)
	}
	return &FuncWitness{committed, idle, ageLimit}, nil
}

// Mark limits how long the server leaves tx alone, and returns when that was, by the clock of this process.
func (w *FuncWitness) Mark(ctx context.Context, tx any) (reliable.Token, error) {
	if w.idle.Set != nil {
		if err := w.idle.Set(ctx, tx, w.idle.Limit); err != nil {
			return "", fmt.Errorf("delayedcheck: limit idle transaction: %w", err)
		}
	}
	return reliable.Token(witnessFormat + strconv.FormatInt(time.Now().UnixMicro(), 10)), nil
}

// Ask implements [reliable.Witness].
func (w *FuncWitness) Ask(ctx context.Context, id reliable.ID, token reliable.Token) (reliable.Fate, error) {
	text, ok := strings.CutPrefix(string(token), witnessFormat)
	marked, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil || marked <= 0 {
		return reliable.FateUnknowable, nil //nolint:nilerr // it is the token of somebody else
	}
	age := time.Since(time.UnixMicro(marked)) // before the question, or a commit could come between the two
	committed, err := w.committed(ctx, id)
	switch {
	case err != nil:
		return 0, fmt.Errorf("delayedcheck: ask: %w", err)
	case committed:
		return reliable.FateCommitted, nil
	case age < w.ageLimit:
		return reliable.FateOpen, nil
	}
	return reliable.FateAborted, nil
}
