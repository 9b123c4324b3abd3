package sqlstore

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// maxLookup is how many IDs are looked up at a time.
const maxLookup = 1000

// Stats returns counts and ages by topic, ordered by topic; see [reliable.Inspector].
func (s *Store) Stats(ctx context.Context) ([]reliable.TopicStats, error) {
	var topics map[string]*reliable.TopicStats
	err := s.read(ctx, func(c Conn) error {
		topics = make(map[string]*reliable.TopicStats)
		of := func(topic string) *reliable.TopicStats {
			stats := topics[topic]
			if stats == nil {
				stats = &reliable.TopicStats{Topic: topic}
				topics[topic] = stats
			}
			return stats
		}
		if err := s.countWithheld(ctx, c, of); err != nil {
			return err
		}
		return s.query(ctx, c, func(rows Rows) error {
			var topic string
			var status, count int
			var oldest, now int64
			if err := rows.Scan(&topic, &status, &count, &oldest, &now); err != nil {
				return err
			}
			stats := of(topic)
			age := max(duration(now-oldest), 0)
			switch reliable.Status(status) { //nolint:gosec // a smallint between 0 and 4
			case reliable.Failed:
				stats.Failed, stats.OldestFailed = count, age
			case reliable.Compensated:
				stats.Compensated = count
			case reliable.Discarded:
				stats.Discarded = count
			default:
				stats.Pending, stats.OldestPending = count, age
			}
			return nil
		}, s.dialect.Stats)
	})
	if err != nil {
		return nil, s.fail("count", err)
	}
	all := make([]reliable.TopicStats, 0, len(topics))
	for _, stats := range topics {
		all = append(all, *stats)
	}
	slices.SortFunc(all, func(a, b reliable.TopicStats) int { return cmp.Compare(a.Topic, b.Topic) })
	return all, nil
}

// Lookup returns what is stored of the IDs that exist; see [reliable.Inspector].
func (s *Store) Lookup(ctx context.Context, ids ...reliable.ID) ([]reliable.Record, error) {
	if len(ids) > maxLookup {
		err := reliable.Invalid("ids", "are %d, at most %d are looked up at a time", len(ids), maxLookup)
		return nil, s.fail("look up", err)
	}
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = string(id)
	}
	slices.Sort(texts)
	texts = slices.Compact(texts)
	var records []reliable.Record
	err := s.read(ctx, func(c Conn) (err error) {
		if records, err = s.lookup(ctx, c, texts); err != nil {
			return err
		}
		records, err = s.lookupWithheld(ctx, c, texts, records, func(ids []string) ([]reliable.Record, error) {
			return s.lookup(ctx, c, ids)
		})
		return err
	})
	if err != nil {
		return nil, s.fail("look up", err)
	}
	return records, nil
}

// lookup reads what is in the outbox.
func (s *Store) lookup(ctx context.Context, c Conn, ids []string) ([]reliable.Record, error) {
	var records []reliable.Record
	err := inChunks(ids, s.dialect.ListRows, func(part []string) error {
		rows, err := s.rows(ctx, c, s.dialect.Lookup, part)
		if err != nil {
			return err
		}
		some, err := s.records(ctx, c, rows)
		if err == nil {
			err = s.behind(ctx, c, some)
		}
		records = append(records, some...)
		return err
	})
	return records, err
}

// behind says of each record that waits which one is the head of its key. A key whose rows nobody has looked at yet has no
// head.
func (s *Store) behind(ctx context.Context, c Conn, records []reliable.Record) error {
	waiting := make(map[string][]*reliable.Record)
	for i := range records {
		if r := &records[i]; r.Waiting {
			lane := string(laneOf(r.Topic, r.Key))
			waiting[lane] = append(waiting[lane], r)
		}
	}
	return inChunks(distinct(maps.Keys(waiting)), s.dialect.ListRows, func(lanes [][]byte) error {
		return s.query(ctx, c, func(rows Rows) error {
			var lane []byte
			var id string
			if err := rows.Scan(&lane, &id); err != nil {
				return err
			}
			for _, r := range waiting[string(lane)] {
				r.Behind = reliable.ID(id)
			}
			return nil
		}, s.dialect.HeadOf, lanes)
	})
}

