package storetest_test

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// decision reports whether a settlement holds no fact.
func decision(s settlement) bool { return s.To != reliable.Confirmed && !s.Charge }

// stale reports whether a settlement comes from a holder whose lease has passed on.
func (b *broken) stale(s settlement) bool {
	r, there := b.row(s.ID)
	return there && r.Fence != s.Fence
}

func (b *broken) has(s settlement, status reliable.Status) bool {
	r, there := b.row(s.ID)
	return there && r.Status == status
}

var settleFlaws = []flaw{
	{"acks are not recorded", func(b *broken) {
		b.insteadOfSettle(func(s settlement) (reliable.SettleResult, bool) {
			return reliable.Applied, s.To == reliable.Confirmed
		})
	}, by("Settle_an_ack_confirms")},
	{"repetitions are said to be applied", func(b *broken) {
		b.afterSettle(func(_ settlement, r *reliable.SettleResult) {
			if *r == reliable.Repeated {
				*r = reliable.Applied
			}
		})
	}, by(
		"Settle_an_ack_repeated_changes_nothing",
		"Settle_batches_that_meet_in_opposite_orders_are_all_recorded",
		"Settle_the_same_settlement_twice_in_one_batch_counts_once",
	)},
	{"anything can confirm", func(b *broken) {
		b.beforeSettle(func(s *settlement) {
			if s.To == reliable.Confirmed {
				s.Sent, s.Outcome = true, reliable.Acked
			}
		})
	}, by("Settle_only_an_ack_confirms")},
	{"delays of refusals are ignored", func(b *broken) { b.beforeSettle(func(s *settlement) { s.Delay = 0 }) }, by(
		"Settle_a_refusal_is_charged_and_tried_again_after_its_delay",
		"Settle_a_given_back_attempt_may_be_delayed",
	)},
	{"delays of refusals never end", func(b *broken) {
		b.beforeSettle(func(s *settlement) { s.Delay *= 10_000 })
	}, by("Settle_a_refusal_is_charged_and_tried_again_after_its_delay")},
	{"a repeated refusal is delayed again", func(b *broken) {
		again := make(map[reliable.ID]time.Duration)
		b.afterSettle(func(s settlement, r *reliable.SettleResult) {
			if *r == reliable.Repeated {
				again[s.ID] = s.Delay
			}
		})
		b.eachRecord(func(r *record) {
			if delay, ok := again[r.ID]; ok {
				r.DueIn = delay
			}
		})
	}, by("Settle_a_refusal_repeated_is_charged_once_and_not_delayed_again")},
	{"refusals are not charged", func(b *broken) {
		b.beforeSettle(func(s *settlement) { s.Charge = false })
	}, by("Settle_a_refusal_is_charged_and_tried_again_after_its_delay")},
	{"everything is charged", func(b *broken) {
		b.beforeSettle(func(s *settlement) { s.Charge = s.Sent && s.To != reliable.Confirmed })
	}, by("Settle_without_Charge_nothing_is_charged")},
	{"a charge counts again when it is repeated", func(b *broken) {
		more := make(map[reliable.ID]int)
		b.afterSettle(func(s settlement, r *reliable.SettleResult) {
			if s.Charge && *r == reliable.Repeated {
				more[s.ID]++
			}
		})
		b.eachClaimed(func(a *attempt) { a.Failures += more[a.ID] })
		b.eachRecord(func(r *record) { r.Failures += more[r.ID] })
	}, by(
		"Settle_a_refusal_repeated_is_charged_once_and_not_delayed_again",
		"Late_a_late_refusal_counts_once_per_fence",
	)},
	{"failures are counted once for ever", func(b *broken) {
		b.eachClaimed(func(a *attempt) { a.Failures = min(a.Failures, 1) })
	}, by("Settle_refusals_of_two_attempts_are_charged_twice")},
	{"unknown outcomes are forgotten", func(b *broken) {
		b.beforeSettle(func(s *settlement) {
			if s.Sent && s.Outcome == reliable.Unknown {
				s.Outcome = reliable.Nacked
			}
		})
	}, by("Settle_an_unknown_outcome_marks_the_envelope_for_good")},
	{"what is given back counts as an attempt", func(b *broken) {
		b.beforeSettle(func(s *settlement) {
			if !s.Sent {
				s.Sent, s.Outcome = true, reliable.Nacked
			}
		})
	}, by(
		"Settle_what_was_given_back_does_not_count_as_an_attempt",
		"Hold_parking_charges,_and_gives_back,_as_asked",
	)},
	{"giving back counts again when it is repeated", func(b *broken) {
		less := make(map[reliable.ID]int)
		b.afterSettle(func(s settlement, r *reliable.SettleResult) {
			if !s.Sent && *r != reliable.Applied {
				less[s.ID]++
			}
		})
		b.eachClaimed(func(a *attempt) { a.Attempts -= less[a.ID] })
	}, by("Settle_giving_back_twice_counts_once")},
	{"a stale holder's give-back counts", func(b *broken) {
		b.beforeSettle(func(s *settlement) {
			if r, there := b.row(s.ID); there && !s.Sent {
				s.Fence = r.Fence
			}
		})
	}, by("Settle_giving_back_twice_counts_once")},
	{"what failed is tried again", func(b *broken) {
		b.beforeSettle(func(s *settlement) {
			if s.To == reliable.Failed {
				s.To = reliable.Pending
			}
		})
	}, by("Settle_what_failed_is_not_claimed")},
	{"there is no fence for decisions", func(b *broken) {
		b.beforeSettle(func(s *settlement) {
			if r, there := b.row(s.ID); there && s.To != reliable.Confirmed {
				s.Fence = r.Fence
			}
		})
	}, by(
		"Late_a_stale_decision_to_try_again_is_ignored",
		"Late_a_stale_decision_to_fail_is_ignored",
		"Late_a_stale_give-back_is_ignored",
	)},
	{"confirmed goes back to pending", func(b *broken) {
		back := make(map[reliable.ID]bool)
		b.afterSettle(func(s settlement, r *reliable.SettleResult) {
			if *r == reliable.Stale && s.To != reliable.Confirmed && b.has(s, reliable.Confirmed) {
				back[s.ID] = true
			}
		})
		b.afterEnqueue(func(_ envelope, s *stored) {
			if back[s.ID] {
				s.Status = reliable.Pending
			}
		})
	}, by("Settle_a_confirmed_envelope_never_goes_back")},
	{"compensated goes back to pending", func(b *broken) {
		back := make(map[reliable.ID]bool)
		b.afterSettle(func(s settlement, _ *reliable.SettleResult) {
			if s.To != reliable.Confirmed && b.has(s, reliable.Compensated) {
				back[s.ID] = true
			}
		})
		b.afterEnqueue(func(_ envelope, s *stored) {
			if back[s.ID] {
				s.Status = reliable.Pending
			}
		})
	}, by("Compensation_done_makes_it_Compensated_for_good")},
	{"what is gone is said to be applied", func(b *broken) {
		b.afterSettle(func(s settlement, r *reliable.SettleResult) {
			if _, there := b.row(s.ID); !there {
				*r = reliable.Applied
			}
		})
	}, by("Settle_an_id_that_is_not_stored_is_stale")},
	{"nothing to settle is an error", func(b *broken) {
		b.settle = func(ctx context.Context, ss []settlement) ([]reliable.SettleResult, error) {
			if len(ss) == 0 {
				return nil, errFlaw
			}
			return b.Store.Settle(ctx, ss...)
		}
	}, by("Settle_nothing_to_settle_is_no_error")},
	{"results come in another order", func(b *broken) {
		b.settle = func(ctx context.Context, ss []settlement) ([]reliable.SettleResult, error) {
			results, err := b.Store.Settle(ctx, ss...)
			slices.Sort(results)
			return results, err
		}
	}, by("Settle_a_mixed_batch_has_each_result_at_its_index")},
	{"a batch is settled one by one", func(b *broken) {
		b.settle = func(ctx context.Context, ss []settlement) (results []reliable.SettleResult, err error) {
			for _, s := range ss {
				one, err := b.Store.Settle(ctx, s)
				if err != nil {
					return nil, err
				}
				results = append(results, one...)
			}
			return results, nil
		}
	}, by("Settle_a_batch_with_a_bad_settlement_records_nothing")},
	{"a batch above a thousand is refused", func(b *broken) {
		b.settle = func(ctx context.Context, ss []settlement) ([]reliable.SettleResult, error) {
			if len(ss) > 1000 {
				return nil, errFlaw
			}
			return b.Store.Settle(ctx, ss...)
		}
	}, by("Settle_two_thousand_are_settled_in_one_batch")},
	{"a reason with a NUL fails the batch", func(b *broken) {
		b.settle = func(ctx context.Context, ss []settlement) ([]reliable.SettleResult, error) {
			for _, s := range ss {
				if strings.ContainsRune(s.Reason, 0) {
					return nil, errFlaw
				}
			}
			return b.Store.Settle(ctx, ss...)
		}
	}, by("Settle_any_reason_can_be_stored")},
	{"reasons are kept as they came", func(b *broken) {
		raw := make(map[reliable.ID]string)
		b.beforeSettle(func(s *settlement) { raw[s.ID] = s.Reason })
		b.eachRecord(func(r *record) {
			for i := range r.History {
				r.History[i].Reason = raw[r.ID]
			}
		})
	}, by("Settle_a_reason_is_kept_sanitised_and_cut")},
	{"reasons are cut within a character", func(b *broken) {
		raw := make(map[reliable.ID]string)
		b.beforeSettle(func(s *settlement) { raw[s.ID] = s.Reason })
		b.eachRecord(func(r *record) {
			for i := range r.History {
				if text := raw[r.ID]; len(text) > reliable.MaxReasonBytes {
					r.History[i].Reason = text[:reliable.MaxReasonBytes]
				}
			}
		})
	}, by("Settle_a_reason_is_kept_sanitised_and_cut")},
	{"reasons are dropped", func(b *broken) {
		b.eachRecord(func(r *record) {
			for i := range r.History {
				r.History[i].Reason = ""
			}
		})
	}, by("Settle_a_reason_is_kept_sanitised_and_cut")},
	{"history is not kept", func(b *broken) { b.eachRecord(func(r *record) { r.History = nil }) }, by(
		"Settle_history_tells_what_did_not_end_acked",
		"Compensation_a_failed_envelope_is_handed_out_with_what_is_known_of_it",
	)},
	{"history has the newest first", func(b *broken) {
		b.eachRecord(func(r *record) { slices.Reverse(r.History) })
	}, by(
		"Settle_history_tells_what_did_not_end_acked",
		"Compensation_a_failed_envelope_is_handed_out_with_what_is_known_of_it",
	)},
	{"history keeps the oldest", func(b *broken) {
		b.eachRecord(func(r *record) {
			for i := range r.History {
				r.History[i].Fence = int64(i + 1)
			}
		})
	}, by("Settle_history_is_bounded_and_keeps_the_newest")},
	{"a canceled settlement is recorded all the same", func(b *broken) {
		b.settle = func(ctx context.Context, ss []settlement) ([]reliable.SettleResult, error) {
			results, err := b.Store.Settle(context.WithoutCancel(ctx), ss...)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return results, err
		}
	}, by("Settle_a_canceled_context_records_nothing")},
}

