package reliable

import (
	"context"
	"time"
)

// Compensator is the ability of a store to hand failed envelopes to compensation, one process at a time for each.
type Compensator interface {
	// ClaimFailed leases up to req.Max failed envelopes of the topics given whose compensation is due or whose lease ran
	// out, oldest first. From the first claim on, compensation has begun: a late ack is recorded, not applied.
	ClaimFailed(ctx context.Context, req ClaimRequest, topics ...string) ([]Record, error)
	// SettleCompensation records what came of one claimed envelope. It is fenced: a stale holder's is [Stale]. Done makes
	// the envelope [Compensated] and lets its key's followers go on; otherwise it is due again after Delay.
	SettleCompensation(ctx context.Context, c Compensation) (SettleResult, error)
}

// CompensationSettler is the ability of a [Tx] to record a handler's success in the very transaction in which the handler
// wrote: the effect and the status commit together, or neither does. A [Tx] of a [Compensator] that is a [Transactor] has
// it.
type CompensationSettler interface {
	// SettleCompensation is that of [Compensator], inside the transaction. What is not [Applied] means that somebody else
	// has the envelope now: the transaction must be rolled back.
	SettleCompensation(ctx context.Context, c Compensation) (SettleResult, error)
}

// Compensation is the outcome of one run of a compensation handler.
type Compensation struct {
	ID     ID
	Fence  int64
	Topic  string
	Key    string
	Done   bool
	Delay  time.Duration // without Done: how long until the next run
	Reason string        // without Done: why
}
