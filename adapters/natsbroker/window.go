package natsbroker

import (
	"context"
	"io"
	"slices"

	"github.com/nats-io/nats.go"

	"github.com/waybillmq/waybill/reliable"
)

// flight is one attempt between its hand-over and its confirm.
type flight struct {
	id      reliable.ID
	fence   int64
	msg     nats.Msg
	refused error // why the adapter itself refuses it; it then never enters a session

	token      uint64 // names it in its reply subject; grows in the order of hand-over
	overdueAt  int64  // when the confirm timeout ends, on the broker's monotonic clock
	prev, next *flight
}

// flights are the attempts in flight on one session: found by token, and in the order of their hand-over, which is the
// order in which they become overdue. The broker's lock guards them.
type flights struct {
	byToken     map[uint64]*flight
	first, last *flight
}

func (fs *flights) add(f *flight) {
	fs.byToken[f.token] = f
	f.prev = fs.last
	if fs.last != nil {
		fs.last.next = f
	} else {
		fs.first = f
	}
	fs.last = f
}

func (fs *flights) remove(f *flight) {
	delete(fs.byToken, f.token)
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		fs.first = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	} else {
		fs.last = f.prev
	}
	f.prev, f.next = nil, nil
}

// confirm queues what Receive will return of f. The caller holds b.mu and has taken f out of its session, which is what
// makes this the only confirm that f has.
func (b *Broker) confirm(f *flight, outcome reliable.Outcome, err error) {
	b.inFlight--
	b.confirms = append(b.confirms, reliable.Confirm{ID: f.id, Fence: f.fence, Outcome: outcome, Err: err})
	signal(b.ready)
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

// wake lets everybody look again who waits for a slot or a connection; the caller holds b.mu.
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
