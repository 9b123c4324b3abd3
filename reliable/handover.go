package reliable

import "context"

// Mover is the ability of a store to hand envelopes over to a broker that keeps its messages in the same database, in one
// transaction: the message is there if and only if its envelope is [Confirmed], so the hand-over itself can neither lose
// nor duplicate. Nothing else of the contract changes.
type Mover interface {
	// Database identifies the database that the store's tables are in: two that are not the same have different
	// identities, however they are reached. It is empty if that cannot be told.
	Database(ctx context.Context) (string, error)
	// Move runs insert and records moves as Confirmed, in one short transaction of its own, and says for each at the same
	// index whether it was moved. Moved is what was pending under the newest fence; the rest belongs to another holder by
	// now, or is settled, and insert is not to store it. insert is called with the indexes of what to store, and may be
	// called again, after a rollback, with the same or fewer. It runs statements of its own on tx, and neither commits nor
	// keeps it.
	//
	// An error that is [ErrUnknown] means that the answer to COMMIT was cut off; any other, those of insert included, that
	// nothing was moved.
	Move(ctx context.Context, moves []Move, insert func(ctx context.Context, tx MoveTx, which []int) error) ([]bool, error)
}

// Move names one attempt to a [Mover].
type Move struct {
	ID    ID
	Fence int64
	Topic string
	Key   string
}

// MoveTx is the transaction of a [Mover], on whatever driver its store uses.
type MoveTx interface {
	// Exec runs one statement and returns how many rows it affected.
	Exec(ctx context.Context, statement string, args ...any) (int64, error)
}

// Joiner is the ability of a publisher that keeps its messages in a database to hand over in a store's transactions.
type Joiner interface {
	// Join offers the transactions of the store whose attempts this publisher is given from now on. The publisher finds
	// out by itself whether both are in the same database. Where they are, it hands over by m alone, and the confirms of
	// what was moved are Settled. nil takes the offer back.
	Join(m Mover)
}
