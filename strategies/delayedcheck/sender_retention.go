package delayedcheck

import (
	"context"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// storeTimeout bounds each statement of a chore on the witness's store.
	storeTimeout = 10 * time.Second
	// beyondHorizon is how much longer than the witness's horizon its rows are kept at least: they are told apart by times of
	// one clock, but a question may take a while.
	beyondHorizon = time.Minute
)

// WithMarkerRetention sets how long [Sender.Run] keeps the rows of a witness that writes one for each transaction, a store's
// MarkerWitness. It must exceed the witness's horizon, by a minute, and the delay of the checks; default 7 days, or the
// horizon and a day if that is longer. One process of the fleet deletes them, in small batches.
//
// It must also exceed the horizon of every other witness on the same tables, in the callback service or anywhere else: where
// a committed transaction's row is gone too early, such a witness says that it aborted, and its message is dropped.
func WithMarkerRetention(age time.Duration) SenderOption {
	return func(c *senderConfig) {
		if c.between("WithMarkerRetention", age, time.Minute, 10*365*24*time.Hour) {
			c.retention = age
		}
	}
}

// WithoutMarkerRetention deletes no rows of a witness: somebody else does.
func WithoutMarkerRetention() SenderOption {
	return func(c *senderConfig) { c.retention = keepForEver }
}

// checkRetention decides whether, and when, the witness's rows are deleted.
func (c *senderConfig) checkRetention() {
	remembering, ok := reliable.Ability[reliable.Remembering](c.witness)
	if !ok {
		if c.retention > 0 {
			c.invalid("WithMarkerRetention", "needs a witness that keeps rows, as a store's MarkerWitness does")
		}
		return
	}
	horizon := remembering.Horizon()
	switch {
	case horizon < c.checkDelay:
		c.invalid("WithWitness", "the witness has a horizon of %v, which is less than the delay of the checks, %v: when they come it "+
			"knows nothing any more", horizon, c.checkDelay)
	case c.retention == keepForEver:
		return
	case c.retention == retentionUnset:
		c.retention = max(leastRetention, horizon+24*time.Hour)
	case c.retention < horizon+beyondHorizon:
		c.invalid("WithMarkerRetention", "%v must exceed the witness's horizon of %v by %v, or a committed transaction could be taken "+
			"for an aborted one", c.retention, horizon, beyondHorizon)
	}
	c.remembering = remembering
}

// forget deletes the rows of transactions that nobody asks about any more.
func (s *Sender) forget(ctx context.Context) error {
	return s.chores.purge(ctx, "retention of markers", func(ctx context.Context, limit int) (int, error) {
		n, err := s.cfg.remembering.Forget(ctx, s.cfg.retention, limit)
		s.counts.markersPurged.Add(int64(max(n, 0)))
		return n, err
	})
}
