package tagging

import (
	"context"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// receiptPoll is how often a receipt asks the store about messages that another process may have settled.
const receiptPoll = time.Second

// Receipt stands for messages that were stored; a caller may wait on it for their outcome, or drop it. It is safe for
// concurrent use.
type Receipt struct {
	receipts *receipts
	places   []place // in the order of publishing
	one      [1]place

	mu   sync.Mutex
	left int
	done chan struct{} // nil until somebody waits
}

// place is one message of one receipt, in the list of all that wait for the same ID.
type place struct {
	receipt *Receipt
	id      reliable.ID
	settled bool // with status: guarded by the receipt's mutex
	status  reliable.Status
	listed  bool // with next: guarded by the mutex of receipts
	next    *place
}

// IDs returns the messages' IDs, in the order in which they were published.
func (r *Receipt) IDs() []reliable.ID {
	ids := make([]reliable.ID, len(r.places))
	for i := range r.places {
		ids[i] = r.places[i].id
	}
	return ids
}

// Wait waits until each message is confirmed, failed, compensated or discarded, and returns their statuses in the order of
// [Receipt.IDs]. The outcome is recorded in the store when Wait returns it. If ctx ends first it returns ctx's error and
// what is known; the messages are sent all the same.
//
// Outcomes that this process records are seen at once, those of other processes within a second, if the store is a
// [reliable.Inspector].
func (r *Receipt) Wait(ctx context.Context) ([]reliable.Status, error) {
	done := r.settled()
	if done == nil {
		return r.result(), nil
	}
	listed := r.receipts.list(r)
	if relay := r.receipts.relay; relay != nil {
		relay.Await()
	}
	if listed {
		defer r.receipts.unlist(r)
		r.lookUp(ctx) // they may have been settled before anybody listened
	}
	ticker := time.NewTicker(receiptPoll)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return r.result(), nil
		case <-ctx.Done():
			return r.result(), ctx.Err()
		case <-ticker.C:
			r.lookUp(ctx)
		}
	}
}

// settled returns what is closed once everything is settled, nil if it is.
func (r *Receipt) settled() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left == 0 {
		return nil
	}
	if r.done == nil {
		r.done = make(chan struct{})
	}
	return r.done
}

func (r *Receipt) isAwaited() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done != nil
}

func (r *Receipt) result() []reliable.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	statuses := make([]reliable.Status, len(r.places))
	for i := range r.places {
		statuses[i] = r.places[i].status
	}
	return statuses
}

// lookUp asks the store for what is not settled here. That it does not answer is no news: the next tick asks again.
func (r *Receipt) lookUp(ctx context.Context) {
	if r.receipts.inspector == nil {
		return
	}
	r.mu.Lock()
	var open []reliable.ID
	for i := range r.places {
		if !r.places[i].settled && len(open) < lookUpBatch {
			open = append(open, r.places[i].id)
		}
	}
	r.mu.Unlock()
	timed, cancel := context.WithTimeout(ctx, r.receipts.timeout)
	defer cancel()
	records, err := r.receipts.inspector.Lookup(timed, open...)
	if err != nil {
		return
	}
	for i := range records {
		if records[i].Status != reliable.Pending {
			r.receipts.resolve(records[i].ID, records[i].Status)
		}
	}
}

// stored notes what came of storing the i-th message. One that was leased to this process is listed at once, because its
// outcome is recorded here; the others only while somebody waits.
func (r *Receipt) stored(i int, s *reliable.Stored) {
	switch {
	case s.Status != reliable.Pending:
		r.places[i].settle(s.Status) // an ID that was stored, and settled, before
	case s.Leased:
		r.receipts.listLeased(&r.places[i])
	}
}

func (p *place) settle(status reliable.Status) {
	r := p.receipt
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.settled {
		return
	}
	p.settled, p.status = true, status
	if r.left--; r.left == 0 && r.done != nil {
		close(r.done)
	}
}

// lookUpBatch is what an Inspector is asked for at once.
const lookUpBatch = 1000

// receipts knows which messages somebody may be waiting for.
type receipts struct {
	inspector reliable.Inspector
	relay     relay         // nil in a process that only stores
	timeout   time.Duration // of one look-up

	mu   sync.Mutex
	byID map[reliable.ID]*place
}

func newReceipts(store reliable.Store, relay relay, timeout time.Duration) *receipts {
	inspector, _ := reliable.Ability[reliable.Inspector](store)
	return &receipts{inspector: inspector, relay: relay, timeout: timeout, byID: make(map[reliable.ID]*place)}
}

// open makes r the receipt of envelopes.
func (rs *receipts) open(r *Receipt, envs []reliable.Envelope) {
	r.receipts, r.left = rs, len(envs)
	if r.places = r.one[:]; len(envs) != 1 {
		r.places = make([]place, len(envs))
	}
	for i := range envs {
		r.places[i] = place{receipt: r, id: envs[i].ID}
	}
}

func (rs *receipts) listLeased(p *place) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.listLocked(p)
}

func (rs *receipts) listLocked(p *place) {
	if !p.listed {
		p.listed, p.next = true, rs.byID[p.id]
		rs.byID[p.id] = p
	}
}

// list lists all messages of a receipt and reports whether some were not.
func (rs *receipts) list(r *Receipt) (added bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for i := range r.places {
		added = added || !r.places[i].listed
		rs.listLocked(&r.places[i])
	}
	return added
}

// awaited reports whether somebody waits for what becomes of a message.
func (rs *receipts) awaited(id reliable.ID) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for p := rs.byID[id]; p != nil; p = p.next {
		if p.receipt.isAwaited() {
			return true
		}
	}
	return false
}

// unlist takes a receipt out of the lists for which nobody waits any more.
func (rs *receipts) unlist(r *Receipt) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for i := range r.places {
		if p := &r.places[i]; p.listed {
			rs.removeLocked(p)
		}
	}
}

func (rs *receipts) removeLocked(p *place) {
	var kept *place
	for other := rs.byID[p.id]; other != nil; {
		next := other.next
		if other != p {
			other.next, kept = kept, other
		}
		other = next
	}
	p.listed, p.next = false, nil
	if kept == nil {
		delete(rs.byID, p.id)
	} else {
		rs.byID[p.id] = kept
	}
}

// forget takes a message out of the lists whose outcome another process may record: who waits for it asks the store.
func (rs *receipts) forget(id reliable.ID) { rs.take(id) }

// resolve tells all who wait for a message what became of it.
func (rs *receipts) resolve(id reliable.ID, status reliable.Status) {
	first, others := rs.take(id)
	if first != nil {
		first.settle(status)
	}
	for _, p := range others {
		p.settle(status)
	}
}

// take empties the list of an ID, which seldom has more than one place.
func (rs *receipts) take(id reliable.ID) (first *place, others []*place) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for p := rs.byID[id]; p != nil; {
		if first == nil {
			first = p
		} else {
			others = append(others, p)
		}
		next := p.next
		p.listed, p.next = false, nil
		p = next
	}
	delete(rs.byID, id)
	return first, others
}
