package storetest_test

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

func (b *broken) Withhold(ctx context.Context, patience time.Duration, ws ...withheld) error {
	if b.withhold != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.withhold(ctx, patience, ws)
	}
	return b.Store.Withhold(ctx, patience, ws...)
}

func (b *broken) Undecided(ctx context.Context, source string, req claimRequest) ([]withheld, error) {
	if b.undecided != nil {
		return b.undecided(ctx, source, req)
	}
	return b.Store.Undecided(ctx, source, req)
}

func (b *broken) Resolve(ctx context.Context, req enqueueRequest, rs ...resolution) ([]reliable.Resolved, error) {
	if b.resolve != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.resolve(ctx, req, rs)
	}
	return b.Store.Resolve(ctx, req, rs...)
}

type (
	withheld   = reliable.Withheld
	resolution = reliable.Resolution
)

// withheldAs changes what is withheld.
func withheldAs(change func(patience *time.Duration, w *withheld)) func(b *broken) {
	return func(b *broken) {
		b.withhold = func(ctx context.Context, patience time.Duration, ws []withheld) error {
			changed := slices.Clone(ws)
			for i := range changed {
				change(&patience, &changed[i])
			}
			return b.Store.Withhold(ctx, patience, changed...)
		}
	}
}

// resolvedAs changes how it is resolved.
func resolvedAs(change func(req *enqueueRequest, r *resolution)) func(b *broken) {
	return func(b *broken) {
		b.resolve = func(ctx context.Context, req enqueueRequest, rs []resolution) ([]reliable.Resolved, error) {
			changed := slices.Clone(rs)
			for i := range changed {
				change(&req, &changed[i])
			}
			return b.Store.Resolve(ctx, req, changed...)
		}
	}
}

// toldOfResolved changes what is said of each resolution.
func toldOfResolved(change func(r resolution, told *reliable.Resolved)) func(b *broken) {
	return func(b *broken) {
		b.resolve = func(ctx context.Context, req enqueueRequest, rs []resolution) ([]reliable.Resolved, error) {
			all, err := b.Store.Resolve(ctx, req, rs...)
			for i := range all {
				change(rs[i], &all[i])
			}
			return all, err
		}
	}
}

