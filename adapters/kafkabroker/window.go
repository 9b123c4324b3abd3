package kafkabroker

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillmq/waybill/reliable"
)

// window is what was handed over and not received back. Its fields belong to the Broker's mu, but for ready.
type window struct {
	free     int // slots
	inFlight int // without a verdict yet
	lanes    map[string]*lane
	confirms []reliable.Confirm // not received yet
	changed  chan struct{}      // closed when slots are freed or all is over; nil while nobody waits
	empty    chan struct{}      // closed when nothing is in flight; nil while nobody waits
	ready    chan struct{}      // capacity 1: confirms are there, or all is over
}

func newWindow(slots int) window {
	return window{free: slots, lanes: make(map[string]*lane), ready: make(chan struct{}, 1)}
}

// lane is what is in flight to one topic: it tells which record cannot have shared its batch.
type lane struct {
	inFlight int
	shared   bool // there was company since it was last empty
}

// flight is one attempt on its way.
type flight struct {
	record  kgo.Record
	b       *Broker
	id      reliable.ID
	fence   int64
	alone   bool
	through *link
	lane    *lane
	refused error // why it is not sent
}

// begin makes a flight of an attempt. The payload is shared until the confirm was received.
func (f *flight) begin(b *Broker, through *link, a *reliable.Attempt) {
	f.b, f.through, f.id, f.fence, f.alone = b, through, a.ID, a.Fence, a.Alone
	f.refused = b.fill(&f.record, a)
}

// reserve takes up to n slots of the window, at least one.
func (b *Broker) reserve(ctx context.Context, n int) (int, error) {
	for {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return 0, reliable.ErrClosed
		}
		if w := &b.window; w.free > 0 {
			n = min(n, w.free)
			w.free -= n
			b.mu.Unlock()
			return n, nil
		}
		changed := b.window.await()
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// depart counts flights as handed over, and answers for those that are not sent.
func (b *Broker) depart(flights []flight) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := &b.window
	for i := range flights {
		f := &flights[i]
		if f.refused != nil {
			w.confirm(f.id, f.fence, reliable.Rejected, fmt.Errorf("kafkabroker: %w", f.refused))
			if f.alone {
				<-b.aloneSlot
			}
			continue
		}
		w.inFlight++
		if f.alone {
			continue
		}
		l := w.lanes[f.record.Topic]
		if l == nil {
			l = &lane{}
			w.lanes[f.record.Topic] = l
		}
		l.inFlight++
		l.shared = l.shared || l.inFlight > 1
		f.lane = l
	}
}

// land is franz-go's word about a flight, which it says once, for each flight one after the other.
func (f *flight) land(record *kgo.Record, err error) {
	b := f.b
	b.mu.Lock()
	defer b.mu.Unlock()
	w := &b.window
	outcome, why := verdict(err, f.alone || !f.lane.shared)
	if why != nil {
		why = fmt.Errorf("kafkabroker: topic %q: %w", record.Topic, why)
	}
	if outcome == reliable.Unknown || errors.Is(err, kerr.ClusterAuthorizationFailed) {
		f.through.sound = false // perhaps: the next hand-over asks first
	}
	if f.alone {
		<-b.aloneSlot
	} else if f.lane.inFlight--; f.lane.inFlight == 0 {
		delete(w.lanes, record.Topic)
	}
	w.inFlight--
	w.confirm(f.id, f.fence, outcome, why)
	if w.inFlight == 0 && w.empty != nil {
		close(w.empty)
		w.empty = nil
	}
}

func (w *window) confirm(id reliable.ID, fence int64, outcome reliable.Outcome, why error) {
	w.confirms = append(w.confirms, reliable.Confirm{ID: id, Fence: fence, Outcome: outcome, Err: why})
	if len(w.confirms) == 1 {
		w.announce()
	}
}

// announce wakes Receive.
func (w *window) announce() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// await returns what is closed when a slot is freed or all is over.
func (w *window) await() <-chan struct{} {
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	return w.changed
}

// wake tells those who wait.
func (w *window) wake() {
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// whenEmpty returns what is closed once nothing is in flight.
func (w *window) whenEmpty() <-chan struct{} {
	if w.inFlight == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if w.empty == nil {
		w.empty = make(chan struct{})
	}
	return w.empty
}

// Receive implements [reliable.ConfirmSource].
func (b *Broker) Receive(ctx context.Context, limit int) ([]reliable.Confirm, error) {
	if limit < 1 {
		return nil, fmt.Errorf("kafkabroker: receive: %w", reliable.Invalid("limit", "is %d, must be at least 1", limit))
	}
	for {
		confirms, over := b.take(limit)
		switch {
		case len(confirms) > 0:
			return confirms, nil
		case over:
			b.window.announce() // for whoever asks again
			return nil, io.EOF
		}
		select {
		case <-b.window.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take returns confirms and frees their slots; over is true when none will come any more.
func (b *Broker) take(limit int) (confirms []reliable.Confirm, over bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := &b.window
	if len(w.confirms) == 0 {
		return nil, b.over()
	}
	if len(w.confirms) <= limit {
		confirms, w.confirms = w.confirms, make([]reliable.Confirm, 0, len(w.confirms))
	} else {
		confirms = w.confirms[:limit:limit]
		w.confirms = w.confirms[limit:]
		w.announce()
	}
	w.free += len(confirms)
	w.wake()
	return confirms, false
}

// over says whether nothing can be handed over or land any more. It needs mu.
func (b *Broker) over() bool {
	if !b.closed || b.window.inFlight > 0 {
		return false
	}
	select {
	case <-b.grounded:
		return true
	default:
		return false
	}
}
