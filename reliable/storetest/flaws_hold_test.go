package storetest_test

import (
	"context"
	"math"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

var holdFlaws = []flaw{
	{"refusals are not counted", func(b *broken) {
		b.hold = func(ctx context.Context, topic string, delay time.Duration) (reliable.Hold, error) {
			h, err := b.Store.Hold(ctx, topic, delay)
			h.Refusals = 1
			return h, err
		}
		b.holds = func(ctx context.Context) ([]reliable.Hold, error) {
			holds, err := b.Store.Holds(ctx)
			for i := range holds {
				holds[i].Refusals = 1
			}
			return holds, err
		}
	}, by("Hold_concurrent_refusals_are_all_counted")},
	{"holds are seen by nobody", func(b *broken) {
		b.holds = func(context.Context) ([]reliable.Hold, error) { return nil, nil }
	}, by("Hold_a_hold_counts_its_refusals_and_tells_its_next_probe")},
	{"parking is ignored", func(b *broken) {
		b.beforeSettle(func(s *settlement) { s.Park = false })
	}, by("Hold_what_is_parked_is_not_claimed")},
	{"what is parked is lost", func(b *broken) {
		b.beforeSettle(func(s *settlement) {
			if s.Park {
				s.Park, s.Delay = false, 1000*time.Hour
			}
		})
	}, by(
		"Hold_what_is_parked_is_not_claimed",
		"Hold_nothing_parked_while_Unhold_runs_is_left_behind",
	)},
	{"what is parked without a hold is lost", func(b *broken) {
		b.beforeSettle(func(s *settlement) {
			if holds, _ := b.Store.Holds(context.Background()); s.Park && len(holds) == 0 {
				s.Delay = 1000 * time.Hour
			}
		})
	}, by("Hold_without_a_hold_a_parked_envelope_waits_for_its_delay")},
	{"a hold holds every topic", func(b *broken) {
		b.beforeSettle(func(s *settlement) {
			if holds, _ := b.Store.Holds(context.Background()); s.Park && len(holds) > 0 && holds[0].Topic != s.Topic {
				s.Delay = 1000 * time.Hour
			}
		})
	}, by("Hold_other_topics_are_not_held")},
	{"parking charges nothing", func(b *broken) {
		b.beforeSettle(func(s *settlement) { s.Charge = s.Charge && !s.Park })
	}, by("Hold_parking_charges,_and_gives_back,_as_asked")},
	{"a stale holder can park", func(b *broken) {
		b.beforeSettle(func(s *settlement) {
			if r, there := b.row(s.ID); there && s.Park {
				s.Fence = r.Fence
			}
		})
	}, by("Hold_a_stale_holder_parks_nothing")},
	{"waiting behind a hold is not failing", func(b *broken) {
		b.eachClaimed(func(a *attempt) {
			if a.Failures == 0 {
				a.FailingFor = 0
			}
		})
	}, by("Hold_a_parked_envelope_has_been_failing_since_it_was_parked")},
	{"acks of what is parked are ignored", func(b *broken) {
		b.insteadOfSettle(func(s settlement) (reliable.SettleResult, bool) {
			r, there := b.row(s.ID)
			return reliable.Stale, there && r.Held && s.To == reliable.Confirmed
		})
	}, by("Hold_a_late_ack_confirms_what_is_parked")},
	{"probes come before they are due", func(b *broken) {
		b.hold = func(ctx context.Context, topic string, delay time.Duration) (reliable.Hold, error) {
			h, err := b.Store.Hold(ctx, topic, min(delay, 0))
			h.NextProbe = delay
			return h, err
		}
	}, by("Hold_a_probe_comes_only_when_it_is_due")},
	{"probes never come", func(b *broken) {
		b.probe = func(context.Context, string, claimRequest) ([]attempt, error) { return nil, nil }
	}, by("Hold_a_probe_takes_one,_for_its_lease")},
	{"two probe at a time", func(b *broken) {
		b.probe = func(ctx context.Context, topic string, req claimRequest) ([]attempt, error) {
			all, err := b.Store.Probe(ctx, topic, req)
			if err != nil || len(all) > 0 {
				return all, err
			}
			holds, err := b.Store.Holds(ctx)
			if err != nil || len(holds) == 0 {
				return nil, err
			}
			if _, err := b.Store.Hold(ctx, topic, 0); err != nil {
				return nil, err
			}
			return b.Store.Probe(ctx, topic, req)
		}
	}, by("Hold_of_concurrent_probers_one_probes")},
	{"a probe takes as many as it is asked for", func(b *broken) {
		b.probe = func(ctx context.Context, topic string, req claimRequest) (all []attempt, err error) {
			for range min(req.Max, 3) {
				one, err := b.Store.Probe(ctx, topic, req)
				if err != nil {
					return nil, err
				}
				all = append(all, one...)
				if _, err := b.Store.Hold(ctx, topic, 0); err != nil {
					return nil, err
				}
			}
			return all, nil
		}
	}, by("Hold_a_probe_takes_one,_for_its_lease")},
	{"a probe takes from a topic that is not held", func(b *broken) {
		b.probe = func(ctx context.Context, topic string, req claimRequest) ([]attempt, error) {
			holds, err := b.Store.Holds(ctx)
			if err == nil && len(holds) == 0 {
				return b.Store.Claim(ctx, req)
			}
			return b.Store.Probe(ctx, topic, req)
		}
	}, by("Hold_a_probe_finds_nothing_where_nothing_waits")},
	{"a probe takes the same one every time", func(b *broken) {
		b.beforeSettle(func(s *settlement) { s.Charge = s.Charge && !s.Park })
		failures := make(map[reliable.ID]int)
		inner := b.settle
		b.settle = func(ctx context.Context, ss []settlement) ([]reliable.SettleResult, error) {
			for _, s := range ss {
				if s.Park && s.Charge {
					failures[s.ID]++
				}
			}
			return inner(ctx, ss)
		}
		b.eachClaimed(func(a *attempt) { a.Failures += failures[a.ID] })
	}, by("Hold_a_probe_rotates_to_those_that_failed_least")},
	{"what a dead prober had is lost", func(b *broken) {
		b.probe = func(ctx context.Context, topic string, req claimRequest) ([]attempt, error) {
			req.Lease *= 10_000
			return b.Store.Probe(ctx, topic, req)
		}
	}, by("Hold_the_probe_of_a_dead_prober_comes_back")},
	{"bad requests of holders are mended", func(b *broken) {
		b.hold = func(ctx context.Context, topic string, delay time.Duration) (reliable.Hold, error) {
			return b.Store.Hold(ctx, topic, max(delay, 0))
		}
	}, by("Hold_bad_requests_are_refused")},
	{"a hold is never released", func(b *broken) {
		b.unhold = func(context.Context, string, int) (bool, error) { return false, nil }
	}, by(
		"Hold_Unhold_releases_in_batches,_the_oldest_first",
		"Hold_nothing_parked_while_Unhold_runs_is_left_behind",
	)},
	{"Unhold ignores its limit", func(b *broken) {
		b.unhold = func(ctx context.Context, topic string, _ int) (bool, error) {
			return b.Store.Unhold(ctx, topic, math.MaxInt)
		}
	}, by("Hold_bad_requests_are_refused")},
	{"Unhold of what is not held is an error", func(b *broken) {
		b.unhold = func(ctx context.Context, topic string, limit int) (bool, error) {
			holds, err := b.Store.Holds(ctx)
			if err != nil || len(holds) == 0 {
				return false, errFlaw
			}
			return b.Store.Unhold(ctx, topic, limit)
		}
	}, by("Hold_Unhold_of_what_is_not_held_is_no_error")},
	{"Unhold keeps the hold", func(b *broken) {
		b.unhold = func(ctx context.Context, topic string, limit int) (bool, error) {
			left, err := b.Store.Unhold(ctx, topic, limit)
			if err == nil && !left {
				_, err = b.Store.Hold(ctx, topic, time.Hour)
			}
			return left, err
		}
	}, by(
		"Hold_nothing_parked_while_Unhold_runs_is_left_behind",
		"Hold_a_hold_counts_its_refusals_and_tells_its_next_probe",
	)},
	{"FailHeld ignores how long it has waited", func(b *broken) {
		b.beforeFailHeld(func(req *failHeldRequest) { req.Waited = min(req.Waited, 0) })
	}, by("Hold_FailHeld_fails_only_what_waited_long_enough")},
	{"FailHeld mends its limit", func(b *broken) {
		b.beforeFailHeld(func(req *failHeldRequest) { req.Limit = max(req.Limit, 1) })
	}, by("Hold_bad_requests_are_refused")},
	{"FailHeld mends how long it has waited", func(b *broken) {
		b.beforeFailHeld(func(req *failHeldRequest) { req.Waited = max(req.Waited, 0) })
	}, by("Hold_bad_requests_are_refused")},
	{"FailHeld ignores its limit", func(b *broken) {
		b.beforeFailHeld(func(req *failHeldRequest) {
			if req.Limit > 0 {
				req.Limit = math.MaxInt
			}
		})
	}, by("Hold_FailHeld_is_bounded")},
	{"FailHeld gives no reason", func(b *broken) {
		b.beforeFailHeld(func(req *failHeldRequest) { req.Reason = "" })
	}, by("Hold_FailHeld_keeps_its_reason")},
	{"FailHeld never lets followers go", func(b *broken) {
		b.beforeFailHeld(func(req *failHeldRequest) { req.Release = false })
	}, by("Hold_a_failed_head_behind_a_hold_lets_its_followers_go_only_with_Release")},
	{"FailHeld always lets followers go", func(b *broken) {
		b.beforeFailHeld(func(req *failHeldRequest) { req.Release = true })
	}, by("Hold_a_failed_head_behind_a_hold_lets_its_followers_go_only_with_Release")},
	{"FailHeld does nothing", func(b *broken) {
		b.failHeld = func(_ context.Context, _ string, req failHeldRequest) (int, error) {
			if req.Limit < 1 || req.Waited < 0 {
				return 0, reliable.ErrInvalid
			}
			return 0, nil
		}
	}, by(
		"Hold_FailHeld_is_bounded",
		"Hold_a_failed_head_behind_a_hold_lets_its_followers_go_only_with_Release",
	)},
}

// beforeFailHeld spoils what is asked of FailHeld.
func (b *broken) beforeFailHeld(spoil func(req *failHeldRequest)) {
	b.failHeld = func(ctx context.Context, topic string, req failHeldRequest) (int, error) {
		spoil(&req)
		return b.Store.FailHeld(ctx, topic, req)
	}
}
