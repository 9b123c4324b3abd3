package reliable

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"
)

// Processed is a consumer's word that it has worked on a message: the processed confirm, as the callback service keeps it.
type Processed struct {
	ID ID
	// Group is the consumer group that has processed it; at most [MaxGroupBytes], compared byte by byte.
	Group string
}

// MaxGroupBytes is how long the name of a consumer group is at most.
const MaxGroupBytes = 128

// Confirmations is the ability of a store to keep processed confirms, by message and consumer group.
type Confirmations interface {
	// StoreProcessed stores confirms, all or none. Those that are stored already are skipped: they keep their time. At most
	// [MaxProcessed] at once.
	StoreProcessed(ctx context.Context, confirms ...Processed) error
	// ProcessedBy returns which groups have processed each of the ids; an id that nobody has is absent. It sees everything
	// whose StoreProcessed returned before the call, through whatever instance of the store. At most [MaxProcessed] ids.
	ProcessedBy(ctx context.Context, ids ...ID) (map[ID][]string, error)
	// PurgeProcessed deletes up to limit confirms that were stored at least olderThan ago, on the store's clock, in one
	// short transaction, and returns how many.
	PurgeProcessed(ctx context.Context, olderThan time.Duration, limit int) (int, error)
}

// MaxProcessed is how many confirms, or ids, one call of [Confirmations] takes.
const MaxProcessed = 1000

// Marker is the ability of a store to be a witness by a row of its own: Mark inserts it in the business transaction, Ask
// finds it, or puts a tombstone in its place. Exact everywhere, for one narrow row.
type Marker interface {
	// MarkerWitness returns the witness, a [Remembering] one. For as long as horizon after the mark an absent marker means
	// [FateAborted]; after that it may have been purged, and is [FateUnknowable].
	MarkerWitness(horizon time.Duration) (Witness, error)
	// PurgeMarkers deletes up to limit markers and tombstones that are at least olderThan old, on the store's clock, in one
	// short transaction, and returns how many. olderThan must be longer than the horizon of every witness.
	PurgeMarkers(ctx context.Context, olderThan time.Duration, limit int) (int, error)
}

// Inbox is the ability of a store to remember, in a consumer's own transaction, which messages it has processed: behind
// it, a message has its effect once however often it is delivered.
type Inbox interface {
	// Receive records in tx that group processes id; false means that it was recorded before, by a transaction that
	// committed: the caller does nothing and acks. While another transaction is about to record the same, it waits for
	// the end of that one, within ctx. tx is what [Transactor] binds to.
	Receive(ctx context.Context, tx any, group string, id ID) (first bool, err error)
	// PurgeInbox deletes up to limit entries recorded at least olderThan ago, and returns how many. An entry must outlive
	// every delivery of its message: without it the next one has its effect again.
	PurgeInbox(ctx context.Context, olderThan time.Duration, limit int) (int, error)
}

// Check says what is wrong with a confirm, as an error that is [ErrInvalid].
func (p *Processed) Check() error {
	switch {
	case p.ID == "" || len(p.ID) > MaxIDBytes:
		return Invalid("ID", "has %d bytes, must have 1 to %d", len(p.ID), MaxIDBytes)
	case p.Group == "" || len(p.Group) > MaxGroupBytes:
		return Invalid("Group", "has %d bytes, must have 1 to %d", len(p.Group), MaxGroupBytes)
	case !utf8.ValidString(string(p.ID)) || !utf8.ValidString(p.Group):
		return Invalid("ID and Group", "must be valid UTF-8")
	case strings.ContainsRune(string(p.ID), 0) || strings.ContainsRune(p.Group, 0):
		return Invalid("ID and Group", "must hold no NUL")
	}
	return nil
}
