package sqlstore

import (
	"context"
	"iter"
	"slices"
)

// laneRow is one envelope in its lane.
type laneRow struct {
	seq     int64
	lane    string
	id      string
	readyAt int64 // 0 if its delay is over
}

const (
	// promotionRows is how many fresh lane rows one transaction promotes.
	promotionRows = 500
	// promotionRounds bounds how long one claim goes on promoting; the next claim continues.
	promotionRounds = 40
)

// promote looks at the lane rows that were committed since the last look. A lane without a head gets its first row as
// its head; all other rows wait for the head before them, which will make them the head when it settles.
//
// No row is forgotten in between: a row stops being fresh only while its lane's head is locked here, or is made here,
// and who settles that head must take the same lock first, and reads the lane after it. Nothing here waits for a lock:
// what is locked stays fresh, for the next claim.
func (s *Store) promote(ctx context.Context) error {
	after := int64(0)
	for range promotionRounds {
		more := false
		start := after
		err := s.write(ctx, func(tx Tx) error {
			after, more = start, false
			last, n, err := s.promoteSome(ctx, tx, start)
			if n > 0 {
				after, more = last, n == promotionRows
			}
			return err
		})
		if err != nil || !more {
			return err
		}
	}
	return nil
}

func (s *Store) promoteSome(ctx context.Context, tx Conn, after int64) (last int64, n int, err error) {
	mine := false
	err = s.query(ctx, tx, func(rows Rows) error {
		var version int64
		mine = true
		return rows.Scan(&version)
	}, s.dialect.PromotionLock)
	if err != nil || !mine {
		return 0, 0, err
	}
	var fresh []laneRow
	err = s.query(ctx, tx, func(rows Rows) error {
		l, err := scanLane(rows)
		fresh = append(fresh, l)
		return err
	}, s.dialect.Fresh, after, int64(promotionRows))
	if err != nil || len(fresh) == 0 {
		return 0, 0, err
	}
	last = fresh[len(fresh)-1].seq

	headed, locked, err := s.headed(ctx, tx, lanesOf(fresh))
	if err != nil {
		return 0, 0, err
	}
	choose := func(rows []laneRow) (heads, waiting []laneRow) {
		chosen := make(map[string]bool, len(rows))
		for _, l := range rows {
			switch {
			case headed[l.lane]:
				if locked[l.lane] {
					waiting = append(waiting, l)
				}
			case chosen[l.lane]:
				waiting = append(waiting, l)
			default:
				chosen[l.lane] = true
				heads = append(heads, l)
			}
		}
		return heads, waiting
	}
	heads, waiting := choose(fresh)
	free, gone, err := s.free(ctx, tx, heads)
	if err == nil && gone {
		rest, dropping := s.dropGone(ctx, tx, fresh)
		if dropping != nil {
			return 0, 0, dropping
		}
		heads, waiting = choose(rest)
		free, _, err = s.free(ctx, tx, heads)
	}
	if err != nil {
		return 0, 0, err
	}
	made := make(map[string]bool, len(free))
	for _, l := range free {
		made[l.lane] = true
	}
	// The followers of a head that could not be made stay fresh with it.
	waiting = slices.DeleteFunc(waiting, func(l laneRow) bool { return !headed[l.lane] && !made[l.lane] })
	if _, err := s.makeHeads(ctx, tx, free); err != nil {
		return 0, 0, err
	}
	return last, len(fresh), s.mark(ctx, tx, append(free, waiting...))
}

// headed returns the lanes that have a head, and of these the ones whose head is now locked.
func (s *Store) headed(ctx context.Context, tx Conn, lanes [][]byte) (headed, locked map[string]bool, err error) {
	read := func(st Statement, lanes [][]byte) (map[string]bool, error) {
		found := make(map[string]bool)
		err := inChunks(lanes, s.dialect.ListRows, func(part [][]byte) error {
			return s.query(ctx, tx, func(rows Rows) error {
				var lane []byte
				if err := rows.Scan(&lane); err != nil {
					return err
				}
				found[string(lane)] = true
				return nil
			}, st, part)
		})
		return found, err
	}
	if headed, err = read(s.dialect.Heads, lanes); err != nil || len(headed) == 0 {
		return headed, nil, err
	}
	some := make([][]byte, 0, len(headed))
	for lane := range headed {
		some = append(some, []byte(lane))
	}
	slices.SortFunc(some, slices.Compare)
	locked, err = read(s.dialect.TryHeads, some)
	return headed, locked, err
}

// free locks the parked envelopes of lane rows, skipping what is locked, and returns the rows of those that it got. gone
// says that some are not pending any more: they were discarded while they waited.
func (s *Store) free(ctx context.Context, tx Conn, lanes []laneRow) (free []laneRow, gone bool, err error) {
	got, err := s.envelopesOf(ctx, tx, s.dialect.TryParked, lanes)
	if err != nil || len(got) == len(lanes) {
		return lanes, false, err
	}
	pending, err := s.envelopesOf(ctx, tx, s.dialect.Order.Known, lanes)
	for _, l := range lanes {
		if got[l.seq] {
			free = append(free, l)
		}
		gone = gone || !pending[l.seq]
	}
	return free, gone, err
}

