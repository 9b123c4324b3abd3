package sqlstore

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/waybillmq/waybill/reliable"
)

// Settle records a batch of outcomes; see [reliable.Store].
//
// Acks of the newest lease, which is what nearly all settlements are, take one statement for all that have the same
// fence. Every other outcome is decided row by row after locking and reading the rows, and written back by one
// statement for all. If some ack turns out not to be of the newest lease, the transaction starts over, and decides on
// acks row by row as well.
func (s *Store) Settle(ctx context.Context, ss ...reliable.Settlement) ([]reliable.SettleResult, error) {
	for i := range ss {
		if err := checkSettlement(&ss[i]); err != nil {
			return nil, s.fail("settle", err)
		}
	}
	if len(ss) == 0 {
		return nil, nil
	}
	results, err := s.settle(ctx, ss, true)
	if errors.Is(err, errNotNewest) {
		results, err = s.settle(ctx, ss, false)
	}
	if err != nil {
		return nil, s.fail("settle", err)
	}
	return results, nil
}

var errNotNewest = errors.New("not all acks are of the newest lease")

func (s *Store) settle(ctx context.Context, ss []reliable.Settlement, together bool) ([]reliable.SettleResult, error) {
	var results []reliable.SettleResult
	err := s.write(ctx, func(tx Tx) error {
		b := settleBatch{
			store: s, tx: tx, ss: ss, results: make([]reliable.SettleResult, len(ss)), lanes: make(settledIDs),
		}
		results = b.results
		return b.run(ctx, together)
	})
	return results, err
}

// settleBatch is one try at one Settle.
type settleBatch struct {
	store   *Store
	tx      Conn
	ss      []reliable.Settlement
	results []reliable.SettleResult
	slots   map[string]int64 // holds by topic
	lanes   settledIDs       // what lanes may go on by
}

func (b *settleBatch) run(ctx context.Context, together bool) error {
	if err := b.shareHolds(ctx); err != nil {
		return err
	}
	var groups [][]int
	rest := make([]int, len(b.ss))
	for i := range rest {
		rest[i] = i
	}
	if together {
		groups, rest = b.groups()
	}
	for _, group := range groups {
		if err := b.confirm(ctx, group); err != nil {
			return err
		}
	}
	if err := b.decide(ctx, rest); err != nil {
		return err
	}
	return b.store.advance(ctx, b.tx, b.lanes, b.store.dialect.Order)
}

// shareHolds locks the holds behind which envelopes are to wait, before any other row, so that none of them is removed
// before the envelopes wait there.
func (b *settleBatch) shareHolds(ctx context.Context) error {
	seen := make(map[string]bool)
	var topics []string
	for i := range b.ss {
		if b.ss[i].Park && b.ss[i].To == reliable.Pending && !seen[b.ss[i].Topic] {
			seen[b.ss[i].Topic] = true
			topics = append(topics, b.ss[i].Topic)
		}
	}
	slices.Sort(topics)
	b.slots = make(map[string]int64, len(topics))
	return inChunks(topics, b.store.dialect.ListRows, func(part []string) error {
		return b.store.query(ctx, b.tx, func(rows Rows) error {
			var topic string
			var slot int64
			err := rows.Scan(&topic, &slot)
			b.slots[topic] = slot
			return err
		}, b.store.dialect.ShareHolds, part)
	})
}

// groups returns the settlements that one statement may record together, ordered by id, and the rest. An envelope that
// occurs twice belongs to the rest.
func (b *settleBatch) groups() (groups [][]int, rest []int) {
	type kind struct {
		unkeyed bool
		fence   int64
	}
	// One group at a time is what nearly every batch is: no map is needed to find it.
	var kinds []kind
	for i := range b.ss {
		x := &b.ss[i]
		if x.To != reliable.Confirmed || x.Fence < 1 {
			rest = append(rest, i)
			continue
		}
		k := kind{x.Key == "", x.Fence}
		at := slices.Index(kinds, k)
		if at < 0 {
			at = len(kinds)
			kinds = append(kinds, k)
			groups = append(groups, make([]int, 0, len(b.ss)-i))
		}
		groups[at] = append(groups[at], i)
	}
	if len(rest) > 0 || len(groups) > 1 {
		groups, rest = b.apart(groups, rest)
		slices.Sort(rest) // settlements of one envelope take effect in the order given
	}
	for _, group := range groups {
		slices.SortFunc(group, func(i, j int) int { return cmp.Compare(b.ss[i].ID, b.ss[j].ID) })
	}
	return groups, rest
}

// apart moves envelopes that occur in several groups to the rest.
func (b *settleBatch) apart(groups [][]int, rest []int) ([][]int, []int) {
	times := make(map[reliable.ID]int, len(b.ss))
	for i := range b.ss {
		times[b.ss[i].ID]++
	}
	if len(times) == len(b.ss) {
		return groups, rest
	}
	for g, group := range groups {
		groups[g] = slices.DeleteFunc(group, func(i int) bool {
			if times[b.ss[i].ID] > 1 {
				rest = append(rest, i)
				return true
			}
			return false
		})
	}
	return groups, rest
}

// confirm records acks of one fence, of the newest leases.
func (b *settleBatch) confirm(ctx context.Context, group []int) error {
	if len(group) == 0 {
		return nil
	}
	first := &b.ss[group[0]]
	unkeyed := first.Key == ""
	affected := int64(0)
	err := inPieces(b.store, group, func(part []int) error {
		ids := make([]string, len(part))
		for n, i := range part {
			ids[n] = string(b.ss[i].ID)
		}
		n, err := b.store.execPiece(ctx, b.tx, b.store.dialect.Confirm, len(ids), first.Fence, unkeyed, ids)
		affected += n
		return err
	})
	if err != nil {
		return err
	}
	if affected != int64(len(group)) {
		return errNotNewest
	}
	for _, i := range group {
		b.results[i] = reliable.Applied
		if !unkeyed {
			lane := string(laneOf(b.ss[i].Topic, b.ss[i].Key))
			b.lanes[lane] = append(b.lanes[lane], string(b.ss[i].ID))
		}
	}
	return nil
}

