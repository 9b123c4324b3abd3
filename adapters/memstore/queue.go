package memstore

import "container/heap"

// queue is a set of rows ordered by less, each of which can be taken out of the middle.
type queue struct{ rows rowHeap }

func newQueue(less func(a, b *row) bool) *queue { return &queue{rowHeap{less: less}} }

// byDue orders by due time, then by the order of storing.
func byDue(a, b *row) bool {
	if a.due.Equal(b.due) {
		return a.seq < b.seq
	}
	return a.due.Before(b.due)
}

// bySeq orders by the order of storing.
func bySeq(a, b *row) bool { return a.seq < b.seq }

// byTurn orders those of one key.
func byTurn(a, b *row) bool { return a.turn < b.turn }

// bySettled orders by when they were settled.
func bySettled(a, b *row) bool {
	if a.settledAt.Equal(b.settledAt) {
		return a.seq < b.seq
	}
	return a.settledAt.Before(b.settledAt)
}

func (q *queue) len() int { return len(q.rows.rows) }

// all returns the rows in no particular order.
func (q *queue) all() []*row { return q.rows.rows }

func (q *queue) first() *row {
	if q.len() == 0 {
		return nil
	}
	return q.rows.rows[0]
}

func (q *queue) push(r *row) {
	r.in = q
	heap.Push(&q.rows, r)
}

func (q *queue) remove(r *row) {
	heap.Remove(&q.rows, r.index)
	r.in = nil
}

// fix restores the order after r's due time has changed.
func (q *queue) fix(r *row) { heap.Fix(&q.rows, r.index) }

type rowHeap struct {
	rows []*row
	less func(a, b *row) bool
}

func (h *rowHeap) Len() int           { return len(h.rows) }
func (h *rowHeap) Less(i, j int) bool { return h.less(h.rows[i], h.rows[j]) }

func (h *rowHeap) Swap(i, j int) {
	h.rows[i], h.rows[j] = h.rows[j], h.rows[i]
	h.rows[i].index, h.rows[j].index = i, j
}

func (h *rowHeap) Push(x any) {
	r := x.(*row) //nolint:forcetypeassert // only queue calls it
	r.index = len(h.rows)
	h.rows = append(h.rows, r)
}

func (h *rowHeap) Pop() any {
	last := len(h.rows) - 1
	r := h.rows[last]
	h.rows[last] = nil
	h.rows = h.rows[:last]
	return r
}