// records turns rows into records, after reading their history.
func (s *Store) records(ctx context.Context, c Conn, rows []*row) ([]reliable.Record, error) {
	var troubled, decided []string
	for _, r := range rows {
		if r.has(flagHistory) {
			troubled = append(troubled, r.id)
		}
		if r.has(flagDecided) {
			decided = append(decided, r.id)
		}
	}
	history, err := s.history(ctx, c, troubled)
	if err != nil {
		return nil, err
	}
	decisions, err := s.decisions(ctx, c, decided)
	if err != nil {
		return nil, err
	}
	records := make([]reliable.Record, len(rows))
	for i, r := range rows {
		if records[i], err = r.record(); err != nil {
			return nil, err
		}
		records[i].History = merged(history[r.id], decisions[r.id])
	}
	return records, nil
}

// told is an entry of the history or a decision, when it was recorded, and when it was read.
type told struct {
	reliable.HistoryEntry
	at, now int64
}

// merged is what went wrong and what people decided about it, oldest first.
func merged(history, decisions []told) []reliable.HistoryEntry {
	all := append(slices.Clip(history), decisions...)
	if len(all) == 0 {
		return nil
	}
	if len(decisions) > 0 {
		slices.SortStableFunc(all, func(a, b told) int {
			return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.Fence, b.Fence))
		})
	}
	now := int64(0) // one for all, for they were not read at one time
	for i := range all {
		now = max(now, all[i].now)
	}
	entries := make([]reliable.HistoryEntry, len(all))
	for i := range all {
		entries[i] = all[i].HistoryEntry
		entries[i].Ago = max(duration(now-all[i].at), 0)
	}
	return entries
}

// history reads what went wrong, oldest first.
func (s *Store) history(ctx context.Context, c Conn, ids []string) (map[string][]told, error) {
	all := make(map[string][]told)
	err := inChunks(ids, s.dialect.ListRows, func(part []string) error {
		return s.query(ctx, c, func(rows Rows) error {
			var id string
			var e told
			var entry, outcome int
			err := rows.Scan(&id, &e.Fence, &entry, &outcome, &e.Charged, &e.Reason, &e.By, &e.at, &e.now)
			if err != nil {
				return err
			}
			e.Kind = kindOf(entry, e.By)
			e.Outcome = reliable.Outcome(outcome) //nolint:gosec // it is small
			all[id] = append(all[id], e)
			return nil
		}, s.dialect.History, part)
	})
	for id, entries := range all {
		all[id] = entries[max(len(entries)-reliable.MaxHistory, 0):]
	}
	return all, err
}

// kindOf says what an entry is about. Tables of version 1 had one kind for what was decided without an attempt; what
// came of a compensation has a worker.
func kindOf(entry int, worker string) reliable.HistoryKind {
	switch {
	case entry == entryAttempt:
		return reliable.AttemptEnded
	case entry == entryCompensation || worker != "":
		return reliable.CompensationFailed
	}
	return reliable.GivenUp
}

// Purge deletes what was settled long enough ago; see [reliable.Purger].
func (s *Store) Purge(
	ctx context.Context, status reliable.Status, olderThan time.Duration, limit int,
) (int, error) {
	switch {
	case !status.Final():
		return 0, s.fail("purge", reliable.Invalid("status", "is %v, only what is final can be deleted", status))
	case olderThan < 0:
		return 0, s.fail("purge", reliable.Invalid("olderThan", "is %v, must be 0 or more", olderThan))
	case limit < 1:
		return 0, s.fail("purge", reliable.Invalid("limit", "is %d, must be at least 1", limit))
	}
	deleted := 0
	err := s.write(ctx, func(tx Tx) error {
		var ids, troubled, decided []string
		err := s.query(ctx, tx, func(rows Rows) error {
			var id string
			var flags int
			if err := rows.Scan(&id, &flags); err != nil {
				return err
			}
			ids = append(ids, id)
			if flags&flagHistory != 0 {
				troubled = append(troubled, id)
			}
			if flags&flagDecided != 0 {
				decided = append(decided, id)
			}
			return nil
		}, s.dialect.PickSettled, int64(status), micros(olderThan), int64(limit))
		if err != nil {
			return err
		}
		deleted = len(ids)
		slices.Sort(ids)
		for _, step := range []struct {
			statement Statement
			ids       []string
		}{{s.dialect.Delete, ids}, {s.dialect.Forget, troubled}, {s.dialect.ForgetDecisions, decided}} {
			err := inChunks(step.ids, s.dialect.ListRows, func(part []string) error {
				_, err := s.exec(ctx, tx, step.statement, part)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, s.fail("purge", err)
	}
	return deleted, nil
}
