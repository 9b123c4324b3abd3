package storetest_test

import (
	"context"
	"slices"

	"github.com/waybillmq/waybill/reliable"
)

// requeued remembers what was requeued.
func (b *broken) requeued() map[reliable.ID]bool {
	ids := make(map[reliable.ID]bool)
	b.afterDecide(func(d ruling, v *verdict) {
		if v.Verdict == reliable.Decided && d.Action == reliable.Requeue {
			ids[v.ID] = true
		}
	})
	return ids
}

// withoutKeys keeps the envelopes of keys from being claimed, once a decision has been made about one of the key.
func (b *broken) withoutKeys(stuck func(d ruling, before record) bool) {
	keys := make(map[string]bool)
	b.beforeDecide(func(d *ruling) {
		for _, id := range d.IDs {
			if r, there := b.row(id); there && r.Key != "" && stuck(*d, r) {
				keys[r.Key] = true
			}
		}
	})
	b.afterClaim(func(all []attempt) []attempt {
		return slices.DeleteFunc(all, func(a attempt) bool { return keys[a.Key] })
	})
}

var overruleFlaws = []flaw{
	{"a late ack confirms what was discarded", func(b *broken) {
		acked := make(map[reliable.ID]bool)
		b.afterSettle(func(s settlement, r *reliable.SettleResult) {
			if *r == reliable.Overtaken && b.has(s, reliable.Discarded) {
				acked[s.ID] = true
			}
		})
		b.afterEnqueue(func(_ envelope, s *stored) {
			if acked[s.ID] {
				s.Status = reliable.Confirmed
			}
		})
	}, by(
		"Decide_what_is_discarded_in_flight_stays_discarded,_whatever_comes",
		"Decide_a_late_ack_of_a_discarded_one_is_recorded,_and_does_not_stand_in_its_way_later",
	)},
	{"a late ack of what was discarded is lost", func(b *broken) {
		b.insteadOfSettle(func(s settlement) (reliable.SettleResult, bool) {
			return reliable.Stale, s.To == reliable.Confirmed && b.has(s, reliable.Discarded)
		})
	}, by("Decide_what_is_discarded_in_flight_stays_discarded,_whatever_comes")},
	{"what was discarded in flight cannot have been sent", func(b *broken) {
		b.eachClaimed(func(a *attempt) {
			if r, there := b.row(a.ID); there && len(r.History) > 0 && r.History[0].Action == reliable.Discard {
				a.MayHaveBeenSent = false
			}
		})
	}, by("Decide_what_is_discarded_in_flight_stays_discarded,_whatever_comes")},
	{"a requeue does not make the fence grow", func(b *broken) {
		again := b.requeued()
		b.beforeSettle(func(s *settlement) {
			if r, there := b.row(s.ID); there && again[s.ID] {
				s.Fence = r.Fence
			}
		})
	}, by("Decide_what_is_requeued_obeys_nobody_of_before", modelCheck)},
	{"a late ack of what was requeued is lost", func(b *broken) {
		again := b.requeued()
		b.insteadOfSettle(func(s settlement) (reliable.SettleResult, bool) {
			r, _ := b.row(s.ID)
			return reliable.Stale, again[s.ID] && s.To == reliable.Confirmed && s.Fence < r.Fence
		})
	}, by(
		modelCheck,
		"Decide_a_late_ack_of_a_requeued_one_confirms_it",
		"Decide_a_late_ack_of_a_requeued_one_that_waits_confirms_it",
	)},
	{"an ack after a late one is taken for its repetition", func(b *broken) {
		late := make(map[reliable.ID]bool)
		b.settle = func(ctx context.Context, ss []settlement) ([]reliable.SettleResult, error) {
			if late[ss[0].ID] && ss[0].To == reliable.Confirmed {
				return []reliable.SettleResult{reliable.Repeated}, nil
			}
			results, err := b.Store.Settle(ctx, ss...)
			for i, r := range results {
				late[ss[i].ID] = late[ss[i].ID] || r == reliable.Overtaken
			}
			return results, err
		}
	}, by(
		"Decide_a_late_ack_of_a_discarded_one_is_recorded,_and_does_not_stand_in_its_way_later",
		"Decide_a_late_ack_during_compensation_does_not_stand_in_its_way_after_a_requeue",
		modelCheck,
	)},
	{"a handler at work is overruled", func(b *broken) {
		b.afterDecide(func(d ruling, v *verdict) {
			if v.Verdict == reliable.Busy {
				v.Verdict, v.Status = reliable.Decided, statusAfter(d.Action)
			}
		})
	}, by("Decide_one_that_a_handler_holds_is_busy", modelCheck)},
	{"who was a handler's is busy for ever", func(b *broken) {
		held := make(map[reliable.ID]bool)
		b.claimFailed = func(ctx context.Context, req claimRequest, topics []string) ([]record, error) {
			all, err := b.Store.ClaimFailed(ctx, req, topics...)
			for _, r := range all {
				held[r.ID] = true
			}
			return all, err
		}
		b.decide = func(ctx context.Context, d ruling) ([]verdict, error) {
			if held[d.IDs[0]] {
				return []verdict{{ID: d.IDs[0], Verdict: reliable.Busy, Status: reliable.Failed}}, nil
			}
			return b.Store.Decide(ctx, d)
		}
	}, by(
		"Decide_one_that_a_handler_holds_is_busy",
		"Decide_one_whose_handler_is_gone_is_not_busy",
		modelCheck,
	)},
	{"a key stops at what was discarded in front", func(b *broken) {
		b.withoutKeys(func(d ruling, before record) bool {
			return d.Action == reliable.Discard && before.Status == reliable.Pending && !before.Waiting
		})
	}, by("Decide_a_discarded_head_lets_its_key_go_on")},
	{"a key stops at what was discarded in front of it after it had failed", func(b *broken) {
		b.withoutKeys(func(d ruling, before record) bool {
			return d.Action == reliable.Discard && before.Status == reliable.Failed
		})
	}, by("Decide_a_head_discarded_together_with_one_that_was_released_lets_the_rest_of_its_key_go_on")},
	{"a key stops at what a person compensated", func(b *broken) {
		b.withoutKeys(func(d ruling, _ record) bool { return d.Action == reliable.Compensate })
	}, by("Decide_a_head_that_failed_and_is_compensated_or_discarded_lets_its_key_go_on")},
	{"a key stops at what was discarded while it waited", func(b *broken) {
		b.withoutKeys(func(d ruling, before record) bool { return d.Action == reliable.Discard && before.Waiting })
	}, by(
		"Decide_discarded_while_waiting_it_is_passed_over",
		"Decide_discarding_those_who_wait_races_with_those_who_go_and_no_key_is_stuck",
	)},
	{"an id that was discarded while waiting keeps its place", func(b *broken) {
		b.withoutKeys(func(d ruling, before record) bool { return d.Action == reliable.Discard && before.Waiting })
	}, by("Decide_an_id_that_was_discarded_while_waiting_and_purged_can_be_used_for_another_key")},
	{"a requeued head goes to the end", func(b *broken) {
		b.decide = func(ctx context.Context, d ruling) ([]verdict, error) {
			if d.Action == reliable.Requeue {
				first := d
				first.Action = reliable.Discard
				if _, err := b.Store.Decide(ctx, first); err != nil {
					return nil, err
				}
			}
			return b.Store.Decide(ctx, d)
		}
	}, by("Decide_a_requeued_head_goes_in_front")},
	{"a requeued one does not wait for its key", func(b *broken) {
		again := b.requeued()
		b.afterClaim(func(all []attempt) []attempt {
			for id := range again {
				if r, there := b.row(id); there && r.Waiting {
					all = append(all, r.Attempt)
				}
			}
			return all
		})
	}, by("Decide_one_whose_key_went_on_without_it_is_requeued_into_the_line", modelCheck)},
	{"requeued together they line up as they were named", func(b *broken) {
		b.decide = func(ctx context.Context, d ruling) ([]verdict, error) {
			var all []verdict
			for _, id := range d.IDs {
				d.IDs = []reliable.ID{id}
				one, err := b.Store.Decide(ctx, d)
				if err != nil {
					return nil, err
				}
				all = append(all, one...)
			}
			return all, nil
		}
	}, by("Decide_requeued_together_they_keep_their_order")},
	{"what is discarded while waiting goes all the same", func(b *broken) {
		b.decide = func(ctx context.Context, d ruling) ([]verdict, error) {
			if r, there := b.row(d.IDs[0]); there && r.Waiting {
				return []verdict{{ID: r.ID, Status: reliable.Discarded}}, nil
			}
			return b.Store.Decide(ctx, d)
		}
	}, by("Decide_discarded_while_waiting_it_is_passed_over")},
	{"one that was discarded while waiting is passed over at a time", func(b *broken) {
		over := 0
		b.beforeDecide(func(d *ruling) { over += len(d.IDs) })
		b.claim = func(ctx context.Context, req claimRequest) ([]attempt, error) {
			if over > 0 {
				over--
				return nil, nil
			}
			return b.Store.Claim(ctx, req)
		}
	}, by(
		"Decide_hundreds_discarded_while_waiting_hold_nobody_up",
		"Decide_hundreds_discarded_before_they_were_ever_claimed_hold_nobody_up",
	)},
}
