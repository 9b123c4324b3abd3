package sqlstore

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/waybillmq/waybill/reliable"
)

// Decide records a person's decision about envelopes; see [reliable.Operator]. It locks their rows as a settlement
// does, so that whoever comes second, a settlement, a handler or another person, finds what the first has left.
func (s *Store) Decide(ctx context.Context, d reliable.Decision) ([]reliable.DecisionResult, error) {
	if err := d.Check(); err != nil {
		return nil, s.fail("decide", err)
	}
	if len(d.IDs) == 0 {
		return nil, nil
	}
	d.Who, d.Why = cleanReason(d.Who), cleanReason(d.Why)
	var results []reliable.DecisionResult
	err := s.write(ctx, func(tx Tx) (err error) {
		results, err = s.decide(ctx, tx, &d)
		return err
	})
	if err != nil {
		return nil, s.fail("decide", err)
	}
	return results, nil
}

func (s *Store) decide(ctx context.Context, tx Conn, d *reliable.Decision) ([]reliable.DecisionResult, error) {
	ids := make([]string, len(d.IDs))
	for i, id := range d.IDs {
		ids[i] = string(id)
	}
	states, err := s.lockRows(ctx, tx, ids)
	if err != nil {
		return nil, err
	}
	withheld, err := s.recall(ctx, tx, d, states)
	if err != nil {
		return nil, err
	}
	// The time before the locks were granted may be earlier than what was decided by those who had them.
	var now int64
	if err := s.query(ctx, tx, func(rows Rows) error { return rows.Scan(&now) }, s.dialect.Clock); err != nil {
		return nil, err
	}
	results := make([]reliable.DecisionResult, len(d.IDs))
	for i, id := range d.IDs {
		results[i] = reliable.DecisionResult{ID: id, Verdict: reliable.NotFound}
		if withheld[string(id)] {
			results[i].Verdict = reliable.WrongStatus
		}
		if r := states[string(id)]; r != nil {
			r.now = max(r.now, now)
			results[i].Verdict = r.overrule(d.Action)
			results[i].Status = r.status
		}
	}
	maps.DeleteFunc(states, func(_ string, r *state) bool { return !r.changed })
	if d.Action == reliable.Requeue {
		err = s.rejoin(ctx, tx, states)
	}
	if err == nil {
		err = s.saveDecided(ctx, tx, states, d)
	}
	if err == nil {
		err = s.advance(ctx, tx, settledLanes(states), s.dialect.Order)
	}
	return results, err
}

// overrule does what a person decided about a row.
func (r *state) overrule(action reliable.Action) reliable.Verdict {
	from := r.status
	switch {
	case !action.AppliesTo(from):
		return reliable.WrongStatus
	case from == reliable.Failed && r.leased() && r.due > r.now:
		return reliable.Busy
	}
	switch action {
	case reliable.Requeue:
		r.requeue()
	case reliable.Compensate:
		r.finish(reliable.Compensated)
	case reliable.Discard:
		if from == reliable.Pending && r.leased() {
			r.flags |= flagMayHaveBeenSent // it is on its way, and nobody will hear how that ends
		}
		r.finish(reliable.Discarded)
	}
	r.fence++
	r.flags |= flagDecided
	return reliable.Decided
}

// requeue makes a row as though it had just been stored, except for what is known of where the message may be.
func (r *state) requeue() {
	if r.has(flagLateAck) {
		r.flags |= flagMayHaveBeenSent
	}
	r.flags &^= flagLeased | flagLateAck | flagCompensating
	r.status = reliable.Pending
	r.due = r.now
	r.attempts, r.failures, r.failingSince, r.deadline = 0, 0, 0, 0
	r.changed = true
}

// rejoin puts requeued rows into the lanes of their keys again, in the order of their storing: as new ones, for the next
// claim to promote. One that still is the head of its lane goes on from there.
func (s *Store) rejoin(ctx context.Context, tx Conn, states map[string]*state) error {
	lanes := make(map[string]string) // by id
	for id, r := range states {
		if r.key != "" {
			lanes[id] = string(laneOf(r.topic, r.key))
		}
	}
	heads := make(map[string]string, len(lanes)) // ids by lane
	err := inChunks(distinct(maps.Values(lanes)), s.dialect.ListRows, func(part [][]byte) error {
		return s.query(ctx, tx, func(rows Rows) error {
			var lane []byte
			var seq int64
			var id string
			err := rows.Scan(&lane, &seq, &id)
			heads[string(lane)] = id
			return err
		}, s.dialect.LockHeads, part)
	})
	if err != nil {
		return err
	}
	var back []*state
	for id, lane := range lanes {
		if heads[lane] != id {
			back = append(back, states[id])
			states[id].due = Parked
		}
	}
	slices.SortFunc(back, func(a, b *state) int {
		return cmp.Or(cmp.Compare(a.storedAt, b.storedAt), cmp.Compare(a.id, b.id))
	})
	return inChunks(back, s.dialect.ListRows, func(part []*state) error {
		names, ids := make([][]byte, len(part)), make([]string, len(part))
		for i, r := range part {
			names[i], ids[i] = []byte(lanes[r.id]), r.id
		}
		none := make([]int64, len(part))
		_, err := s.exec(ctx, tx, s.dialect.InsertLanes, names, ids, none, none)
		return err
	})
}

// saveDecided writes rows that a person decided about, and who that was.
func (s *Store) saveDecided(ctx context.Context, tx Conn, states map[string]*state, d *reliable.Decision) error {
	changed := slices.SortedFunc(maps.Values(states), func(a, b *state) int { return cmp.Compare(a.id, b.id) })
	return inChunks(changed, s.dialect.ListRows, func(part []*state) error {
		n := len(part)
		ids, whos, whys := make([]string, n), make([]string, n), make([]string, n)
		columns := make([][]int64, 8)
		for c := range columns {
			columns[c] = make([]int64, n)
		}
		actions, at := make([]int64, n), make([]int64, n)
		for i, r := range part {
			ids[i], whos[i], whys[i], actions[i], at[i] = r.id, d.Who, d.Why, int64(d.Action), r.now
			for c, value := range [...]int64{
				int64(r.status), r.due, r.fence, int64(r.attempts), int64(r.failures), r.failingSince, int64(r.flags), r.deadline,
			} {
				columns[c][i] = value
			}
		}
		_, err := s.exec(ctx, tx, s.dialect.Overrule, ids, columns[0], columns[1], columns[2], columns[3], columns[4],
			columns[5], columns[6], columns[7])
		if err != nil {
			return err
		}
		_, err = s.exec(ctx, tx, s.dialect.NoteDecisions, ids, columns[2], actions, whos, whys, at)
		return err
	})
}

// decisions reads what people decided, in the order in which they did.
func (s *Store) decisions(ctx context.Context, c Conn, ids []string) (map[string][]told, error) {
	all := make(map[string][]told)
	err := inChunks(ids, s.dialect.ListRows, func(part []string) error {
		return s.query(ctx, c, func(rows Rows) error {
			var id string
			var e told
			var action int
			if err := rows.Scan(&id, &e.Fence, &action, &e.By, &e.Reason, &e.at, &e.now); err != nil {
				return err
			}
			e.Kind = reliable.OperatorDecided
			e.Action = reliable.Action(action) //nolint:gosec // 1 to 3
			all[id] = append(all[id], e)
			return nil
		}, s.dialect.Decisions, part)
	})
	return all, err
}