// dropGone deletes the lane rows whose envelope is not pending any more, and returns the others.
func (s *Store) dropGone(ctx context.Context, tx Conn, lanes []laneRow) ([]laneRow, error) {
	pending, err := s.envelopesOf(ctx, tx, s.dialect.Order.Known, lanes)
	if err != nil {
		return nil, err
	}
	var gone []int64
	kept := make([]laneRow, 0, len(lanes))
	for _, l := range lanes {
		if pending[l.seq] {
			kept = append(kept, l)
		} else {
			gone = append(gone, l.seq)
		}
	}
	return kept, s.deleteLanes(ctx, tx, gone)
}

// envelopesOf returns by their numbers the lane rows whose envelopes a statement returns. An envelope that was discarded
// while it waited, and purged, may have left its row behind, and have been stored anew with another key: such a row is
// nobody's.
func (s *Store) envelopesOf(ctx context.Context, tx Conn, st Statement, lanes []laneRow) (map[int64]bool, error) {
	found := make(map[int64]bool, len(lanes))
	laneOfID := make(map[string]string, len(lanes))
	err := inChunks(lanes, s.dialect.ListRows, func(part []laneRow) error {
		ids := make([]string, len(part))
		for i := range part {
			ids[i] = part[i].id
		}
		slices.Sort(ids)
		return s.query(ctx, tx, func(rows Rows) error {
			var id, topic, key string
			err := rows.Scan(&id, &topic, &key)
			laneOfID[id] = string(laneOf(topic, key))
			return err
		}, st, slices.Compact(ids))
	})
	for _, l := range lanes {
		if lane, there := laneOfID[l.id]; there && lane == l.lane {
			found[l.seq] = true
		}
	}
	return found, err
}

// makeHeads makes lane rows the heads of their lanes, and their envelopes due. It returns how many of these were waiting
// still.
func (s *Store) makeHeads(ctx context.Context, tx Conn, heads []laneRow) (int64, error) {
	err := inChunks(heads, s.dialect.ListRows, func(part []laneRow) error {
		lanes, seqs, ids := make([][]byte, len(part)), make([]int64, len(part)), make([]string, len(part))
		for i, l := range part {
			lanes[i], seqs[i], ids[i] = []byte(l.lane), l.seq, l.id
		}
		_, err := s.exec(ctx, tx, s.dialect.WriteHeads, lanes, seqs, ids)
		return err
	})
	if err != nil {
		return 0, err
	}
	return s.ready(ctx, tx, heads)
}

