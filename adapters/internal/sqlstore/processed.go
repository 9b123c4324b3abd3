package sqlstore

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// StoreProcessed stores processed confirms; see [reliable.Confirmations]. They are written in one order, so that batches
// with confirms in common wait for each other and do not deadlock.
func (s *Store) StoreProcessed(ctx context.Context, confirms ...reliable.Processed) error {
	const op = "store processed"
	if len(confirms) > reliable.MaxProcessed {
		return s.fail(op, reliable.Invalid("confirms", "are %d, at most %d are stored at a time", len(confirms), reliable.MaxProcessed))
	}
	for i := range confirms {
		if err := confirms[i].Check(); err != nil {
			return s.fail(op, err)
		}
	}
	if len(confirms) == 0 {
		return nil
	}
	sorted := slices.Clone(confirms)
	slices.SortFunc(sorted, func(a, b reliable.Processed) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Group, b.Group))
	})
	sorted = slices.Compact(sorted)
	return s.fail(op, s.write(ctx, func(tx Tx) error {
		return inChunks(sorted, s.dialect.ListRows, func(part []reliable.Processed) error {
			ids, groups := make([]string, len(part)), make([]string, len(part))
			for i := range part {
				ids[i], groups[i] = string(part[i].ID), part[i].Group
			}
			_, err := s.exec(ctx, tx, s.dialect.StoreProcessed, ids, groups)
			return err
		})
	}))
}

// ProcessedBy returns which groups have processed each of the ids; see [reliable.Confirmations].
func (s *Store) ProcessedBy(ctx context.Context, ids ...reliable.ID) (map[reliable.ID][]string, error) {
	const op = "look up processed"
	if len(ids) > reliable.MaxProcessed {
		return nil, s.fail(op, reliable.Invalid("ids", "are %d, at most %d are looked up at a time", len(ids), reliable.MaxProcessed))
	}
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = string(id)
	}
	slices.Sort(texts)
	texts = slices.Compact(texts)
	var groups map[reliable.ID][]string
	err := s.read(ctx, func(c Conn) error {
		groups = make(map[reliable.ID][]string)
		return inChunks(texts, s.dialect.ListRows, func(part []string) error {
			return s.query(ctx, c, func(rows Rows) error {
				var id, group string
				if err := rows.Scan(&id, &group); err != nil {
					return err
				}
				groups[reliable.ID(id)] = append(groups[reliable.ID(id)], group)
				return nil
			}, s.dialect.ProcessedBy, part)
		})
	})
	if err != nil {
		return nil, s.fail(op, err)
	}
	return groups, nil
}

// PurgeProcessed deletes old confirms; see [reliable.Confirmations].
func (s *Store) PurgeProcessed(ctx context.Context, olderThan time.Duration, limit int) (int, error) {
	return s.purgeOldest(ctx, "purge processed", s.dialect.PurgeProcessed, olderThan, limit)
}
