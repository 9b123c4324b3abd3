package sqlstore

import (
	"context"
	"slices"

	"github.com/waybillmq/waybill/adapters/internal/cursor"
	"github.com/waybillmq/waybill/reliable"
)

// What people see of what is withheld.

// withheldRecords reads what is withheld as people see it: the first of each ID.
func (s *Store) withheldRecords(ctx context.Context, c Conn, st Statement, args ...any) ([]reliable.Record, []string, error) {
	var records []reliable.Record
	var tickets []string
	err := s.query(ctx, c, func(rows Rows) error {
		r := reliable.Record{Withheld: true, Status: reliable.Pending}
		var ticket, id string
		var metadata []byte
		var deadline, askAt, storedAt, now int64
		err := rows.Scan(&ticket, &id, &r.Topic, &r.Key, &metadata, &r.Payload, &deadline, &askAt, &storedAt, &now)
		if err != nil {
			return err
		}
		r.ID, r.Deadline = reliable.ID(id), duration(deadline)
		r.Age, r.DueIn = max(duration(now-storedAt), 0), duration(askAt-now)
		r.Metadata, err = decodeMetadata(metadata)
		records, tickets = append(records, r), append(tickets, ticket)
		return err
	}, st, args...)
	return records, tickets, err
}

// lookupWithheld adds to found what is withheld of the IDs that are not in it. What is released between two reads is in
// the outbox by the second one.
func (s *Store) lookupWithheld(
	ctx context.Context, c Conn, ids []string, found []reliable.Record, again func(ids []string) ([]reliable.Record, error),
) ([]reliable.Record, error) {
	there := make(map[string]bool, len(found))
	for i := range found {
		there[string(found[i].ID)] = true
	}
	missing := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return there[id] })
	err := inChunks(missing, s.dialect.ListRows, func(part []string) error {
		some, _, err := s.withheldRecords(ctx, c, s.dialect.WithheldOf, part)
		if err != nil {
			return err
		}
		for _, r := range some {
			if !there[string(r.ID)] {
				there[string(r.ID)] = true
				found = append(found, r)
			}
		}
		left := slices.DeleteFunc(slices.Clone(part), func(id string) bool { return there[id] })
		if len(left) == 0 {
			return nil
		}
		late, err := again(left)
		found = append(found, late...)
		return err
	})
	return found, err
}

// countWithheld adds what is withheld to the counts of topics.
func (s *Store) countWithheld(ctx context.Context, c Conn, of func(topic string) *reliable.TopicStats) error {
	return s.query(ctx, c, func(rows Rows) error {
		var topic string
		var count int
		var oldest, now int64
		if err := rows.Scan(&topic, &count, &oldest, &now); err != nil {
			return err
		}
		stats := of(topic)
		stats.Withheld, stats.OldestWithheld = count, max(duration(now-oldest), 0)
		return nil
	}, s.dialect.CountWithheld)
}

// dueWithheld is the due of a place among what is withheld, which a list of what is pending begins with: before every due
// that there is.
const dueWithheld = int64(-1)

// pageWithheld lists what is withheld, by ticket, and reports whether the list goes on behind that.
func (l *list) pageWithheld(ctx context.Context) (page reliable.Page, end bool, err error) {
	after := ""
	if l.after.Due == dueWithheld {
		after = l.after.ID
	}
	limit := l.req.Limit
	records, tickets, err := l.store.withheldRecords(ctx, l.conn, l.store.dialect.ListWithheld, after, int64(limit+1))
	if err != nil {
		return page, false, err
	}
	if len(records) > limit {
		page.Next = l.cursor(cursor.Place{Due: dueWithheld, ID: tickets[limit-1]})
		records = records[:limit]
	}
	f := &l.req.Filter
	page.Records = slices.DeleteFunc(records, func(r reliable.Record) bool {
		return f.Reason != "" || f.Topic != "" && r.Topic != f.Topic || f.OlderThan > 0 && r.Age < f.OlderThan
	})
	return page, page.Next == "", nil
}
