package memstore

import "time"

// laneKey names the envelopes that are delivered one after the other.
type laneKey struct{ topic, key string }

// lane is the envelopes of one topic and key: the head stands where unkeyed ones stand, the others wait for it.
type lane struct {
	head    *row
	waiting *queue
}

// enter puts a row that was just committed where it belongs.
func (s *Store) enter(r *row) {
	s.rows[r.env.ID] = r
	s.queue(r)
}

// queue puts a pending row where unkeyed ones stand, or into the line of its key.
func (s *Store) queue(r *row) {
	if r.env.Key == "" {
		r.moveTo(s.ready)
		return
	}
	at := laneKey{r.env.Topic, r.env.Key}
	if l := s.lanes[at]; l != nil {
		r.moveTo(l.waiting)
		return
	}
	s.lanes[at] = &lane{head: r, waiting: newQueue(byTurn)}
	r.moveTo(s.ready)
}

// release lets the next envelope of r's key go, if r is what it waits for.
func (s *Store) release(r *row, now time.Time) {
	if r.env.Key == "" {
		return
	}
	at := laneKey{r.env.Topic, r.env.Key}
	l := s.lanes[at]
	if l == nil || l.head != r {
		return
	}
	next := l.waiting.first()
	if next == nil {
		delete(s.lanes, at)
		return
	}
	l.head = next
	if next.due.Before(now) {
		next.due = now
	}
	next.moveTo(s.ready)
}

// waits reports whether r waits behind the head of its key.
func (s *Store) waits(r *row) bool {
	if r.env.Key == "" || r.in == nil {
		return false
	}
	l := s.lanes[laneKey{r.env.Topic, r.env.Key}]
	return l != nil && r.in == l.waiting
}
