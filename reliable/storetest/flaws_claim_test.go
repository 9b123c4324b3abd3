package storetest_test

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
)

var claimFlaws = []flaw{
	{"claims give no lease", func(b *broken) {
		b.claim = func(ctx context.Context, req claimRequest) ([]attempt, error) {
			all, err := b.Store.Claim(ctx, req)
			for _, a := range all {
				if _, err := b.Store.Settle(ctx, settlement{ID: a.ID, Fence: a.Fence}); err != nil {
					return nil, err
				}
			}
			return all, err
		}
	}, by(
		"Claim_a_lease_keeps_others_away",
		"Claim_eight_claimers_never_hold_one_envelope_twice",
		"Claim_expired_leases_have_one_new_holder_each",
	)},
	{"claims return what others have leased", func(b *broken) {
		var leased []attempt
		b.claim = func(ctx context.Context, req claimRequest) ([]attempt, error) {
			all, err := b.Store.Claim(ctx, req)
			fresh := len(all)
			for _, a := range leased {
				if r, there := b.row(a.ID); there && r.Status == reliable.Pending && len(all) < req.Max {
					all = append(all, a)
				}
			}
			leased = append(leased, all[:fresh]...)
			return all, err
		}
	}, by("Claim_a_lease_keeps_others_away", "Claim_eight_claimers_never_hold_one_envelope_twice")},
	{"an expired lease passes on to two", func(b *broken) {
		var again []attempt
		b.claim = func(ctx context.Context, req claimRequest) ([]attempt, error) {
			if len(again) > 0 {
				all := again[:min(req.Max, len(again))]
				again = again[len(all):]
				return all, nil
			}
			all, err := b.Store.Claim(ctx, req)
			for _, a := range all {
				if a.MayHaveBeenSent {
					again = append(again, a)
				}
			}
			return all, err
		}
	}, by("Claim_expired_leases_have_one_new_holder_each")},
	{"leases never end", func(b *broken) {
		b.beforeClaim(func(req *claimRequest) { req.Lease *= 10_000 })
	}, by("Claim_a_lease_that_ran_out_passes_on,_and_says_so")},
	{"an empty claim is an error", func(b *broken) {
		b.claim = func(ctx context.Context, req claimRequest) ([]attempt, error) {
			all, err := b.Store.Claim(ctx, req)
			if err == nil && len(all) == 0 {
				err = errFlaw
			}
			return all, err
		}
	}, by("Claim_an_empty_store_has_nothing_to_claim")},
	{"the newest come first", func(b *broken) {
		b.afterClaim(func(all []attempt) []attempt {
			slices.Reverse(all)
			return all
		})
	}, by("Claim_the_oldest_due_come_first")},
	{"claims come in the order of ids", func(b *broken) {
		b.afterClaim(func(all []attempt) []attempt {
			slices.SortFunc(all, func(a, b attempt) int { return cmp.Compare(a.ID, b.ID) })
			return all
		})
	}, by(
		"Claim_the_oldest_due_come_first",
		"Claim_what_was_tried_again_is_due_after_what_waited_longer",
	)},
	{"Max is ignored", func(b *broken) {
		b.beforeClaim(func(req *claimRequest) { req.Max *= 1000 })
	}, by("Claim_no_more_than_Max_come")},
	{"MaxBytes is ignored", func(b *broken) {
		b.beforeClaim(func(req *claimRequest) { req.MaxBytes = 0 })
	}, by("Claim_no_more_than_MaxBytes_come,_the_first_whatever_its_size")},
	{"MaxBytes holds the first one back", func(b *broken) {
		b.claim = func(ctx context.Context, req claimRequest) ([]attempt, error) {
			all, err := b.Store.Claim(ctx, req)
			if err == nil && req.MaxBytes > 0 && len(all) == 1 && all[0].Size() > req.MaxBytes {
				all = nil
			}
			return all, err
		}
	}, by("Claim_no_more_than_MaxBytes_come,_the_first_whatever_its_size")},
	{"MayHaveBeenSent is forgotten", func(b *broken) {
		b.eachClaimed(func(a *attempt) { a.MayHaveBeenSent = false })
		b.eachRecord(func(r *record) { r.MayHaveBeenSent = false })
	}, by(
		"Claim_a_lease_that_ran_out_passes_on,_and_says_so",
		"Settle_an_unknown_outcome_marks_the_envelope_for_good",
	)},
	{"everything may have been sent", func(b *broken) {
		b.eachClaimed(func(a *attempt) { a.MayHaveBeenSent = true })
	}, by("Enqueue_without_a_lease_all_are_claimable_at_once")},
	{"the fence does not grow", func(b *broken) {
		b.eachClaimed(func(a *attempt) { a.Fence = 1 })
	}, by("Claim_a_lease_that_ran_out_passes_on,_and_says_so")},
	{"the first fence is 0", func(b *broken) {
		b.eachClaimed(func(a *attempt) { a.Fence-- })
		b.beforeSettle(func(s *settlement) { s.Fence++ })
	}, by("Enqueue_without_a_lease_all_are_claimable_at_once")},
	{"attempts are not counted", func(b *broken) {
		b.eachClaimed(func(a *attempt) { a.Attempts = 1 })
	}, by(
		"Claim_a_lease_that_ran_out_passes_on,_and_says_so",
		"Settle_refusals_of_two_attempts_are_charged_twice",
	)},
	{"ages are not told", func(b *broken) {
		b.eachClaimed(func(a *attempt) { a.Age = 0 })
	}, by("Claim_ages_are_told")},
	{"FailingFor is the age", func(b *broken) {
		b.eachClaimed(func(a *attempt) { a.FailingFor = a.Age })
	}, by("Claim_ages_are_told")},
	{"FailingFor counts from the last refusal", func(b *broken) {
		last := make(map[reliable.ID]time.Time)
		b.eachClaimed(func(a *attempt) {
			if at, ok := last[a.ID]; ok && a.FailingFor > 0 {
				a.FailingFor = time.Since(at)
			}
		})
		b.beforeSettle(func(s *settlement) { last[s.ID] = time.Now() })
	}, by("Claim_ages_are_told")},
	{"FailingFor is never told", func(b *broken) {
		b.eachClaimed(func(a *attempt) { a.FailingFor = 0 })
	}, by("Claim_ages_are_told", "Hold_a_parked_envelope_has_been_failing_since_it_was_parked")},
	{"a canceled claim leases all the same", func(b *broken) {
		b.claim = func(ctx context.Context, req claimRequest) ([]attempt, error) {
			all, err := b.Store.Claim(context.WithoutCancel(ctx), req)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return all, err
		}
	}, by("Claim_a_canceled_context_claims_nothing")},
	{"bad claims are mended", func(b *broken) {
		b.beforeClaim(func(req *claimRequest) {
			req.Max, req.MaxBytes, req.Lease = max(req.Max, 1), max(req.MaxBytes, 0), max(req.Lease, time.Minute)
			req.Worker = req.Worker[:min(len(req.Worker), 128)]
		})
	}, by(
		"Claim_bad_requests_are_refused",
		"Compensation_bad_requests_are_refused",
		"Hold_bad_requests_are_refused",
	)},
	{"some of what is claimed is lost on the way", func(b *broken) {
		b.afterClaim(func(all []attempt) []attempt {
			if len(all) > 3 {
				return all[:3]
			}
			return all
		})
	}, by(
		"Enqueue_three_thousand_at_once_are_all_stored",
		"Claim_eight_claimers_never_hold_one_envelope_twice",
	)},
	{"a second handle sees a store of its own", func(b *broken) {
		b.reopen = func() reliable.Store { return memstore.New() }
	}, by("Claim_a_second_handle_sees_what_the_first_stored")},
}
