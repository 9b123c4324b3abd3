package storetest_test

import (
	"context"
	"slices"

	"github.com/waybillmq/waybill/reliable"
)

var compensationFlaws = []flaw{
	{"compensation gives no lease", func(b *broken) {
		b.claimFailed = func(ctx context.Context, req claimRequest, topics []string) ([]record, error) {
			all, err := b.Store.ClaimFailed(ctx, req, topics...)
			for _, r := range all {
				if _, err := b.Store.SettleCompensation(ctx, reliable.Compensation{ID: r.ID, Fence: r.Fence}); err != nil {
					return nil, err
				}
			}
			return all, err
		}
	}, by(
		"Compensation_a_lease_keeps_others_away",
		"Compensation_concurrent_claimers_never_hold_one_envelope_twice",
	)},
	{"a compensation's lease never ends", func(b *broken) {
		b.claimFailed = func(ctx context.Context, req claimRequest, topics []string) ([]record, error) {
			req.Lease *= 10_000
			return b.Store.ClaimFailed(ctx, req, topics...)
		}
	}, by("Compensation_a_lease_that_ran_out_passes_on,_and_the_old_holder_is_stale")},
	{"compensation takes from all topics", func(b *broken) {
		b.claimFailed = func(ctx context.Context, req claimRequest, _ []string) ([]record, error) {
			return b.Store.ClaimFailed(ctx, req, "order", "orders", "Orders", "invoices")
		}
	}, by("Compensation_only_what_failed,_of_the_topics_asked_for,_is_handed_out")},
	{"compensation ignores Max", func(b *broken) {
		b.claimFailed = func(ctx context.Context, req claimRequest, topics []string) ([]record, error) {
			req.Max *= 1000
			return b.Store.ClaimFailed(ctx, req, topics...)
		}
	}, by("Compensation_the_oldest_come_first,_no_more_than_asked_for")},
	{"compensation takes the newest first", func(b *broken) {
		b.claimFailed = func(ctx context.Context, req claimRequest, topics []string) ([]record, error) {
			all, err := b.Store.ClaimFailed(ctx, req, topics...)
			slices.Reverse(all)
			return all, err
		}
	}, by("Compensation_the_oldest_come_first,_no_more_than_asked_for")},
	{"compensation is not fenced", func(b *broken) {
		b.compensate = func(ctx context.Context, c reliable.Compensation) (reliable.SettleResult, error) {
			if r, there := b.row(c.ID); there {
				c.Fence = r.Fence
			}
			return b.Store.SettleCompensation(ctx, c)
		}
	}, by("Compensation_a_lease_that_ran_out_passes_on,_and_the_old_holder_is_stale")},
	{"compensation needs no claim", func(b *broken) {
		b.compensate = func(ctx context.Context, c reliable.Compensation) (reliable.SettleResult, error) {
			result, err := b.Store.SettleCompensation(ctx, c)
			if err == nil && result == reliable.Stale {
				result = reliable.Applied
			}
			return result, err
		}
	}, by("Compensation_an_envelope_that_is_not_claimed_cannot_be_compensated")},
	{"compensation is done whatever came of it", func(b *broken) {
		b.compensate = func(ctx context.Context, c reliable.Compensation) (reliable.SettleResult, error) {
			c.Done = true
			return b.Store.SettleCompensation(ctx, c)
		}
	}, by("Compensation_done_makes_it_Compensated_for_good")},
	{"compensation is never done", func(b *broken) {
		b.compensate = func(ctx context.Context, c reliable.Compensation) (reliable.SettleResult, error) {
			c.Done = false
			return b.Store.SettleCompensation(ctx, c)
		}
	}, by(
		"Compensation_done_makes_it_Compensated_for_good",
		"Compensation_done_lets_the_followers_of_the_key_go",
	)},
	{"a compensation's delay is ignored", func(b *broken) {
		b.compensate = func(ctx context.Context, c reliable.Compensation) (reliable.SettleResult, error) {
			c.Delay = 0
			return b.Store.SettleCompensation(ctx, c)
		}
	}, by("Compensation_not_done_is_due_again_after_its_delay,_with_its_reason")},
	{"a compensation's reason is dropped", func(b *broken) {
		b.compensate = func(ctx context.Context, c reliable.Compensation) (reliable.SettleResult, error) {
			c.Reason = ""
			return b.Store.SettleCompensation(ctx, c)
		}
	}, by("Compensation_not_done_is_due_again_after_its_delay,_with_its_reason")},
	{"a late ack is applied after compensation began", func(b *broken) {
		acked := make(map[reliable.ID]bool)
		b.afterSettle(func(s settlement, r *reliable.SettleResult) {
			if *r == reliable.Overtaken && b.has(s, reliable.Failed) {
				acked[s.ID] = true
			}
		})
		b.afterEnqueue(func(_ envelope, s *stored) {
			if acked[s.ID] {
				s.Status = reliable.Confirmed
			}
		})
	}, by("Compensation_a_late_ack_after_it_began_is_recorded,_not_applied")},
	{"a late ack is applied to what was compensated", func(b *broken) {
		acked := make(map[reliable.ID]bool)
		b.afterSettle(func(s settlement, r *reliable.SettleResult) {
			if *r == reliable.Overtaken && b.has(s, reliable.Compensated) {
				acked[s.ID] = true
			}
		})
		b.afterEnqueue(func(_ envelope, s *stored) {
			if acked[s.ID] {
				s.Status = reliable.Confirmed
			}
		})
	}, by("Compensation_a_late_ack_of_what_was_compensated_is_recorded,_not_applied")},
	{"an ack that compensation has overtaken is told like one that wins", func(b *broken) {
		b.afterSettle(func(_ settlement, r *reliable.SettleResult) {
			if *r == reliable.Overtaken {
				*r = reliable.Late
			}
		})
	}, by("Compensation_a_late_ack_after_it_began_is_recorded,_not_applied",
		"Compensation_a_late_ack_of_what_was_compensated_is_recorded,_not_applied")},
	{"a late ack after compensation began is forgotten", func(b *broken) {
		b.eachRecord(func(r *record) { r.LateAck = false })
	}, by("Compensation_a_late_ack_after_it_began_is_recorded,_not_applied")},
}
