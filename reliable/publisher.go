package reliable

import (
	"context"
	"time"
)

// Publisher hands attempts to a broker. Implementations are safe for concurrent use.
type Publisher interface {
	// Publish hands batch[:n] over in order; each of these yields exactly one [Confirm], whatever happens to the
	// connection. batch[n:] was certainly not sent and yields none; err says why, and is nil only when n is len(batch).
	//
	// What the adapter itself refuses (too large, not encodable) counts as handed over and yields [Rejected]; a failed
	// write counts as handed over and yields [Unknown]. Publish blocks while the adapter's window is full or the broker
	// cannot be reached, but not past ctx. Adapters classify, they never retry. An ID is never handed over again before
	// its last Confirm was received. Payloads and metadata are only read, and only until the Confirm was received; the
	// slice itself is the caller's again once Publish returns.
	//
	// Errors: [ErrClosed] after Close; ctx's error; otherwise why the broker cannot be reached now.
	Publish(ctx context.Context, batch []Attempt) (n int, err error)
}

// ConfirmSource is where the outcomes of a [Publisher] come from. It is pulled, so that there is no channel to own and no
// callback to deadlock in; it has one reader.
type ConfirmSource interface {
	// Receive waits for the first confirm and returns what is there, at most limit of them (limit >= 1), in any order. It
	// returns io.EOF once the publisher was closed and every handed-over attempt has had its Confirm, and ctx's error when
	// ctx ends first. No confirm is lost by an error: what was not returned comes with the next call.
	Receive(ctx context.Context, limit int) ([]Confirm, error)
}

// Scheduler delivers later.
type Scheduler interface {
	// Schedule is durable once it returns nil: each message reaches the handler of its topic no earlier than after, at
	// least once. A delay that cannot be kept exactly is rounded up.
	Schedule(ctx context.Context, after time.Duration, envs ...Envelope) error
}

// Bounded is an optional ability of publishers: how long an attempt can stay without its confirm.
type Bounded interface {
	// MaxConfirmWait is the longest time between an attempt's hand-over and its Confirm, blocked connections included. A
	// lease must be longer. 0 means unbounded (a client that cannot abandon).
	MaxConfirmWait() time.Duration
}

// Limited is an optional ability of publishers and stores: what they can carry.
type Limited interface {
	// Limits returns the sizes above which a message is refused; a zero field means no limit of its own.
	Limits() Limits
}

// Writing is an optional ability of stores: how many Enqueues are worth having under way at a time.
type Writing interface {
	// Writers returns that number, at least 1; 1 for a store with a single writer, where a second one only waits.
	Writers() int
}

// Pinger is an optional ability of broker adapters: to say whether the broker can be used now.
type Pinger interface {
	// Ping returns nil once the broker has answered, and says what is wrong otherwise; it waits no longer than ctx.
	Ping(ctx context.Context) error
}

// Portioned is an optional ability of stores: how many envelopes are best stored together.
type Portioned interface {
	// Portion returns how many of n unkeyed envelopes that are there to be stored one Enqueue had best take, from 1 to n:
	// a store may keep the statements for certain numbers prepared.
	Portion(n int) int
}