// ready makes the envelopes of lane rows due: now, or when their delay is over. It returns how many were waiting still.
func (s *Store) ready(ctx context.Context, tx Conn, lanes []laneRow) (int64, error) {
	at := make(map[int64][]string)
	for _, l := range lanes {
		at[l.readyAt] = append(at[l.readyAt], l.id)
	}
	times := make([]int64, 0, len(at))
	for readyAt := range at {
		times = append(times, readyAt)
	}
	slices.Sort(times)
	ready := int64(0)
	for _, readyAt := range times {
		ids := at[readyAt]
		slices.Sort(ids)
		err := inChunks(ids, s.dialect.ListRows, func(part []string) error {
			n, err := s.exec(ctx, tx, s.dialect.Ready, readyAt, part)
			ready += n
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return ready, nil
}

// settledIDs are, by lane, the ids of what has just been settled: of a head, and of some that waited behind it.
type settledIDs map[string][]string

// advance lets the lanes go on whose head has just been settled or released: their next row becomes the head, or they
// have none any more. Where the head is none of what was settled, that waited, or was released before, and the lane stays
// as it is.
func (s *Store) advance(ctx context.Context, tx Conn, settled settledIDs, reads OrderReads) error {
	if len(settled) == 0 {
		return nil
	}
	lanes := make([][]byte, 0, len(settled))
	for lane := range settled {
		lanes = append(lanes, []byte(lane))
	}
	slices.SortFunc(lanes, slices.Compare)
	var done []int64
	var open [][]byte
	err := inChunks(lanes, s.dialect.ListRows, func(part [][]byte) error {
		return s.query(ctx, tx, func(rows Rows) error {
			var lane []byte
			var seq int64
			var id string
			if err := rows.Scan(&lane, &seq, &id); err != nil {
				return err
			}
			if slices.Contains(settled[string(lane)], id) {
				done = append(done, seq)
				open = append(open, lane)
			}
			return nil
		}, s.dialect.LockHeads, part)
	})
	if err != nil {
		return err
	}
	for len(open) > 0 {
		if err := s.deleteLanes(ctx, tx, done); err != nil {
			return err
		}
		if open, done, err = s.follow(ctx, tx, open, reads); err != nil {
			return err
		}
		more, err := s.passedOver(ctx, tx, open, reads)
		if err != nil {
			return err
		}
		done = append(done, more...)
	}
	return nil
}

// follow makes the next row of each lane its head. It returns the lanes whose next row has no pending envelope any
// more, because somebody discarded it while it waited, and those rows.
func (s *Store) follow(
	ctx context.Context, tx Conn, lanes [][]byte, reads OrderReads,
) (open [][]byte, gone []int64, err error) {
	var next []laneRow
	err = inChunks(lanes, s.dialect.ListRows, func(part [][]byte) error {
		return s.query(ctx, tx, func(rows Rows) error {
			l, err := scanLane(rows)
			next = append(next, l)
			return err
		}, reads.Next, part)
	})
	if err != nil {
		return nil, nil, err
	}
	pending, err := s.envelopesOf(ctx, tx, reads.Known, next)
	if err != nil {
		return nil, nil, err
	}
	followed := make(map[string]bool, len(next))
	heads := next[:0]
	for _, l := range next {
		followed[l.lane] = true
		if pending[l.seq] {
			heads = append(heads, l)
			continue
		}
		open = append(open, []byte(l.lane))
		gone = append(gone, l.seq)
	}
	var empty [][]byte
	for _, lane := range lanes {
		if !followed[string(lane)] {
			empty = append(empty, lane)
		}
	}
	err = inChunks(empty, s.dialect.ListRows, func(part [][]byte) error {
		_, err := s.exec(ctx, tx, s.dialect.DeleteHeads, part)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	made, err := s.makeHeads(ctx, tx, heads)
	if err != nil {
		return nil, nil, err
	}
	if made < int64(len(heads)) {
		// Some were discarded between the look and the change, which waited for that.
		if pending, err = s.envelopesOf(ctx, tx, reads.Known, heads); err != nil {
			return nil, nil, err
		}
		heads = slices.DeleteFunc(heads, func(l laneRow) bool {
			if !pending[l.seq] {
				open = append(open, []byte(l.lane))
				gone = append(gone, l.seq)
			}
			return !pending[l.seq]
		})
	}
	return open, gone, s.mark(ctx, tx, heads)
}

// passedOverRows is how many rows of a lane are looked at together for those that were discarded while they waited.
const passedOverRows = 500

// passedOver returns the rows at the front of lanes that have no pending envelope any more, some of them.
func (s *Store) passedOver(ctx context.Context, tx Conn, lanes [][]byte, reads OrderReads) ([]int64, error) {
	var gone []int64
	for _, lane := range lanes {
		var line []laneRow
		err := s.query(ctx, tx, func(rows Rows) error {
			l, err := scanLane(rows)
			line = append(line, l)
			return err
		}, reads.Line, lane, int64(passedOverRows))
		if err != nil {
			return nil, err
		}
		pending, err := s.envelopesOf(ctx, tx, reads.Known, line)
		if err != nil {
			return nil, err
		}
		for _, l := range line {
			if pending[l.seq] {
				break
			}
			gone = append(gone, l.seq)
		}
	}
	return gone, nil
}

// mark makes lane rows no longer fresh.
func (s *Store) mark(ctx context.Context, tx Conn, lanes []laneRow) error {
	seqs := make([]int64, len(lanes))
	for i := range lanes {
		seqs[i] = lanes[i].seq
	}
	slices.Sort(seqs)
	return inChunks(seqs, s.dialect.ListRows, func(part []int64) error {
		_, err := s.exec(ctx, tx, s.dialect.MarkLanes, part)
		return err
	})
}

func (s *Store) deleteLanes(ctx context.Context, tx Conn, seqs []int64) error {
	slices.Sort(seqs)
	seqs = slices.Compact(seqs)
	return inChunks(seqs, s.dialect.ListRows, func(part []int64) error {
		_, err := s.exec(ctx, tx, s.dialect.DeleteLanes, part)
		return err
	})
}

// scanLane reads seq, lane, id, ready_at, now.
func scanLane(rows Rows) (laneRow, error) {
	var l laneRow
	var lane []byte
	var now int64
	err := rows.Scan(&l.seq, &lane, &l.id, &l.readyAt, &now)
	l.lane = string(lane)
	if l.readyAt <= now {
		l.readyAt = 0
	}
	return l, err
}

func lanesOf(rows []laneRow) [][]byte {
	return distinct(func(yield func(string) bool) {
		for i := range rows {
			if !yield(rows[i].lane) {
				return
			}
		}
	})
}

// distinct returns lanes in the order in which they are locked, each once.
func distinct(names iter.Seq[string]) [][]byte {
	seen := make(map[string]bool)
	var lanes [][]byte
	for name := range names {
		if !seen[name] {
			seen[name] = true
			lanes = append(lanes, []byte(name))
		}
	}
	slices.SortFunc(lanes, slices.Compare)
	return lanes
}
