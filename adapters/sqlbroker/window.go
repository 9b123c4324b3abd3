package sqlbroker

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// flight is one attempt between its hand-over and its confirm.
type flight struct {
	id         reliable.ID
	fence      int64
	topic, key string
	payload    []byte
	metadata   string
	size       int
	alone      bool
	overdue    time.Time // when the confirm timeout ends
	refused    error     // why the adapter itself refuses it; it then goes to no writer
}

// confirm queues what Receive will return of f; the caller holds b.mu.
func (b *Broker) confirm(f *flight, outcome reliable.Outcome, err error, settled bool) {
	b.inFlight--
	b.confirms = append(b.confirms, reliable.Confirm{ID: f.id, Fence: f.fence, Outcome: outcome, Err: err, Settled: settled})
	signal(b.ready)
}

// confirmAll confirms flights that came to the same.
func (b *Broker) confirmAll(fs []*flight, outcome reliable.Outcome, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range fs {
		b.confirm(f, outcome, err, false)
	}
}

// Receive implements [reliable.ConfirmSource]. What it returns leaves the window.
func (b *Broker) Receive(ctx context.Context, limit int) ([]reliable.Confirm, error) {
	if limit < 1 {
		return nil, reliable.Invalid("limit", "is %d, must be at least 1", limit)
	}
	for {
		b.mu.Lock()
		if n := min(limit, len(b.confirms)); n > 0 {
			taken := slices.Clone(b.confirms[:n])
			b.confirms = slices.Delete(b.confirms, 0, n)
			b.free += n
			b.wake()
			b.mu.Unlock()
			return taken, nil
		}
		over := b.closed && b.inFlight == 0
		b.mu.Unlock()
		if over {
			return nil, io.EOF
		}
		select {
		case <-b.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// wake lets everybody look again who waits for a slot or the database; the caller holds b.mu.
func (b *Broker) wake() {
	if b.waiting > 0 {
		close(b.changed)
		b.changed = make(chan struct{})
		b.waiting = 0
	}
}

// signal leaves a note in a channel of capacity 1.
func signal(note chan struct{}) {
	select {
	case note <- struct{}{}:
	default:
	}
}
