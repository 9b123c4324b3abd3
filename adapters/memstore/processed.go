package memstore

import (
	"context"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// StoreProcessed stores processed confirms; see [reliable.Confirmations].
func (s *Store) StoreProcessed(ctx context.Context, confirms ...reliable.Processed) error {
	ids := func() []reliable.ID { return idsOf(confirms, func(p *reliable.Processed) reliable.ID { return p.ID }) }
	return s.do(ctx, OpStoreProcessed, ids, func(now time.Time) error {
		if len(confirms) > reliable.MaxProcessed {
			return reliable.Invalid("confirms", "are %d, at most %d are stored at a time", len(confirms), reliable.MaxProcessed)
		}
		for i := range confirms {
			if err := confirms[i].Check(); err != nil {
				return err
			}
		}
		for _, p := range confirms {
			if _, known := s.processed[p]; !known {
				s.processed[p] = now
			}
		}
		return nil
	})
}

// ProcessedBy returns which groups have processed each of the ids; see [reliable.Confirmations].
func (s *Store) ProcessedBy(ctx context.Context, ids ...reliable.ID) (map[reliable.ID][]string, error) {
	var groups map[reliable.ID][]string
	err := s.do(ctx, OpProcessedBy, func() []reliable.ID { return ids }, func(time.Time) error {
		if len(ids) > reliable.MaxProcessed {
			return reliable.Invalid("ids", "are %d, at most %d are looked up at a time", len(ids), reliable.MaxProcessed)
		}
		groups = make(map[reliable.ID][]string)
		for p := range s.processed {
			if slices.Contains(ids, p.ID) {
				groups[p.ID] = append(groups[p.ID], p.Group)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return groups, nil
}

// PurgeProcessed deletes old confirms; see [reliable.Confirmations].
func (s *Store) PurgeProcessed(ctx context.Context, olderThan time.Duration, limit int) (deleted int, err error) {
	err = s.do(ctx, OpPurge, nil, func(now time.Time) (err error) {
		deleted, err = purgeOldest(s.processed, func(at time.Time) time.Time { return at }, now, olderThan, limit)
		return err
	})
	return deleted, err
}