var withholdFlaws = []flaw{
	{"what is withheld is stored at once", func(b *broken) {
		b.withhold = func(ctx context.Context, _ time.Duration, ws []withheld) error {
			for i := range ws {
				if _, err := b.Store.Enqueue(ctx, enqueueRequest{}, ws[i].Envelope); err != nil {
					return err
				}
			}
			return nil
		}
	}, by("Withhold_what_is_withheld_is_not_in_the_outbox")},
	{"a release leases nothing", resolvedAs(func(req *enqueueRequest, _ *resolution) { req.Lease = 0 }),
		by("Withhold_what_committed_is_released_as_though_it_were_stored_then")},
	{"a release forgets key and delay", resolvedAs(func(_ *enqueueRequest, r *resolution) { r.Key, r.Delay = "", 0 }),
		by("Withhold_a_key_orders_what_is_released,_and_delays_begin_then")},
	{"what aborted is released", resolvedAs(func(_ *enqueueRequest, r *resolution) {
		if r.Fate == reliable.FateAborted {
			r.Fate = reliable.FateCommitted
		}
	}), by("Withhold_what_aborted_leaves_no_trace", "Withhold_each_transaction_of_an_id_is_decided_by_itself")},
	{"what is open is forgotten", resolvedAs(func(_ *enqueueRequest, r *resolution) {
		if r.Fate == reliable.FateOpen {
			r.Again = 24 * time.Hour
		}
	}), by("Withhold_what_is_open_is_asked_about_again")},
	{"what nobody can tell is dropped", resolvedAs(func(_ *enqueueRequest, r *resolution) {
		if r.Fate == reliable.FateUnknowable {
			r.Fate = reliable.FateAborted
		}
	}), by("Withhold_what_nobody_can_tell_fails,_and_holds_up_nobody")},
	{"what is gone is not told", toldOfResolved(func(_ resolution, told *reliable.Resolved) { told.Gone = false }),
		by("Withhold_a_ticket_is_resolved_once")},
	{"two resolvers release the same", func(b *broken) {
		b.resolve = func(ctx context.Context, req enqueueRequest, rs []resolution) ([]reliable.Resolved, error) {
			all, err := b.Store.Resolve(ctx, req, rs...)
			for i := range all {
				all[i].Leased = true
			}
			return all, err
		}
	}, by("Withhold_concurrent_resolvers_release_each_envelope_once")},
	{"an id is withheld once", func(b *broken) {
		b.withhold = func(ctx context.Context, patience time.Duration, ws []withheld) error {
			for i := range ws {
				if known, err := b.Store.Lookup(ctx, ws[i].ID); err != nil || len(known) > 0 {
					return errors.Join(reliable.ErrNotStored, err)
				}
			}
			return b.Store.Withhold(ctx, patience, ws...)
		}
	}, by("Withhold_each_transaction_of_an_id_is_decided_by_itself")},
	{"undecided ones are left to everybody", func(b *broken) {
		b.undecided = func(ctx context.Context, source string, req claimRequest) ([]withheld, error) {
			if req.Lease > 0 {
				req.Lease = 1
			}
			return b.Store.Undecided(ctx, source, req)
		}
	}, by("Withhold_undecided_ones_are_left_to_one_at_a_time,_the_longest_due_first")},
	{"the bound on bytes is ignored", func(b *broken) {
		b.undecided = func(ctx context.Context, source string, req claimRequest) ([]withheld, error) {
			req.MaxBytes = max(req.MaxBytes, 0) * 1000
			return b.Store.Undecided(ctx, source, req)
		}
	}, by("Withhold_undecided_ones_are_left_to_one_at_a_time,_the_longest_due_first")},
	{"sources are not told apart", withheldAs(func(_ *time.Duration, w *withheld) { w.Source = "shop" }),
		by("Withhold_undecided_ones_are_left_to_one_at_a_time,_the_longest_due_first")},
	{"patience is ignored", withheldAs(func(patience *time.Duration, _ *withheld) { *patience = min(*patience, 0) }),
		by("Withhold_undecided_ones_are_left_to_one_at_a_time,_the_longest_due_first")},
	{"a second envelope of an id is told to be the first", toldOfResolved(func(_ resolution, told *reliable.Resolved) {
		told.Conflict = false
	}), by("Withhold_another_envelope_of_an_id_is_refused,_or_comes_second")},
	{"nobody sees what is withheld", func(b *broken) {
		b.eachRecord(func(r *record) { r.Withheld = false })
	}, by("Withhold_people_see_what_is_withheld")},
	{"a list leaves out what is withheld", func(b *broken) {
		b.listedLess(func(r record) bool { return r.Withheld })
	}, by("Withhold_people_see_what_is_withheld")},
	{"what a person discarded is released", func(b *broken) {
		b.decide = func(ctx context.Context, d ruling) ([]verdict, error) {
			all := make([]verdict, len(d.IDs))
			for i, id := range d.IDs {
				all[i] = verdict{ID: id, Verdict: reliable.Decided, Status: reliable.Discarded}
				if d.Action != reliable.Discard {
					all[i].Verdict, all[i].Status = reliable.WrongStatus, reliable.Pending
				}
			}
			return all, nil
		}
	}, by("Withhold_what_a_person_discards_is_not_sent")},
	{"the good part of a bad batch is withheld", func(b *broken) {
		b.withhold = func(ctx context.Context, patience time.Duration, ws []withheld) error {
			for i := range ws {
				if err := b.Store.Withhold(ctx, patience, ws[i]); err != nil {
					return err
				}
			}
			return nil
		}
	}, by("Withhold_bad_input_is_refused_and_nothing_withheld", "Withhold_another_envelope_of_an_id_is_refused,_or_comes_second")},
}
