package sqlstore

import (
	"context"
	"math"
	"slices"

	"github.com/waybillmq/waybill/adapters/internal/cursor"
	"github.com/waybillmq/waybill/reliable"
)

// A list follows the indexes that claims and retention have already, so it costs whoever stores and settles nothing: it
// is in the order of due, and of what tells rows of one due apart.

const (
	// listBatch is how many index entries a statement looks at where a filter may leave few of them.
	listBatch = 1000
	// maxExamined bounds how many index entries one call looks at, maxReasons how many envelopes' histories.
	maxExamined = 5 * listBatch
	maxReasons  = listBatch
)

// listed is an index entry.
type listed struct {
	cursor.Place
	storedAt, now int64
}

// List returns one page of what matches; see [reliable.Operator].
func (s *Store) List(ctx context.Context, req reliable.ListRequest) (reliable.Page, error) {
	if err := req.Check(); err != nil {
		return reliable.Page{}, s.fail("list", err)
	}
	l := list{store: s, req: &req, after: cursor.Place{Due: math.MinInt64}}
	if req.After != "" {
		var err error
		if l.after, err = cursor.Decode(s.dialect.Package, req.Filter, req.After); err != nil {
			return reliable.Page{}, s.fail("list", err)
		}
	}
	start := l.after
	var page reliable.Page
	err := s.read(ctx, func(c Conn) (err error) {
		l.conn, l.after = c, start
		if req.Status == reliable.Pending && start.Due <= dueWithheld {
			var end bool
			if page, end, err = l.pageWithheld(ctx); err != nil || !end {
				return err
			}
			l.after = cursor.Place{Due: math.MinInt64}
			if len(page.Records) > 0 {
				page.Next = l.cursor(cursor.Place{})
				return nil
			}
		}
		page, err = l.page(ctx)
		return err
	})
	if err != nil {
		return reliable.Page{}, s.fail("list", err)
	}
	return page, nil
}

// list is one call of List at work.
type list struct {
	store *Store
	conn  Conn
	req   *reliable.ListRequest
	after cursor.Place // how far it has looked
}

func (l *list) page(ctx context.Context) (reliable.Page, error) {
	walk, indexed := l.walk()
	limit, bound := l.req.Limit, l.req.Limit+1
	batch := bound // one more says whether others follow
	if l.req.OlderThan > 0 || l.req.Reason != "" || l.req.Topic != "" && !indexed {
		batch, bound = max(batch, listBatch), maxExamined
	}
	if l.req.Reason != "" {
		bound = maxReasons
	}
	var picked []listed
	end := false
	for examined := 0; !end && examined < bound && len(picked) <= limit; {
		found, err := l.look(ctx, walk, batch)
		if err != nil {
			return reliable.Page{}, err
		}
		examined += len(found)
		end = len(found) < batch
		if len(found) > 0 {
			l.after = found[len(found)-1].Place
		}
		if found, err = l.matching(ctx, found); err != nil {
			return reliable.Page{}, err
		}
		picked = append(picked, found...)
	}
	var page reliable.Page
	switch {
	case len(picked) > limit:
		picked = picked[:limit]
		page.Next = l.cursor(picked[limit-1].Place)
	case !end:
		page.Next = l.cursor(l.after)
	}
	var err error
	page.Records, err = l.records(ctx, picked)
	return page, err
}

func (l *list) cursor(p cursor.Place) reliable.Cursor {
	return cursor.Encode(l.store.dialect.Package, l.req.Filter, p)
}

// walk returns the statements that follow the index for the filter, and whether that is one of the topic alone.
func (l *list) walk() (Walk, bool) {
	d := &l.store.dialect
	switch {
	case l.req.Status == reliable.Pending:
		return d.ListPending, false
	case l.req.Topic != "" && l.req.Status >= reliable.Failed && d.ListTopic.After.text != "":
		return d.ListTopic, true
	}
	return d.ListSettled, false
}

// look returns up to n index entries behind the place where the last look ended: first the rest of those that have its
// due, then what is due later. So each statement has one range of the index, and no need to sort it.
func (l *list) look(ctx context.Context, walk Walk, n int) ([]listed, error) {
	fixed := []any{int64(l.req.Status)}
	if walk.Topic {
		fixed = append(fixed, l.req.Topic)
	}
	found := make([]listed, 0, n)
	read := func(st Statement, args ...any) error {
		return l.store.query(ctx, l.conn, func(rows Rows) error {
			var e listed
			err := rows.Scan(&e.ID, &e.Topic, &e.Due, &e.Order, &e.storedAt, &e.now)
			found = append(found, e)
			return err
		}, st, append(slices.Clip(fixed), args...)...)
	}
	at := l.after
	if at.Due > math.MinInt64 {
		err := read(walk.Same, at.Due, at.Order, at.Order, at.Topic, at.Topic, at.ID, int64(n))
		if err != nil || len(found) == n {
			return found, err
		}
	}
	return found, read(walk.After, at.Due, int64(n-len(found)))
}

// matching returns what the filter leaves of index entries.
func (l *list) matching(ctx context.Context, found []listed) ([]listed, error) {
	f := &l.req.Filter
	found = slices.DeleteFunc(found, func(e listed) bool {
		return f.Topic != "" && e.Topic != f.Topic || f.OlderThan > 0 && e.now-e.storedAt < micros(f.OlderThan)
	})
	if f.Reason == "" || len(found) == 0 {
		return found, nil
	}
	ids := make([]string, len(found))
	for i := range found {
		ids[i] = found[i].ID
	}
	slices.Sort(ids)
	says := make(map[string]bool)
	err := inChunks(ids, l.store.dialect.ListRows, func(part []string) error {
		for _, st := range []Statement{l.store.dialect.HistorySays, l.store.dialect.DecisionsSay} {
			some, err := l.store.strings(ctx, l.conn, st, part, f.Reason)
			if err != nil {
				return err
			}
			for _, id := range some {
				says[id] = true
			}
		}
		return nil
	})
	return slices.DeleteFunc(found, func(e listed) bool { return !says[e.ID] }), err
}

// records reads the rows of index entries, but for those that have moved on meanwhile.
func (l *list) records(ctx context.Context, picked []listed) ([]reliable.Record, error) {
	ids := make([]string, len(picked))
	for i := range picked {
		ids[i] = picked[i].ID
	}
	slices.Sort(ids)
	rows := make(map[string]*row, len(ids))
	err := inChunks(ids, l.store.dialect.ListRows, func(part []string) error {
		some, err := l.store.rows(ctx, l.conn, l.store.dialect.Glance, part)
		for _, r := range some {
			rows[r.id] = r
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	records := make([]reliable.Record, 0, len(picked))
	for i := range picked {
		r := rows[picked[i].ID]
		if r == nil || r.status != l.req.Status {
			continue
		}
		record, err := r.record()
		if err != nil {
			return nil, err
		}
		records = append(records, record)
	}
	return records, nil
}
