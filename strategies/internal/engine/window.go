package engine

import (
	"context"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// entry is one attempt in memory, from its admission to its settlement.
type entry struct {
	attempt  reliable.Attempt
	admitted time.Time // when it came to this process
	expires  time.Time // end of the lease, measured from before it began
	size     int
	handed   bool // the publisher has, or may have, it
	probe    bool // asks whether a held destination is back
}

// window is what is in memory: it bounds how many attempts are held and how many of them are unconfirmed, and knows which
// IDs they are. A place is reserved before an attempt is leased and freed when its outcome is settled.
type window struct {
	maxHanded, capacity, capacityBytes int

	mu       sync.Mutex
	opened   bool // places may be reserved
	gone     bool // nobody relays: what comes in is left to its lease
	barred   bool // no places for senders: what they store is better left to whoever can send it
	entries  map[reliable.ID]*entry
	queue    fifo
	reserved int // places promised to attempts that are being leased
	handed   int
	bytes    int // of entries and reservations

	queued chan struct{} // the queue, or the room for handing over, grew
	freed  chan struct{} // places were freed; closed and replaced, so that all who wait hear it
}

func newWindow(maxHanded, capacity, capacityBytes int) *window {
	return &window{
		maxHanded: maxHanded, capacity: capacity, capacityBytes: capacityBytes,
		entries: make(map[reliable.ID]*entry),
		queued:  make(chan struct{}, 1),
		freed:   make(chan struct{}),
	}
}

// open lets attempts in, those of senders unless they are barred.
func (w *window) open(barred bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened, w.gone, w.barred = true, false, barred
}

// close lets nothing new in; what has a reservation may still come.
func (w *window) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened = false
	w.wakeLocked()
}

// clear forgets what a drain that timed out left behind: the leases of it run out.
func (w *window) clear() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone = true
	for _, en := range w.entries {
		w.bytes -= en.size
	}
	w.entries = make(map[reliable.ID]*entry)
	w.queue = fifo{}
	w.handed = 0
}

// bar keeps senders out, or lets them in again, and makes all who wait look again.
func (w *window) bar(barred bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.barred = barred
	w.wakeLocked()
}

func (w *window) wakeLocked() {
	close(w.freed)
	w.freed = make(chan struct{})
}

// senders is the share of the window that senders may take; the rest is left to claims, so that a steady load of new
// messages cannot keep the old ones from being sent.
func senders(all int) int { return max(1, all-all/4) }

// tryReserve reserves n places of size bytes together for a sender. What is larger than all of the room gets in alone.
func (w *window) tryReserve(n, size int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tryReserveLocked(n, size)
}

func (w *window) tryReserveLocked(n, size int) bool {
	if !w.opened || w.barred {
		return false
	}
	held := len(w.entries) + w.reserved
	if held > 0 && (held+n > senders(w.capacity) || w.bytes+size > senders(w.capacityBytes)) {
		return false
	}
	w.reserved += n
	w.bytes += size
	return true
}

// tryReserveProbe reserves a place for a probe, whose size is not known yet.
func (w *window) tryReserveProbe() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.opened || len(w.entries)+w.reserved >= w.capacity || w.bytes >= w.capacityBytes {
		return false
	}
	w.reserved++
	return true
}

// reserve waits for room for a sender. It returns false if the window closed, senders were barred, or ctx ended, first.
// A large request does not wait, because smaller ones would overtake it for ever.
func (w *window) reserve(ctx context.Context, n, size int) bool {
	large := n > max(1, w.capacity/4) || size > w.capacityBytes/4
	for {
		w.mu.Lock()
		ok, wait, freed := w.tryReserveLocked(n, size), w.opened && !w.barred && !large, w.freed
		w.mu.Unlock()
		if ok || !wait {
			return ok
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return false
		}
	}
}

// unreserve gives back places that no attempt took.
func (w *window) unreserve(n, size int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reserved -= n
	w.bytes -= size
	w.wakeLocked()
}

// room waits until at least a quarter of the memory is free, so that claims are worth their statement, and reserves what
// is free, at most limit places and half of the bytes, so that senders still find room. It returns 0 if the window closed,
// or ctx ended. limit is asked each time it looks.
func (w *window) room(ctx context.Context, limit func() int) (n, size int) {
	for {
		most := limit()
		w.mu.Lock()
		n = min(w.capacity-len(w.entries)-w.reserved, most)
		size = (w.capacityBytes - w.bytes) / 2
		enough := n >= min(most, max(1, w.capacity/4)) && size >= max(1, w.capacityBytes/8)
		opened, freed := w.opened, w.freed
		if opened && enough {
			w.reserved += n
			w.bytes += size
			w.mu.Unlock()
			return n, size
		}
		w.mu.Unlock()
		if !opened {
			return 0, 0
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return 0, 0
		}
	}
}

