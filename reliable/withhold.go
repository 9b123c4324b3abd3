package reliable

import (
	"context"
	"strings"
	"time"
)

// Withholder is the ability of a store to keep envelopes back while it is not known whether the business transaction that
// they belong to, in another database, commits. What is withheld is no part of the outbox: no claim, no relay, no order of
// a key sees it before it is released.
//
// A withheld envelope is named by its ticket, not by its ID: a transaction that is retried withholds the same IDs again,
// and what became of the first one says nothing about the second.
type Withholder interface {
	// Withhold stores ws, all or none. Until patience has passed, on the store's clock, nobody but who withheld them is
	// expected to resolve them; after that [Withholder.Undecided] returns them. An ID that is in the outbox with another
	// topic or payload is [ErrConflict], and nothing is stored. An error that is [ErrUnknown] means that the answer was cut
	// off; for any other, nothing was stored.
	Withhold(ctx context.Context, patience time.Duration, ws ...Withheld) error
	// Undecided returns up to req.Max of what has been withheld of source for longer than its patience, the longest due
	// first, and leaves each to the caller for req.Lease: it is not returned again before that has ended. It never waits
	// for a lock of another caller.
	Undecided(ctx context.Context, source string, req ClaimRequest) ([]Withheld, error)
	// Resolve records what became of the transactions, and says for each resolution, at the same index, what came of it.
	// Facts about a transaction are not fenced: whoever knows one may resolve, whatever lease there is. req leases what is
	// released as [Enqueuer] does.
	//
	// Some may have been recorded although there is an error. Repeating it is safe: what was recorded is Gone then.
	Resolve(ctx context.Context, req EnqueueRequest, rs ...Resolution) ([]Resolved, error)
}

// Withheld is an envelope that is kept back.
type Withheld struct {
	Envelope
	// Ticket names this keeping, and no other: one of its own for each envelope and each transaction, see [NewID].
	Ticket ID
	// Source names the database that the business transaction is in: whose witness may be asked.
	Source string
	// Token is what the [Witness] gave for the business transaction.
	Token Token
	// Age is how long ago it was withheld, on the store's clock. Asked is how often Undecided has returned it, this time
	// included. Both are set by the store.
	Age   time.Duration
	Asked int
}

// Check says what is wrong with what is to be withheld, besides the envelope itself, as an error that is [ErrInvalid].
func (w *Withheld) Check() error {
	switch {
	case w.Ticket == "" || len(w.Ticket) > MaxTicketBytes || strings.ContainsFunc(string(w.Ticket), unprintable):
		return Invalid("Ticket", "must have 1 to %d bytes of printable ASCII", MaxTicketBytes)
	case w.Source == "" || len(w.Source) > MaxSourceBytes || strings.ContainsFunc(w.Source, unprintable):
		return Invalid("Source", "must have 1 to %d bytes of printable ASCII", MaxSourceBytes)
	case len(w.Token) > MaxTokenBytes || strings.ContainsFunc(string(w.Token), unprintable):
		return Invalid("Token", "must have at most %d bytes of printable ASCII", MaxTokenBytes)
	}
	return nil
}

const (
	// MaxTicketBytes is how long a ticket is at most; those of [NewID] have 36.
	MaxTicketBytes = 64
	// MaxSourceBytes is how long the name of a source is at most.
	MaxSourceBytes = 64
)

func unprintable(c rune) bool { return c < ' ' || c > '~' }

// Resolution says what became of the business transaction of something withheld.
type Resolution struct {
	// Withheld is what was withheld, unchanged: a store takes the envelope from here, and does not read it again.
	Withheld
	// Fate decides. [FateCommitted] releases the envelope: it is stored in the outbox as by [Enqueuer], its Delay and
	// Deadline counting from then. [FateAborted] deletes it. [FateOpen] leaves it withheld, and Undecided returns it again
	// after Delay. [FateUnknowable] stores it as [Failed], for people to decide, without a place in the line of its key.
	Fate Fate
	// Again is, with FateOpen, how long until Undecided returns it again.
	Again time.Duration
	// Reason is, with FateUnknowable, why; kept as that of a [Settlement] is.
	Reason string
}

// Resolved is what came of one resolution.
type Resolved struct {
	// Stored is what is in the outbox by now, of an envelope that was released or failed.
	Stored
	// Gone means that the ticket had been resolved before, by somebody else or by a person: nothing was done.
	Gone bool
	// Conflict means that another envelope of this ID, with another topic or payload, had come first: it stands, and this
	// one was dropped.
	Conflict bool
}
