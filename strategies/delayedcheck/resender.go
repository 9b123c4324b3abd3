package delayedcheck

import "context"

// Resender has a message sent again, if its business transaction committed. A [Sender] is one, in the producer; the client
// of an RPC is one, in the callback service. Implementations are safe for concurrent use.
type Resender interface {
	// Resend asks the witness of the check's transaction and, where it committed, sends the message again under its ID. It
	// returns [Resent] only after the broker confirmed the copy. An error means that there is no answer: whether a copy was
	// sent is unknown, and asking again is safe.
	Resend(ctx context.Context, check Check) (Answer, error)
}

// Answer is what a [Resender] says about a check.
type Answer uint8

const (
	// Unknowable is the zero value: nobody can tell any more whether the transaction committed. Nothing was sent.
	Unknowable Answer = iota
	// Resent means that the transaction committed, and that the broker confirmed another copy of the message.
	Resent
	// Aborted means that the transaction did not commit and never will. Nothing was sent.
	Aborted
	// StillOpen means that the transaction may still commit: ask again later. Nothing was sent.
	StillOpen
)

// String returns the answer as it appears in logs and on the wire.
func (a Answer) String() string {
	switch a {
	case Unknowable:
		return "unknowable"
	case Resent:
		return "resent"
	case Aborted:
		return "aborted"
	case StillOpen:
		return "open"
	}
	return "invalid"
}
