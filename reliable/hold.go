package reliable

import (
	"context"
	"time"
)

// Holder is the ability of a store to hold a destination for the whole fleet: while a topic is held, its envelopes wait
// outside the range that claims look at, and one of them at a time is claimed as a probe.
type Holder interface {
	// Hold opens a hold on topic, or counts one more refusal on the one there is, and sets its next probe to come after
	// delay. It returns the hold as it now is. The engine calls it after refusals in a row without a success, and after
	// each refused probe.
	Hold(ctx context.Context, topic string, delay time.Duration) (Hold, error)
	// Holds returns all holds, of the whole fleet.
	Holds(ctx context.Context) ([]Hold, error)
	// Probe claims one envelope that waits behind the hold of topic, if its probe is due, and pushes the next probe to the
	// end of the lease; so one process probes at a time. Of the envelopes at the front it takes one with the fewest
	// failures, so that a single bad envelope cannot keep a repaired destination held. Empty if there is nothing to probe,
	// the probe is not due, or the topic is not held.
	Probe(ctx context.Context, topic string, req ClaimRequest) ([]Attempt, error)
	// Unhold makes up to limit of the topic's waiting envelopes due at once, oldest first, and removes the hold when none
	// is left; left says whether some are. An envelope parked at the same time is never left behind without a hold.
	Unhold(ctx context.Context, topic string, limit int) (left bool, err error)
	// FailHeld moves those of the topic's waiting envelopes that req picks to [Failed], and lets their keys go on if it says
	// so, all at once. It returns how many it moved: 0 if none has waited long enough, or the topic is not held.
	FailHeld(ctx context.Context, topic string, req FailHeldRequest) (int, error)
}

// FailHeldRequest says which of the envelopes behind a hold are given up, and how.
type FailHeldRequest struct {
	// Waited is for how long at least an envelope has waited behind the hold, or been failing, on the store's clock; 0
	// means every one that waits.
	Waited time.Duration
	// Reason says why, for people; it is kept as that of a [Settlement] is.
	Reason string
	// Limit is how many envelopes at most, oldest first; at least 1.
	Limit int
	// Release lets the envelopes that wait behind the keys of these go on, as [Settlement].Release does for one. Without
	// it they wait until the envelope is confirmed, compensated or discarded.
	Release bool
}

// Hold is a destination that is held.
type Hold struct {
	Topic string
	// Refusals is how many definite refusals were counted since the hold was opened, the opening one included.
	Refusals int
	// HeldFor is how long ago the hold was opened, on the store's clock.
	HeldFor time.Duration
	// NextProbe is how long until the next probe is due; 0 if it is due now.
	NextProbe time.Duration
}
