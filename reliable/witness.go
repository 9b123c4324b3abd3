package reliable

import "context"

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