// admit turns reservations into entries and queues them. It returns the attempts whose ID is in flight already, under an
// older fence: those must wait for that one's confirm.
func (w *window) admit(
	attempts []reliable.Attempt, leasedAt time.Time, lease time.Duration, probe bool, reservedN, reservedBytes int,
) (again []reliable.Attempt) {
	entries := make([]entry, len(attempts))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reserved -= reservedN
	w.bytes -= reservedBytes
	defer w.wakeLocked() // what the reservation was too large for is free, and a drain may wait for the last one
	if w.gone {
		return nil
	}
	for i := range attempts {
		if _, twice := w.entries[attempts[i].ID]; twice {
			again = append(again, attempts[i])
			continue
		}
		en := &entries[i]
		*en = entry{attempt: attempts[i], admitted: time.Now(), expires: leasedAt.Add(lease), size: attempts[i].Size(), probe: probe}
		w.entries[en.attempt.ID] = en
		w.bytes += en.size
		w.queue.push(en)
	}
	signal(w.queued)
	return again
}

// take removes up to limit entries from the queue, as many as may be handed over now, and counts them as handed.
func (w *window) take(into []*entry, limit int) []*entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(into) < limit && w.handed < w.maxHanded {
		en := w.queue.pop()
		if en == nil {
			break
		}
		en.handed = true
		w.handed++
		into = append(into, en)
	}
	return into
}

// takeUnhanded removes what is queued without counting it as handed over.
func (w *window) takeUnhanded(keep int) []*entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	var taken []*entry
	for w.queue.len() > keep {
		taken = append(taken, w.queue.popBack())
	}
	return taken
}

// untake takes the handing over back: the publisher certainly has none of these.
func (w *window) untake(entries []*entry, requeue bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, en := range entries {
		en.handed = false
	}
	w.handed -= len(entries)
	if requeue {
		w.queue.pushFront(entries)
	}
	signal(w.queued)
}

// answered finds the entries that confirms belong to, and frees their room for handing over. A nil stands for a confirm
// that nobody waits for.
func (w *window) answered(confirms []reliable.Confirm, into []*entry) []*entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range confirms {
		en := w.entries[confirms[i].ID]
		if en == nil || en.attempt.Fence != confirms[i].Fence || !en.handed {
			into = append(into, nil)
			continue
		}
		en.handed = false
		w.handed--
		into = append(into, en)
	}
	signal(w.queued)
	return into
}

// free ends entries whose outcome is settled.
func (w *window) free(entries []*entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, en := range entries {
		if w.entries[en.attempt.ID] == en {
			delete(w.entries, en.attempt.ID)
			w.bytes -= en.size
		}
	}
	w.wakeLocked()
}

// windowCounts is how many attempts are where.
type windowCounts struct {
	queued   int
	handed   int // over to the broker, and unconfirmed
	held     int // in all, those whose outcome is not recorded included
	reserved int // promised places
}

func (w *window) counts() windowCounts {
	w.mu.Lock()
	defer w.mu.Unlock()
	return windowCounts{w.queue.len(), w.handed, len(w.entries), w.reserved}
}

// resting reports whether nothing that is here is on its way to an outcome.
func (w *window) resting() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.handed == 0 && w.queue.len() == 0
}

// changed returns a channel that is closed when places are freed.
func (w *window) changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.freed
}

// fifo is a queue of entries that also takes some back at its front.
type fifo struct {
	items []*entry
	head  int
}

func (q *fifo) len() int { return len(q.items) - q.head }

func (q *fifo) push(en *entry) {
	if q.head > 1024 && q.head*2 > len(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, en)
}

func (q *fifo) pushFront(entries []*entry) {
	if q.head < len(entries) {
		q.items = append(append(make([]*entry, 0, len(entries)+q.len()), entries...), q.items[q.head:]...)
		q.head = 0
		return
	}
	q.head -= len(entries)
	copy(q.items[q.head:], entries)
}

func (q *fifo) popBack() *entry {
	last := len(q.items) - 1
	en := q.items[last]
	q.items[last] = nil
	q.items = q.items[:last]
	return en
}

func (q *fifo) pop() *entry {
	if q.head == len(q.items) {
		return nil
	}
	en := q.items[q.head]
	q.items[q.head] = nil
	q.head++
	return en
}
