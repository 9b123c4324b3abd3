package reliable

import (
	"context"
	"time"
)

// Inspector is the ability of a store to tell what an alarm, and a person, needs.
type Inspector interface {
	// Stats returns counts and ages by topic; topics that have nothing but confirmed envelopes are left out. Its cost grows
	// with what is pending, failed, compensated or discarded, never with what is confirmed.
	Stats(ctx context.Context) ([]TopicStats, error)
	// Lookup returns what is stored of the IDs that exist, in no particular order; at most 1,000 IDs.
	Lookup(ctx context.Context, ids ...ID) ([]Record, error)
}

// TopicStats is what an alarm needs to know of a topic.
type TopicStats struct {
	Topic         string
	Pending       int
	Failed        int
	Compensated   int
	Discarded     int
	OldestPending time.Duration // age since stored, on the store's clock; 0 if none is pending
	OldestFailed  time.Duration // age since stored; 0 if none is failed
	// Withheld is how many envelopes wait for the fate of a business transaction in another database ([Withholder]), and
	// OldestWithheld the age of the oldest. They are not among the pending ones.
	Withheld       int
	OldestWithheld time.Duration
}

// Record is an envelope as it is stored.
type Record struct {
	Attempt
	Status Status
	// DueIn is how long until the envelope may next be claimed; negative if it is overdue. Meaningful while Pending, and
	// only if neither Waiting nor Held; and while Failed, for compensation.
	DueIn time.Duration
	// LeasedBy is the worker whose attempt, or run of a compensation handler, has not been settled yet; empty if there is
	// none. The lease ends after DueIn; it may have run out.
	LeasedBy string
	// Waiting is true while the envelope waits behind the head of its key.
	Waiting bool
	// Behind is, in what Lookup returns of an envelope that is Waiting, the head of its key.
	Behind ID
	// Held is true while the envelope waits behind the hold of its topic.
	Held bool
	// Withheld is true while the envelope is not in the outbox yet, because it is not known whether its business
	// transaction, in another database, commits ([Withholder]); Status is Pending. DueIn is then how long until a witness
	// may be asked.
	Withheld bool
	// LateAck is true if the broker's ack came after compensation had begun, or after the envelope was discarded.
	LateAck bool
	// History is what went wrong and what was decided, oldest first: every decision, and of all other entries the newest
	// [MaxHistory].
	History []HistoryEntry
}

// HistoryEntry is one attempt that did not end well, one run of a compensation handler, or one decision.
type HistoryEntry struct {
	Kind    HistoryKind
	Fence   int64
	Outcome Outcome // of [AttemptEnded]
	Charged bool    // of [AttemptEnded]
	Action  Action  // of [OperatorDecided]
	// By is the worker whose attempt or run it was, or the person who decided.
	By     string
	Reason string
	Ago    time.Duration // how long ago it was recorded, on the store's clock
}

// HistoryKind says what an entry of a history is about.
type HistoryKind uint8

const (
	// AttemptEnded is an attempt that did not end acked.
	AttemptEnded HistoryKind = iota
	// GivenUp is a failure that was decided without an attempt: behind a held topic, or because nobody can tell whether the
	// business transaction committed.
	GivenUp
	// CompensationFailed is a run of a handler that did not succeed.
	CompensationFailed
	// OperatorDecided is a person's decision.
	OperatorDecided
)

// String returns the kind as it appears in tables and logs.
func (k HistoryKind) String() string {
	switch k {
	case AttemptEnded:
		return "attempt"
	case GivenUp:
		return "given up"
	case CompensationFailed:
		return "compensation"
	case OperatorDecided:
		return "decision"
	}
	return "invalid"
}

// MaxHistory is how many history entries are kept for an envelope, besides the decisions.
const MaxHistory = 50

// Purger is the ability of a store to delete what is over.
type Purger interface {
	// Purge deletes up to limit envelopes of a final status (another one is [ErrInvalid]) that were settled at least
	// olderThan ago, with all that belongs to them, in one short transaction. It returns how many it deleted.
	Purge(ctx context.Context, status Status, olderThan time.Duration, limit int) (int, error)
}

// Elector is the ability of a store to have a chore of the fleet done by one process at a time.
type Elector interface {
	// Elect makes worker the one that does chore for the length of lease, or extends its term; it returns false while
	// another worker holds the term. lease 0 resigns.
	Elect(ctx context.Context, chore, worker string, lease time.Duration) (bool, error)
}

// Waker is the ability of a store to tell relays that something was stored, sooner than they would have looked. Wake-ups
// are coalesced and may be lost; nothing depends on them but latency.
type Waker interface {
	// Wake tells all relays on this store; called after commit.
	Wake(ctx context.Context) error
	// AwaitWake returns nil once told, or ctx's error. It may return nil for no reason.
	AwaitWake(ctx context.Context) error
}

// Checker is the ability of a store to say whether it can be used.
type Checker interface {
	// Check returns an error that is [ErrSchema] if tables are missing, too old or too new, and says what to run.
	Check(ctx context.Context) error
}
