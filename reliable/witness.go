package reliable

import (
	"context"
	"time"
)

// Witness says what became of a business transaction, to somebody who was not part of it: whether it committed, aborted,
// is still open, or that this cannot be known. Implementations are safe for concurrent use.
type Witness interface {
	// Mark is called inside tx, the business transaction, after its writes and before anything that speaks of it leaves the
	// process. Its token goes with whatever does. tx is what the database's adapter takes for a transaction.
	Mark(ctx context.Context, tx any) (Token, error)
	// Ask returns the fate of the transaction that was marked with token and belongs to the message id. It never waits for
	// the transaction: one that is open is [FateOpen].
	//
	// [FateAborted] is an answer for ever: no commit can follow it. What the witness cannot tell for certain is
	// [FateUnknowable], a token that is not its own too. An error means that it could not be asked now, nothing more.
	Ask(ctx context.Context, id ID, token Token) (Fate, error)
}

// Remembering is the ability of a witness that keeps a row for each transaction, and tells for a time what became of it.
// Whatever else its store can do is found behind its Unwrap.
type Remembering interface {
	// Horizon is how long after its mark a transaction may be asked about.
	Horizon() time.Duration
	// Forget deletes up to limit rows of transactions that were marked at least olderThan ago, on the database's clock, in
	// one short transaction, and returns how many. Not above the horizon is [ErrInvalid]: a committed transaction would
	// be taken for an aborted one. It must be above that of every other witness on the same rows too.
	Forget(ctx context.Context, olderThan time.Duration, limit int) (int, error)
}

// Token names a business transaction to the witness that marked it. It is printable ASCII, at most [MaxTokenBytes] long,
// and empty where the witness needs none.
type Token string

// MaxTokenBytes is how long a token is at most.
const MaxTokenBytes = 200

// Fate is what became of a business transaction.
type Fate uint8

const (
	// FateUnknowable is the zero value: nobody can tell any more.
	FateUnknowable Fate = iota
	// FateOpen means that it may still commit.
	FateOpen
	// FateCommitted means that it committed.
	FateCommitted
	// FateAborted means that it did not commit and never will.
	FateAborted
)

// String returns the fate as it appears in logs and tables.
func (f Fate) String() string {
	switch f {
	case FateUnknowable:
		return "unknowable"
	case FateOpen:
		return "open"
	case FateCommitted:
		return "committed"
	case FateAborted:
		return "aborted"
	}
	return "invalid"
}
