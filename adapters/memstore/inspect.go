package memstore

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

const maxLookup = 1000

// Stats returns counts and ages by topic, ordered by topic; see [reliable.Inspector].
func (s *Store) Stats(ctx context.Context) ([]reliable.TopicStats, error) {
	topics := make(map[string]*reliable.TopicStats)
	err := s.do(ctx, OpStats, nil, func(now time.Time) error {
		for _, w := range s.withheld {
			topic := topics[w.Topic]
			if topic == nil {
				topic = &reliable.TopicStats{Topic: w.Topic}
				topics[w.Topic] = topic
			}
			topic.Withheld++
			topic.OldestWithheld = max(topic.OldestWithheld, now.Sub(w.storedAt))
		}
		for _, status := range []reliable.Status{
			reliable.Pending, reliable.Failed, reliable.Compensated, reliable.Discarded,
		} {
			for r := range s.having(status) {
				topic := topics[r.env.Topic]
				if topic == nil {
					topic = &reliable.TopicStats{Topic: r.env.Topic}
					topics[r.env.Topic] = topic
				}
				age := now.Sub(r.storedAt)
				switch r.status {
				case reliable.Failed:
					topic.Failed++
					topic.OldestFailed = max(topic.OldestFailed, age)
				case reliable.Compensated:
					topic.Compensated++
				case reliable.Discarded:
					topic.Discarded++
				default:
					topic.Pending++
					topic.OldestPending = max(topic.OldestPending, age)
				}
			}
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
			} else if w := s.withheldOf(id); w != nil {
				records = append(records, w.record(now))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return records, nil
}

// Records returns everything that is in the outbox, in the order in which it was stored; for models and examples.
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
	switch {
	case record.Waiting:
		record.Behind = s.lanes[laneKey{r.env.Topic, r.env.Key}].head.env.ID
	case record.Held || r.status.Final():
	default:
		record.DueIn = r.due.Sub(now)
		if r.leased {
			record.LeasedBy = r.worker
		}
	}
	record.History = r.told(now)
	return record
}

// told is the history and the decisions, in the order in which they came.
func (r *row) told(now time.Time) []reliable.HistoryEntry {
	entries := slices.Concat(r.history, r.decisions)
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.fence, b.fence)) })
	var told []reliable.HistoryEntry
	for _, e := range entries {
		told = append(told, reliable.HistoryEntry{
			Kind: e.kind, Fence: e.fence, Outcome: e.outcome, Charged: e.charged, Action: e.action, By: e.by,
			Reason: e.reason, Ago: now.Sub(e.at),
		})
	}
	return told
}

// having yields all rows of a status.
func (s *Store) having(status reliable.Status) iter.Seq[*row] {
	var queues []*queue
	switch status {
	case reliable.Pending:
		queues = append(queues, s.ready)
		for _, l := range s.lanes {
			queues = append(queues, l.waiting)
		}
		for _, h := range s.holds {
			queues = append(queues, h.waiting)
		}
	case reliable.Failed:
		queues = slices.AppendSeq(queues, maps.Values(s.failed))
	default:
		if q := s.final[status]; q != nil {
			queues = append(queues, q)
		}
	}
	return func(yield func(*row) bool) {
		for _, q := range queues {
			for _, r := range q.all() {
				if !yield(r) {
					return
				}
			}
		}
	}
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
		settled := s.final[status]
		for settled != nil && deleted < limit {
			r := settled.first()
			if r == nil || now.Sub(r.settledAt) < olderThan {
				break
			}
			settled.remove(r)
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
