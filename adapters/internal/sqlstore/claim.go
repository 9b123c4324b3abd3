package sqlstore

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Claim leases what is due; see [reliable.Store].
func (s *Store) Claim(ctx context.Context, req reliable.ClaimRequest) ([]reliable.Attempt, error) {
	if err := checkClaim(req); err != nil {
		return nil, s.fail("claim", err)
	}
	fresh, due, err := s.look(ctx)
	if err == nil && fresh {
		err = s.promote(ctx)
		due = true
	}
	if err != nil || !due {
		return nil, s.fail("claim", err)
	}
	var attempts []reliable.Attempt
	err = s.write(ctx, func(tx Tx) error {
		attempts, err = s.claim(ctx, tx, req)
		return err
	})
	if err != nil {
		s.front.lose()
		return nil, s.fail("claim", err)
	}
	return attempts, nil
}

// look says whether there is something to promote or to claim, without a lock: an idle store is only read.
func (s *Store) look(ctx context.Context) (fresh, due bool, err error) {
	err = s.read(ctx, func(c Conn) error {
		return s.query(ctx, c, func(rows Rows) error { return rows.Scan(&fresh, &due) }, s.dialect.Look)
	})
	return fresh, due, err
}

func (s *Store) claim(ctx context.Context, tx Conn, req reliable.ClaimRequest) ([]reliable.Attempt, error) {
	leased, err := s.leaseDue(ctx, tx, s.front.begin(time.Now()), req)
	if err != nil {
		return nil, err
	}
	return s.attempts(ctx, tx, leased)
}

// leaseDue leases what has been due since from, or, if that is nothing, whatever is due, and returns it in the order of due.
func (s *Store) leaseDue(ctx context.Context, tx Conn, from int64, req reliable.ClaimRequest) ([]*row, error) {
	lease := s.pick
	if s.dialect.Take.text != "" {
		lease = s.take
	}
	began := time.Now()
	leased, err := lease(ctx, tx, from, req)
	if err != nil {
		return nil, err
	}
	if len(leased) == 0 && from > 0 {
		return s.leaseDue(ctx, tx, 0, req)
	}
	s.front.reached(from, leased, began, time.Now())
	return leased, nil
}

// pick picks by one statement and leases by another.
func (s *Store) pick(ctx context.Context, tx Conn, from int64, req reliable.ClaimRequest) ([]*row, error) {
	picked, err := s.rows(ctx, tx, s.dialect.Pick, inline(req), from, int64(req.Max))
	if err != nil {
		return nil, err
	}
	picked = within(picked, req.MaxBytes)
	return picked, s.lease(ctx, tx, picked, req)
}

// take picks and leases by one statement, which returns the rows in any order.
func (s *Store) take(ctx context.Context, tx Conn, from int64, req reliable.ClaimRequest) ([]*row, error) {
	most := int64(req.MaxBytes)
	if most == 0 {
		most = math.MaxInt64
	}
	taken, err := s.rows(ctx, tx, s.dialect.Take, int64(req.Max), micros(req.Lease), req.Worker, most, from)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(taken, func(a, b *row) int {
		return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(a.storedAt, b.storedAt))
	})
	return taken, nil
}

// inline is up to which size payloads are read along when rows are picked, before it is known how many of them fit into
// MaxBytes; those of larger rows are read when it is.
func inline(req reliable.ClaimRequest) int64 {
	if req.MaxBytes == 0 {
		return math.MaxInt32
	}
	return int64(max(req.MaxBytes/req.Max, 1024))
}

// within returns the first rows that are no larger than limit together, and the very first one whatever its size.
func within(rows []*row, limit int) []*row {
	if limit == 0 {
		return rows
	}
	size := 0
	for i, r := range rows {
		size += r.size
		if i > 0 && size > limit {
			return rows[:i]
		}
	}
	return rows
}

// lease takes pending rows for req.Worker. A lease that is still on a row has run out without an answer.
func (s *Store) lease(ctx context.Context, tx Conn, rows []*row, req reliable.ClaimRequest) error {
	for _, r := range rows {
		r.fence++
		r.attempts++
		if r.leased() {
			r.flags |= flagMayHaveBeenSent
		}
		r.flags |= flagLeased
	}
	return inChunks(idsOf(rows), s.dialect.ListRows, func(ids []string) error {
		_, err := s.exec(ctx, tx, s.dialect.Lease, micros(req.Lease), req.Worker, ids)
		return err
	})
}

// attempts turns rows into attempts, after reading the payloads that were not read along.
func (s *Store) attempts(ctx context.Context, tx Conn, rows []*row) ([]reliable.Attempt, error) {
	if err := s.payloads(ctx, tx, rows); err != nil {
		return nil, err
	}
	attempts := make([]reliable.Attempt, len(rows))
	for i, r := range rows {
		attempt, err := r.attempt()
		if err != nil {
			return nil, err
		}
		attempts[i] = attempt
	}
	return attempts, nil
}

func (s *Store) payloads(ctx context.Context, tx Conn, rows []*row) error {
	missing := make(map[string]*row)
	for _, r := range rows {
		if r.payload == nil {
			missing[r.id] = r
		}
	}
	ids := make([]string, 0, len(missing))
	for id := range missing {
		ids = append(ids, id)
	}
	return inChunks(ids, s.dialect.ListRows, func(part []string) error {
		return s.query(ctx, tx, func(rows Rows) error {
			var id string
			var payload []byte
			if err := rows.Scan(&id, &payload); err != nil {
				return err
			}
			missing[id].payload = payload
			return nil
		}, s.dialect.Payloads, part)
	})
}

func checkClaim(req reliable.ClaimRequest) error {
	switch {
	case req.Max < 1:
		return reliable.Invalid("Max", "is %d, must be at least 1", req.Max)
	case req.MaxBytes < 0:
		return reliable.Invalid("MaxBytes", "is %d, must be 0 (no limit) or more", req.MaxBytes)
	case req.Lease <= 0:
		return reliable.Invalid("Lease", "is %v, must be above 0", req.Lease)
	}
	return checkWorker(req.Worker)
}

func idsOf(rows []*row) []string {
	ids := make([]string, len(rows))
	for i, r := range rows {
		ids[i] = r.id
	}
	return ids
}
