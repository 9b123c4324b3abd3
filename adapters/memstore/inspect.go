package memstore

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

const maxLookup = 1000

// Stats returns counts and ages by topic, ordered by topic; see [reliable.Inspector].
func (s *Store) Stats(ctx context.Context) ([]reliable.TopicStats, error) {
	topics := make(map[string]*reliable.TopicStats)
	err := s.do(ctx, OpStats, nil, func(now time.Time) error {
		count := func(q *queue) {
			for _, r := range q.all() {
				topic := topics[r.env.Topic]
				if topic == nil {
					topic = &reliable.TopicStats{Topic: r.env.Topic}
					topics[r.env.Topic] = topic
				}
				age := now.Sub(r.storedAt)
				if r.status == reliable.Failed {
					topic.Failed++
					topic.OldestFailed = max(topic.OldestFailed, age)
				} else {
					topic.Pending++
					topic.OldestPending = max(topic.OldestPending, age)
				}
			}
		}
		count(s.ready)
		for _, l := range s.lanes {
			count(l.waiting)
		}
		for _, h := range s.holds {
			count(h.waiting)
		}
		for _, q := range s.failed {
			count(q)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	stats := make([]reliable.TopicStats, 0, len(topics))
	for _, topic := range topics {
		stats = append(stats, *topic)
	}
	slices.SortFunc(stats, func(a, b reliable.TopicStats) int { return cmp.Compare(a.Topic, b.Topic) })
	return stats, nil
}

// Lookup returns what is stored of the IDs that exist; see [reliable.Inspector].
func (s *Store) Lookup(ctx context.Context, ids ...reliable.ID) ([]reliable.Record, error) {
	var records []reliable.Record
	err := s.do(ctx, OpLookup, func() []reliable.ID { return ids }, func(now time.Time) error {
		if len(ids) > maxLookup {
			return reliable.Invalid("ids", "are %d, at most %d are looked up at a time", len(ids), maxLookup)
		}
		seen := make(map[reliable.ID]struct{}, len(ids))
		for _, id := range ids {
			if _, twice := seen[id]; twice {
				continue
			}
			seen[id] = struct{}{}
			if r := s.rows[id]; r != nil {
				records = append(records, s.recordOf(r, now))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return records, nil
}

// Records returns everything that is stored, in the order in which it was stored; for models and examples.
func (s *Store) Records() []reliable.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := make([]*row, 0, len(s.rows))
	for _, r := range s.rows {
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b *row) int { return cmp.Compare(a.seq, b.seq) })
	now := time.Now()
	records := make([]reliable.Record, len(rows))
	for i, r := range rows {
		records[i] = s.recordOf(r, now)
	}
	return records
}

func (s *Store) recordOf(r *row, now time.Time) reliable.Record {
	h := s.holds[r.env.Topic]
	record := reliable.Record{
		Attempt: r.attempt(now),
		Status:  r.status,
		Waiting: s.waits(r),
		Held:    h != nil && r.in == h.waiting,
		LateAck: r.lateAck,
	}
	if r.status == reliable.Pending && !record.Waiting && !record.Held {
		record.DueIn = r.due.Sub(now)
	}
	for _, e := range r.history {
		record.History = append(record.History, reliable.HistoryEntry{
			Fence: e.fence, Outcome: e.outcome, Charged: e.charged, Reason: e.reason, Ago: now.Sub(e.at),
		})
	}
	return record
}

// Purge deletes what was settled long enough ago; see [reliable.Purger].
func (s *Store) Purge(
	ctx context.Context, status reliable.Status, olderThan time.Duration, limit int,
) (int, error) {
	deleted := 0
	err := s.do(ctx, OpPurge, nil, func(now time.Time) error {
		switch {
		case !status.Final():
			return reliable.Invalid("status", "is %v, only what is final can be deleted", status)
		case olderThan < 0:
			return reliable.Invalid("olderThan", "is %v, must be 0 or more", olderThan)
		case limit < 1:
			return reliable.Invalid("limit", "is %d, must be at least 1", limit)
		}
		list := s.final[status]
		for list != nil && deleted < limit {
			r := list.first()
			if r == nil || now.Sub(r.settledAt) < olderThan {
				break
			}
			list.drop()
			delete(s.rows, r.env.ID)
			deleted++
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return deleted, nil
}

// Check finds nothing wrong: there are no tables.
func (s *Store) Check(ctx context.Context) error {
	return s.do(ctx, OpCheck, nil, func(time.Time) error { return nil })
}