// decide settles one by one, on rows that are locked.
func (b *settleBatch) decide(ctx context.Context, indexes []int) error {
	if len(indexes) == 0 {
		return nil
	}
	ids := make([]string, len(indexes))
	for n, i := range indexes {
		ids[n] = string(b.ss[i].ID)
	}
	states, err := b.store.lock(ctx, b.tx, ids)
	if err != nil {
		return err
	}
	for _, i := range indexes {
		r := states[string(b.ss[i].ID)]
		if r == nil {
			b.results[i] = reliable.Stale
			continue
		}
		b.results[i] = r.settle(&b.ss[i], b.slots[r.topic])
	}
	for lane, ids := range settledLanes(states) {
		b.lanes[lane] = append(b.lanes[lane], ids...)
	}
	return b.store.save(ctx, b.tx, states)
}

// settledLanes returns what was decided that lets lanes go on, as advance takes it.
func settledLanes(states map[string]*state) settledIDs {
	lanes := make(settledIDs)
	for id, r := range states {
		if r.settled && r.key != "" {
			lane := string(laneOf(r.topic, r.key))
			lanes[lane] = append(lanes[lane], id)
		}
	}
	return lanes
}

// lockRows locks rows and reads them.
func (s *Store) lockRows(ctx context.Context, tx Conn, ids []string) (map[string]*state, error) {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	states := make(map[string]*state, len(ids))
	err := inChunks(ids, s.dialect.ListRows, func(part []string) error {
		rows, err := s.rows(ctx, tx, s.dialect.Lock, part)
		for _, r := range rows {
			states[r.id] = &state{row: *r}
		}
		return err
	})
	return states, err
}

// lock locks rows and reads them with what the history says of their attempts.
func (s *Store) lock(ctx context.Context, tx Conn, ids []string) (map[string]*state, error) {
	states, err := s.lockRows(ctx, tx, ids)
	if err != nil {
		return nil, err
	}
	var troubled []string
	for id, r := range states {
		if r.has(flagHistory) {
			troubled = append(troubled, id)
		}
	}
	slices.Sort(troubled)
	return states, inChunks(troubled, s.dialect.ListRows, func(part []string) error {
		return s.query(ctx, tx, func(rows Rows) error {
			var id string
			var fence int64
			var outcome, to int
			var charged bool
			if err := rows.Scan(&id, &fence, &outcome, &charged, &to); err != nil {
				return err
			}
			r := states[id]
			if r.past == nil {
				r.past = make(map[int64]verdict)
			}
			//nolint:gosec // both are small
			r.past[fence] = verdict{reliable.Outcome(outcome), reliable.Status(to), charged}
			return nil
		}, s.dialect.Past, part)
	})
}

// save writes what was decided.
func (s *Store) save(ctx context.Context, tx Conn, states map[string]*state) error {
	changed := make([]*state, 0, len(states))
	var notes []note
	for _, r := range states {
		if r.changed {
			changed = append(changed, r)
		}
		for _, n := range r.notes {
			notes = append(notes, n)
		}
	}
	slices.SortFunc(changed, func(a, b *state) int { return cmp.Compare(a.id, b.id) })
	err := inChunks(changed, s.dialect.ListRows, func(part []*state) error {
		n := len(part)
		ids := make([]string, n)
		numbers := make([][]int64, 7)
		for c := range numbers {
			numbers[c] = make([]int64, n)
		}
		for i, r := range part {
			ids[i] = r.id
			for c, value := range [...]int64{
				int64(r.status), r.due, int64(r.attempts), int64(r.failures), r.failingSince, int64(r.flags), r.ackedBy,
			} {
				numbers[c][i] = value
			}
		}
		_, err := s.exec(ctx, tx, s.dialect.Write, ids,
			numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6])
		return err
	})
	if err != nil {
		return err
	}
	return s.remember(ctx, tx, notes)
}

// remember writes the history, and keeps it bounded.
func (s *Store) remember(ctx context.Context, tx Conn, notes []note) error {
	slices.SortFunc(notes, func(a, b note) int {
		return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.fence, b.fence), cmp.Compare(a.entry, b.entry))
	})
	err := inChunks(notes, s.dialect.ListRows, func(part []note) error {
		ids, reasons, workers := make([]string, len(part)), make([]string, len(part)), make([]string, len(part))
		numbers := make([][]int64, 6)
		for c := range numbers {
			numbers[c] = make([]int64, len(part))
		}
		for i, n := range part {
			ids[i], reasons[i], workers[i] = n.id, n.reason, n.worker
			charged := int64(0)
			if n.verdict.charged {
				charged = 1
			}
			for c, value := range [...]int64{
				n.fence, int64(n.entry), int64(n.verdict.outcome), charged, int64(n.verdict.to), n.at,
			} {
				numbers[c][i] = value
			}
		}
		_, err := s.exec(ctx, tx, s.dialect.Remember, ids, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4],
			reasons, workers, numbers[5])
		return err
	})
	if err != nil {
		return err
	}
	for _, n := range notes {
		if n.fence <= reliable.MaxHistory {
			continue // each fence leaves one entry at most, a decision of the store comes last
		}
		if _, err := s.exec(ctx, tx, s.dialect.Trim, n.id, n.id, int64(reliable.MaxHistory-1)); err != nil {
			return err
		}
	}
	return nil
}
