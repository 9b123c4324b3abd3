package storetest_test

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

var purgeFlaws = []flaw{
	{"what is pending or failed can be purged", func(b *broken) {
		b.purge = func(ctx context.Context, status reliable.Status, olderThan time.Duration, limit int) (int, error) {
			if !status.Final() {
				return 1, nil
			}
			return b.Store.Purge(ctx, status, olderThan, limit)
		}
	}, by("Purge_what_is_not_final_is_never_deleted")},
	{"the age is ignored", func(b *broken) {
		b.purge = func(ctx context.Context, status reliable.Status, _ time.Duration, limit int) (int, error) {
			return b.Store.Purge(ctx, status, 0, limit)
		}
	}, by("Purge_only_what_is_old_enough_is_deleted")},
	{"the age counts from when it was stored", func(b *broken) {
		b.purge = func(ctx context.Context, status reliable.Status, olderThan time.Duration, limit int) (int, error) {
			for _, r := range b.Store.Records() {
				if r.Status == status && r.Age >= olderThan {
					return b.Store.Purge(ctx, status, 0, limit)
				}
			}
			return b.Store.Purge(ctx, status, olderThan, limit)
		}
	}, by("Purge_only_what_is_old_enough_is_deleted")},
	{"purging is not bounded", func(b *broken) {
		b.purge = func(ctx context.Context, status reliable.Status, olderThan time.Duration, limit int) (int, error) {
			return b.Store.Purge(ctx, status, olderThan, limit*1000)
		}
	}, by("Purge_no_more_than_the_limit_is_deleted")},
	{"purging deletes what is settled, however", func(b *broken) {
		b.purge = func(ctx context.Context, status reliable.Status, olderThan time.Duration, limit int) (int, error) {
			n, err := b.Store.Purge(ctx, status, olderThan, limit)
			if err == nil && status == reliable.Compensated {
				_, err = b.Store.Purge(ctx, reliable.Confirmed, olderThan, limit)
			}
			return n, err
		}
	}, by("Purge_only_the_status_asked_for_is_deleted")},
	{"bad purges are mended", func(b *broken) {
		b.purge = func(ctx context.Context, status reliable.Status, olderThan time.Duration, limit int) (int, error) {
			return b.Store.Purge(ctx, status, max(olderThan, 0), max(limit, 1))
		}
	}, by("Purge_bad_requests_are_refused")},
	{"a purged one's charges stay behind", func(b *broken) {
		type attemptOf struct {
			id    reliable.ID
			fence int64
		}
		charged := make(map[attemptOf]bool)
		b.beforeSettle(func(s *settlement) {
			at := attemptOf{s.ID, s.Fence}
			if r, there := b.row(s.ID); there && s.Charge && charged[at] && len(r.History) == 0 {
				s.Charge = false
			}
			charged[at] = charged[at] || s.Charge
		})
	}, by("Purge_all_that_belongs_to_a_deleted_envelope_is_gone")},
	{"the history of a purged one stays behind", func(b *broken) {
		left := make(map[reliable.ID][]reliable.HistoryEntry)
		b.purge = func(ctx context.Context, status reliable.Status, olderThan time.Duration, limit int) (int, error) {
			for _, r := range b.Store.Records() {
				left[r.ID] = r.History
			}
			n, err := b.Store.Purge(ctx, status, olderThan, limit)
			for _, r := range b.Store.Records() {
				delete(left, r.ID)
			}
			return n, err
		}
		b.eachRecord(func(r *record) { r.History = append(slices.Clone(left[r.ID]), r.History...) })
	}, by("Purge_all_that_belongs_to_a_deleted_envelope_is_gone")},
	{"a purged head holds its key", func(b *broken) {
		held := make(map[string]bool)
		b.purge = func(ctx context.Context, status reliable.Status, olderThan time.Duration, limit int) (int, error) {
			before := make(map[reliable.ID]string)
			for _, r := range b.Store.Records() {
				before[r.ID] = r.Key
			}
			n, err := b.Store.Purge(ctx, status, olderThan, limit)
			for _, r := range b.Store.Records() {
				delete(before, r.ID)
			}
			for key := range maps.Values(before) {
				held[key] = key != ""
			}
			return n, err
		}
		b.afterClaim(func(all []attempt) []attempt {
			return slices.DeleteFunc(all, func(a attempt) bool { return held[a.Key] })
		})
	}, by("Purge_a_keyed_envelope_that_was_deleted_holds_nobody_up")},
}