var lateFlaws = []flaw{
	{"late acks are ignored", func(b *broken) {
		b.insteadOfSettle(func(s settlement) (reliable.SettleResult, bool) {
			return reliable.Stale, s.To == reliable.Confirmed && b.stale(s)
		})
	}, by(
		"Late_a_late_ack_wins_over_a_newer_lease",
		"Late_a_late_ack_wins_over_a_newer_decision_to_try_again",
		"Late_an_ack_racing_with_a_newer_decision_always_wins",
		"Order_an_expired_lease_passes_the_head_on,_not_its_follower",
	)},
	{"acks after the end of the lease are ignored", func(b *broken) {
		ends := make(map[reliable.ID]time.Time)
		b.claim = func(ctx context.Context, req claimRequest) ([]attempt, error) {
			all, err := b.Store.Claim(ctx, req)
			for _, a := range all {
				ends[a.ID] = time.Now().Add(req.Lease)
			}
			return all, err
		}
		b.insteadOfSettle(func(s settlement) (reliable.SettleResult, bool) {
			end, ok := ends[s.ID]
			return reliable.Stale, ok && s.To == reliable.Confirmed && time.Now().After(end)
		})
	}, by("Late_an_ack_after_the_lease_ran_out_wins")},
	{"decisions after the end of the lease are ignored", func(b *broken) {
		ends := make(map[reliable.ID]time.Time)
		b.claim = func(ctx context.Context, req claimRequest) ([]attempt, error) {
			all, err := b.Store.Claim(ctx, req)
			for _, a := range all {
				ends[a.ID] = time.Now().Add(req.Lease)
			}
			return all, err
		}
		b.insteadOfSettle(func(s settlement) (reliable.SettleResult, bool) {
			end, ok := ends[s.ID]
			return reliable.Stale, ok && s.To != reliable.Confirmed && time.Now().After(end)
		})
	}, by("Late_a_decision_after_the_lease_ran_out_applies_while_nobody_else_claimed")},
	{"acks of what failed are ignored", func(b *broken) {
		b.insteadOfSettle(func(s settlement) (reliable.SettleResult, bool) {
			return reliable.Stale, s.To == reliable.Confirmed && b.has(s, reliable.Failed)
		})
	}, by("Compensation_a_late_ack_before_it_began_confirms", "Late_a_late_ack_wins_over_Failed")},
	{"late acks are said to be in time", func(b *broken) {
		b.afterSettle(func(s settlement, r *reliable.SettleResult) {
			if *r == reliable.Late {
				*r = reliable.Applied
			}
		})
	}, by("Late_a_late_ack_wins_over_a_newer_lease")},
	{"a late ack repeated is late again", func(b *broken) {
		b.afterSettle(func(s settlement, r *reliable.SettleResult) {
			if *r == reliable.Repeated && s.To == reliable.Confirmed {
				*r = reliable.Late
			}
		})
	}, by("Order_an_ack_repeated_lets_no_second_follower_go")},
	{"late refusals are ignored", func(b *broken) {
		b.insteadOfSettle(func(s settlement) (reliable.SettleResult, bool) {
			return reliable.Stale, s.Charge && b.stale(s)
		})
	}, by("Late_a_late_refusal_counts_once_per_fence")},
	{"refusals of what failed are ignored", func(b *broken) {
		b.insteadOfSettle(func(s settlement) (reliable.SettleResult, bool) {
			return reliable.Stale, s.Charge && b.stale(s) && b.has(s, reliable.Failed)
		})
	}, by("Late_a_late_refusal_counts_on_a_failed_envelope")},
	{"refusals of what is confirmed count", func(b *broken) {
		b.afterSettle(func(s settlement, r *reliable.SettleResult) {
			if s.Charge && *r == reliable.Stale && b.has(s, reliable.Confirmed) {
				*r = reliable.Late
			}
		})
	}, by("Late_a_late_ack_repeated_changes_nothing")},
	{"stale decisions are written down", func(b *broken) {
		stale := make(map[reliable.ID][]reliable.HistoryEntry)
		b.afterSettle(func(s settlement, r *reliable.SettleResult) {
			if *r == reliable.Stale {
				stale[s.ID] = append(stale[s.ID], reliable.HistoryEntry{Fence: s.Fence, Reason: s.Reason})
			}
		})
		b.eachRecord(func(r *record) { r.History = append(r.History, stale[r.ID]...) })
	}, by("Late_a_late_refusal_of_a_confirmed_envelope_is_stale")},
	{"a stale decision to fail is applied", func(b *broken) {
		b.beforeSettle(func(s *settlement) {
			if r, there := b.row(s.ID); there && s.To == reliable.Failed {
				s.Fence = r.Fence
			}
		})
	}, by("Late_a_stale_decision_to_fail_is_ignored")},
	{"a stale decision to try again is applied", func(b *broken) {
		b.beforeSettle(func(s *settlement) {
			if r, there := b.row(s.ID); there && s.To == reliable.Pending && decision(*s) {
				s.Fence = r.Fence
			}
		})
	}, by("Late_a_stale_decision_to_try_again_is_ignored")},
}
