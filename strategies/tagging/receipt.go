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
	ids      []reliable.ID
	receipts *receipts
	places   []place // one for each distinct ID
	one      [1]place

	mu   sync.Mutex
	left int
	done chan struct{}
}

// place is one message of one receipt, in the list of all that wait for the same ID.
type place struct {
	receipt *Receipt
	id      reliable.ID
	settled bool
	status  reliable.Status
	next    *place
}

// IDs returns the messages' IDs, in the order in which they were published.
func (r *Receipt) IDs() []reliable.ID { return append([]reliable.ID(nil), r.ids...) }

// Wait waits until each message is confirmed, failed, compensated or discarded, and returns their statuses in the order of
// [Receipt.IDs]. The outcome is recorded in the store when Wait returns it. If ctx ends first it returns ctx's error and
// what is known; the messages are sent all the same.
//
// Outcomes that this process records are seen at once, those of other processes within a second, if the store is a
// [reliable.Inspector].
func (r *Receipt) Wait(ctx context.Context) ([]reliable.Status, error) {
	ticker := time.NewTicker(receiptPoll)
	defer ticker.Stop()
	for {
		select {
		case <-r.done:
			return r.result(), nil
		case <-ctx.Done():
			return r.result(), ctx.Err()
		case <-ticker.C:
			r.lookUp(ctx)
		}
	}
}

func (r *Receipt) result() []reliable.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := make(map[reliable.ID]reliable.Status, len(r.places))
	for i := range r.places {
		known[r.places[i].id] = r.places[i].status
	}
	statuses := make([]reliable.Status, len(r.ids))
	for i, id := range r.ids {
		statuses[i] = known[id]
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
	records, err := r.receipts.inspector.Lookup(ctx, open...)
	if err != nil {
		return
	}
	for i := range records {
		if records[i].Status == reliable.Pending {
			continue
		}
		r.receipts.resolve(records[i].ID, records[i].Status)
		for j := range r.places { // those beyond maxReceipts are in no list
			if r.places[j].id == records[i].ID {
				r.places[j].settle(records[i].Status)
			}
		}
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
	if r.left--; r.left == 0 {
		close(r.done)
	}
}

// close takes a receipt out of the books that nobody will wait for.
func (r *Receipt) close() { r.receipts.drop(r) }

const (
	// maxReceipts bounds how many messages are remembered for their receipts. Beyond it a receipt still works: it learns
	// the outcome by asking the store.
	maxReceipts = 100_000
	// lookUpBatch is what an Inspector is asked for at once.
	lookUpBatch = 1000
)

// receipts knows which messages somebody may be waiting for.
type receipts struct {
	inspector reliable.Inspector

	mu   sync.Mutex
	byID map[reliable.ID]*place
}

func newReceipts(store reliable.Store) *receipts {
	inspector, _ := reliable.Ability[reliable.Inspector](store)
	return &receipts{inspector: inspector, byID: make(map[reliable.ID]*place)}
}

func (rs *receipts) open(envs []reliable.Envelope) *Receipt {
	r := &Receipt{ids: idsOf(envs), receipts: rs, done: make(chan struct{})}
	r.places = r.one[:0]
	distinct := make(map[reliable.ID]bool)
	for _, id := range r.ids {
		if len(r.ids) > 1 {
			if distinct[id] {
				continue
			}
			distinct[id] = true
		}
		r.places = append(r.places, place{receipt: r, id: id})
	}
	if r.left = len(r.places); r.left == 0 {
		close(r.done)
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for i := range r.places {
		if len(rs.byID) >= maxReceipts {
			break
		}
		p := &r.places[i]
		p.next = rs.byID[p.id]
		rs.byID[p.id] = p
	}
	return r
}

func (rs *receipts) drop(r *Receipt) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for i := range r.places {
		id := r.places[i].id
		var kept *place
		for p := rs.byID[id]; p != nil; {
			next := p.next
			if p.receipt != r {
				p.next, kept = kept, p
			}
			p = next
		}
		if kept == nil {
			delete(rs.byID, id)
		} else {
			rs.byID[id] = kept
		}
	}
}

// resolve tells all who wait for a message what became of it.
func (rs *receipts) resolve(id reliable.ID, status reliable.Status) {
	rs.mu.Lock()
	waiting := rs.byID[id]
	delete(rs.byID, id)
	rs.mu.Unlock()
	for p := waiting; p != nil; p = p.next {
		p.settle(status)
	}
}
