package storetest_test

import (
	"context"
	"slices"

	"github.com/waybillmq/waybill/reliable"
)

var orderFlaws = []flaw{
	{"keys are not ordered", func(b *broken) {
		keys := make(map[reliable.ID]string)
		b.beforeEnqueue(func(_ *enqueueRequest, e *envelope) {
			keys[e.ID], e.Key = e.Key, ""
		})
		b.eachClaimed(func(a *attempt) { a.Key = keys[a.ID] })
		b.eachRecord(func(r *record) { r.Key = keys[r.ID] })
	}, by(
		"Order_one_of_a_key_is_on_its_way_at_a_time,_in_the_order_of_storing",
		"Order_a_head_that_is_tried_again_blocks_its_followers",
		"Order_concurrent_claimers_never_hold_two_of_a_key,_nor_out_of_order",
		"Order_overlapping_transactions_never_give_two_heads",
	)},
	{"followers never come", func(b *broken) {
		first := make(map[string]reliable.ID)
		b.afterClaim(func(all []attempt) []attempt {
			return slices.DeleteFunc(all, func(a attempt) bool {
				if a.Key == "" {
					return false
				}
				lane := a.Topic + "/" + a.Key
				if _, known := first[lane]; !known {
					first[lane] = a.ID
				}
				return first[lane] != a.ID
			})
		})
	}, by(
		"Order_one_of_a_key_is_on_its_way_at_a_time,_in_the_order_of_storing",
		"Order_a_follower_stored_after_its_head_settled_comes",
		"Order_followers_stored_while_their_head_settles_all_come",
	)},
	{"a failed head does not block", func(b *broken) {
		b.beforeSettle(func(s *settlement) { s.Release = s.To == reliable.Failed })
	}, by(
		"Order_a_failed_head_blocks_its_followers",
		"Order_a_late_ack_of_a_failed_head_lets_its_followers_go",
		"Order_other_keys_and_unkeyed_envelopes_do_not_wait",
		"Compensation_done_lets_the_followers_of_the_key_go",
	)},
	{"a failed head always blocks", func(b *broken) {
		b.beforeSettle(func(s *settlement) { s.Release = false })
	}, by(
		"Order_a_head_that_failed_with_Release_lets_its_followers_go",
		"Order_a_late_ack_of_a_released_head_lets_no_second_follower_go",
	)},
	{"a head that is tried again goes behind its followers", func(b *broken) {
		b.beforeSettle(func(s *settlement) {
			if s.Key != "" && s.To == reliable.Pending {
				s.To, s.Release, s.Outcome, s.Sent = reliable.Failed, true, reliable.Nacked, true
			}
		})
	}, by(
		"Hold_a_parked_head_keeps_its_followers_waiting",
		"Order_a_head_that_was_given_back_blocks_its_followers",
	)},
	{"all topics share their keys", func(b *broken) {
		topics := make(map[reliable.ID]string)
		b.beforeEnqueue(func(_ *enqueueRequest, e *envelope) {
			if e.Key != "" {
				topics[e.ID], e.Topic = e.Topic, "all"
			}
		})
		b.eachClaimed(func(a *attempt) {
			if topic, ok := topics[a.ID]; ok {
				a.Topic = topic
			}
		})
	}, by("Order_the_same_key_on_another_topic_does_not_wait")},
	{"everything waits for everything", func(b *broken) {
		keys := make(map[reliable.ID]string)
		b.beforeEnqueue(func(_ *enqueueRequest, e *envelope) {
			keys[e.ID], e.Key = e.Key, "the only one"
		})
		b.eachClaimed(func(a *attempt) { a.Key = keys[a.ID] })
	}, by("Order_other_keys_and_unkeyed_envelopes_do_not_wait")},
	{"a duplicate of a settled one comes again", func(b *broken) {
		var again []attempt
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			all, err := in.Enqueue(ctx, req, envs...)
			for _, s := range all {
				if !s.New && s.Status == reliable.Confirmed {
					again = append(again, s.Attempt)
				}
			}
			return all, err
		}
		b.claim = func(ctx context.Context, req claimRequest) ([]attempt, error) {
			all, err := b.Store.Claim(ctx, req)
			for len(again) > 0 && len(all) < req.Max {
				all, again = append(all, again[0]), again[1:]
			}
			return all, err
		}
	}, by(
		"Enqueue_a_duplicate_is_skipped_and_its_status_told",
		"Order_a_duplicate_of_a_follower_is_no_second_follower",
	)},
}
