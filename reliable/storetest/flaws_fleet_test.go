package storetest_test

import (
	"context"
	"math"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

var inspectFlaws = []flaw{
	{"Stats lists topics in which all is settled", func(b *broken) {
		b.stats = func(ctx context.Context) ([]reliable.TopicStats, error) {
			all, err := b.Store.Stats(ctx)
			return append(all, reliable.TopicStats{Topic: "settled"}), err
		}
	}, by("Inspect_Stats_counts_what_is_pending_and_failed_by_topic")},
	{"Stats counts no failed ones", func(b *broken) {
		b.stats = func(ctx context.Context) ([]reliable.TopicStats, error) {
			all, err := b.Store.Stats(ctx)
			for i := range all {
				all[i].Failed = 0
			}
			return all, err
		}
	}, by("Inspect_Stats_counts_what_is_pending_and_failed_by_topic")},
	{"Stats counts only what is due", func(b *broken) {
		b.stats = func(ctx context.Context) ([]reliable.TopicStats, error) {
			all, err := b.Store.Stats(ctx)
			for i := range all {
				all[i].Pending = 0
				for _, r := range b.Store.Records() {
					if r.Status == reliable.Pending && r.DueIn <= 0 && !r.Waiting && !r.Held && r.Topic == all[i].Topic {
						all[i].Pending++
					}
				}
			}
			return all, err
		}
	}, by("Inspect_Stats_counts_what_is_delayed,_leased_and_waiting_too")},
	{"Stats counts nothing that is parked", func(b *broken) {
		b.stats = func(ctx context.Context) ([]reliable.TopicStats, error) {
			all, err := b.Store.Stats(ctx)
			for i := range all {
				for _, r := range b.Store.Records() {
					if r.Held && r.Topic == all[i].Topic {
						all[i].Pending--
					}
				}
			}
			return all, err
		}
	}, by("Inspect_Stats_counts_what_is_parked")},
	{"Lookup returns what it is asked for twice", func(b *broken) {
		b.lookup = func(ctx context.Context, ids []reliable.ID) ([]record, error) {
			all, err := b.Store.Lookup(ctx, ids...)
			return append(all, all...), err
		}
	}, by("Inspect_Lookup_tells_what_is_stored_of_the_ids_that_exist")},
	{"Lookup makes up what is not stored", func(b *broken) {
		b.lookup = func(ctx context.Context, ids []reliable.ID) ([]record, error) {
			all, err := b.Store.Lookup(ctx, ids...)
			if err == nil && len(all) < len(ids) {
				all = append(all, record{})
			}
			return all, err
		}
	}, by("Inspect_Lookup_tells_what_is_stored_of_the_ids_that_exist")},
	{"Lookup does not know deadlines", func(b *broken) {
		b.eachRecord(func(r *record) { r.Deadline = 0 })
	}, by("Inspect_Lookup_tells_what_is_stored_of_the_ids_that_exist")},
	{"Lookup does not know what is due", func(b *broken) {
		b.eachRecord(func(r *record) { r.DueIn = 0 })
	}, by("Inspect_Lookup_tells_when_an_envelope_is_due")},
	{"Lookup does not know who waits", func(b *broken) {
		b.eachRecord(func(r *record) { r.Waiting = false })
	}, by("Inspect_Lookup_tells_what_waits_behind_a_head")},
	{"Lookup does not know behind whom", func(b *broken) {
		b.eachRecord(func(r *record) { r.Behind = "" })
	}, by("Inspect_Lookup_tells_what_waits_behind_a_head")},
	{"Lookup does not know who has leased", func(b *broken) {
		b.eachRecord(func(r *record) { r.LeasedBy = "" })
	}, by("Inspect_Lookup_tells_when_an_envelope_is_due")},
	{"Lookup forgets that a lease has ended", func(b *broken) {
		last := make(map[reliable.ID]string)
		b.eachRecord(func(r *record) {
			if r.LeasedBy != "" {
				last[r.ID] = r.LeasedBy
			}
			r.LeasedBy = last[r.ID]
		})
	}, by("Inspect_Lookup_tells_when_an_envelope_is_due")},
	{"Lookup does not know what is parked", func(b *broken) {
		b.eachRecord(func(r *record) { r.Held = false })
	}, by("Inspect_Lookup_tells_what_is_parked")},
	{"Lookup is not bounded", func(b *broken) {
		b.lookup = func(ctx context.Context, ids []reliable.ID) ([]record, error) {
			return b.Store.Lookup(ctx, ids[:min(len(ids), 1000)]...)
		}
	}, by("Inspect_Lookup_is_bounded")},
}

var fleetFlaws = []flaw{
	{"everybody is elected", func(b *broken) {
		b.elect = func(context.Context, string, string, time.Duration) (bool, error) { return true, nil }
	}, by("Fleet_of_concurrent_candidates_one_is_elected", "Fleet_one_worker_at_a_time_is_elected")},
	{"a term is not extended", func(b *broken) {
		terms := make(map[string]bool)
		b.elect = func(ctx context.Context, chore, worker string, lease time.Duration) (bool, error) {
			if terms[chore+worker] {
				return true, nil
			}
			ok, err := b.Store.Elect(ctx, chore, worker, lease)
			terms[chore+worker] = ok
			return ok, err
		}
	}, by("Fleet_a_term_ends_with_its_lease")},
	{"a term never ends", func(b *broken) {
		b.elect = func(ctx context.Context, chore, worker string, lease time.Duration) (bool, error) {
			return b.Store.Elect(ctx, chore, worker, lease*10_000)
		}
	}, by("Fleet_a_term_ends_with_its_lease")},
	{"anybody can resign for another", func(b *broken) {
		holders := make(map[string]string)
		b.elect = func(ctx context.Context, chore, worker string, lease time.Duration) (bool, error) {
			if lease == 0 {
				worker = holders[chore]
			}
			ok, err := b.Store.Elect(ctx, chore, worker, lease)
			if ok {
				holders[chore] = worker
			}
			return ok, err
		}
	}, by("Fleet_who_resigns_makes_room,_and_only_for_itself")},
	{"nobody can resign", func(b *broken) {
		b.elect = func(ctx context.Context, chore, worker string, lease time.Duration) (bool, error) {
			if lease == 0 {
				return false, nil
			}
			return b.Store.Elect(ctx, chore, worker, lease)
		}
	}, by("Fleet_who_resigns_makes_room,_and_only_for_itself")},
	{"wake-ups reach nobody", func(b *broken) {
		b.wake = func(context.Context) error { return nil }
	}, by("Fleet_a_wake-up_reaches_who_waits")},
	{"a wake-up with nobody waiting is an error", func(b *broken) {
		b.wake = func(context.Context) error { return errFlaw }
	}, by("Fleet_a_wake-up_with_nobody_waiting_is_no_error")},
	{"waiting ends with an error of its own", func(b *broken) {
		b.awaitWake = func(context.Context) error { return errFlaw }
	}, by("Fleet_waiting_for_a_wake-up_ends_with_its_context")},
	{"a fresh store finds fault with itself", func(b *broken) {
		b.check = func(context.Context) error { return reliable.ErrSchema }
	}, by("Fleet_a_fresh_store_finds_nothing_wrong_with_itself")},
	{"limits refuse everything", func(b *broken) {
		b.limits = func() reliable.Limits { return reliable.Limits{ID: 0, Topic: 1} }
	}, by("Fleet_its_limits_hold_what_the_wire_needs")},
	{"limits are negative", func(b *broken) {
		b.limits = func() reliable.Limits { return reliable.Limits{Payload: math.MinInt} }
	}, by("Fleet_its_limits_hold_what_the_wire_needs")},
}
