package storetest_test

import (
	"context"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

var decideFlaws = []flaw{
	{"every action applies to every status", func(b *broken) {
		b.afterDecide(func(_ ruling, v *verdict) {
			if v.Verdict == reliable.WrongStatus {
				v.Verdict = reliable.Decided
			}
		})
	}, by(
		"Decide_each_action_applies_to_its_statuses_only",
		"Decide_one_that_occurs_twice_is_decided_once",
		"Decide_of_two_operators_one_decides_each",
		modelCheck,
	)},
	{"a discarded one cannot be requeued", func(b *broken) {
		b.decide = func(ctx context.Context, d ruling) ([]verdict, error) {
			if r, there := b.row(d.IDs[len(d.IDs)-1]); there && r.Status == reliable.Discarded {
				return make([]verdict, len(d.IDs)), nil
			}
			return b.Store.Decide(ctx, d)
		}
	}, by("Decide_each_action_applies_to_its_statuses_only")},
	{"a decision is only said", func(b *broken) {
		b.decide = func(_ context.Context, d ruling) ([]verdict, error) {
			var all []verdict
			for _, id := range d.IDs {
				all = append(all, verdict{ID: id, Status: statusAfter(d.Action)})
			}
			return all, nil
		}
	}, by(
		"Decide_a_compensated_one_is_final",
		"Decide_a_discarded_one_is_final",
	)},
	{"a requeued one keeps its failures", func(b *broken) {
		failures := make(map[reliable.ID]int)
		b.beforeDecide(func(d *ruling) {
			for _, id := range d.IDs {
				r, _ := b.row(id)
				failures[id] = r.Failures
			}
		})
		b.eachClaimed(func(a *attempt) { a.Failures += failures[a.ID] })
	}, by("Decide_a_requeued_one_starts_over")},
	{"a requeued one keeps its attempts", func(b *broken) {
		attempts := make(map[reliable.ID]int)
		b.beforeDecide(func(d *ruling) {
			for _, id := range d.IDs {
				r, _ := b.row(id)
				attempts[id] = r.Attempts
			}
		})
		b.eachClaimed(func(a *attempt) { a.Attempts += attempts[a.ID] })
	}, by("Decide_a_requeued_one_starts_over")},
	{"a requeued one keeps its deadline", func(b *broken) {
		deadlines := make(map[reliable.ID]time.Duration)
		b.beforeDecide(func(d *ruling) {
			for _, id := range d.IDs {
				r, _ := b.row(id)
				deadlines[id] = r.Deadline
			}
		})
		b.eachClaimed(func(a *attempt) { a.Deadline = max(a.Deadline, deadlines[a.ID]) })
	}, by("Decide_a_requeued_one_is_sent_again_though_its_deadline_has_passed")},
	{"a requeued one is still its handler's", func(b *broken) {
		b.compensate = func(ctx context.Context, c reliable.Compensation) (reliable.SettleResult, error) {
			if r, there := b.row(c.ID); there && r.Status == reliable.Pending {
				return reliable.Applied, nil
			}
			return b.Store.SettleCompensation(ctx, c)
		}
	}, by("Decide_a_requeued_one_can_be_compensated_again")},
	{"what was decided about once is never compensated", func(b *broken) {
		b.claimFailed = func(ctx context.Context, req claimRequest, topics []string) ([]record, error) {
			all, err := b.Store.ClaimFailed(ctx, req, topics...)
			return slices.DeleteFunc(all, func(r record) bool { return says(r, func(s string) bool { return s == "because of an requeue" }) }), err
		}
	}, by("Decide_a_requeued_one_can_be_compensated_again")},
	{"what waits, is parked or delayed cannot be discarded", func(b *broken) {
		b.decide = func(ctx context.Context, d ruling) ([]verdict, error) {
			if r, there := b.row(d.IDs[0]); there && (r.Waiting || r.Held || r.DueIn > 0) {
				return []verdict{{ID: r.ID, Verdict: reliable.WrongStatus}}, nil
			}
			return b.Store.Decide(ctx, d)
		}
	}, by("Decide_what_waits,_is_delayed_or_parked_can_be_discarded")},
	{"what is discarded stays behind its hold", func(b *broken) {
		b.probe = func(ctx context.Context, topic string, req claimRequest) ([]attempt, error) {
			all, err := b.Store.Probe(ctx, topic, req)
			for _, r := range b.Store.Records() {
				if r.Status == reliable.Discarded && len(all) > 0 {
					all[0] = r.Attempt
				}
			}
			return all, err
		}
	}, by("Decide_what_waits,_is_delayed_or_parked_can_be_discarded")},
	{"nobody is told who decided", func(b *broken) {
		b.eachRecord(func(r *record) {
			for i := range r.History {
				if r.History[i].Kind == reliable.OperatorDecided {
					r.History[i].By = ""
				}
			}
		})
	}, by("Decide_each_decision_is_told_with_who,_why_and_when", modelCheck, crowdCheck)},
	{"decisions come last in the history", func(b *broken) {
		b.eachRecord(func(r *record) {
			slices.SortStableFunc(r.History, func(x, y reliable.HistoryEntry) int {
				return int(x.Kind/reliable.OperatorDecided) - int(y.Kind/reliable.OperatorDecided)
			})
		})
	}, by("Decide_each_decision_is_told_with_who,_why_and_when")},
	{"who decided is kept as it comes", func(b *broken) {
		b.eachRecord(func(r *record) {
			for i := range r.History {
				r.History[i].Reason = badReason(r.History[i].Reason)
			}
		})
	}, by("Decide_each_decision_is_told_with_who,_why_and_when")},
	{"decisions are trimmed like everything else", func(b *broken) {
		b.eachRecord(func(r *record) { r.History = r.History[max(len(r.History)-reliable.MaxHistory, 0):] })
	}, by("Decide_decisions_are_never_trimmed_away")},
	{"the decisions about a purged one stay behind", func(b *broken) {
		left := make(map[reliable.ID][]reliable.HistoryEntry)
		b.purge = func(ctx context.Context, status reliable.Status, olderThan time.Duration, limit int) (int, error) {
			for _, r := range b.Store.Records() {
				left[r.ID] = slices.DeleteFunc(r.History, func(e reliable.HistoryEntry) bool {
					return e.Kind != reliable.OperatorDecided
				})
			}
			return b.Store.Purge(ctx, status, olderThan, limit)
		}
		b.eachRecord(func(r *record) { r.History = append(slices.Clone(left[r.ID]), r.History...) })
	}, by("Decide_what_is_purged_takes_its_decisions_along")},
	{"what was discarded can be purged for ever", func(b *broken) {
		b.purge = func(ctx context.Context, status reliable.Status, olderThan time.Duration, limit int) (int, error) {
			n, err := b.Store.Purge(ctx, status, olderThan, limit)
			return max(n, 1), err
		}
	}, by("Decide_what_is_purged_takes_its_decisions_along")},
	{"what is over is not counted", func(b *broken) {
		b.stats = func(ctx context.Context) ([]reliable.TopicStats, error) {
			all, err := b.Store.Stats(ctx)
			for i := range all {
				all[i].Compensated, all[i].Discarded = 0, 0
			}
			return all, err
		}
	}, by("Decide_Stats_counts_what_was_compensated_and_discarded")},
	{"topics in which all is over are left out", func(b *broken) {
		b.stats = func(ctx context.Context) ([]reliable.TopicStats, error) {
			all, err := b.Store.Stats(ctx)
			return slices.DeleteFunc(all, func(s reliable.TopicStats) bool { return s.Pending+s.Failed == 0 }), err
		}
	}, by("Decide_Stats_counts_what_was_compensated_and_discarded")},
	{"decisions are not bounded", func(b *broken) {
		b.decide = func(ctx context.Context, d ruling) ([]verdict, error) {
			var all []verdict
			for part := range slices.Chunk(d.IDs, reliable.MaxDecisions) {
				d.IDs = part
				some, err := b.Store.Decide(ctx, d)
				if err != nil {
					return nil, err
				}
				all = append(all, some...)
			}
			return all, nil
		}
	}, by("Decide_a_thousand_are_decided_at_a_time")},
	{"the first hundred are decided", func(b *broken) {
		b.decide = func(ctx context.Context, d ruling) ([]verdict, error) {
			all := make([]verdict, len(d.IDs))
			for i, id := range d.IDs {
				all[i] = verdict{ID: id, Status: statusAfter(d.Action)}
			}
			d.IDs = d.IDs[:min(len(d.IDs), 100)]
			some, err := b.Store.Decide(ctx, d)
			copy(all, some)
			return all, err
		}
	}, by("Decide_a_thousand_are_decided_at_a_time")},
	{"bad decisions are mended", func(b *broken) {
		b.beforeDecide(func(d *ruling) {
			d.Who, d.Why = d.Who+" somebody", d.Why+" some reason"
			if d.Action < reliable.Requeue || d.Action > reliable.Discard {
				d.IDs, d.Action = nil, reliable.Discard
			}
		})
	}, by("Decide_bad_decisions_are_refused")},
	{"a decision is made after its context has ended", func(b *broken) {
		b.decide = func(ctx context.Context, d ruling) ([]verdict, error) {
			return b.Store.Decide(context.WithoutCancel(ctx), d)
		}
	}, by("Decide_bad_decisions_are_refused")},
}

// The checks that try everything at once.
const (
	modelCheck = "Decide_whatever_relays,_handlers_and_operators_do_in_whatever_order,_each_ends_in_a_state_it_may_end_in"
	crowdCheck = "Decide_relays,_handlers_and_operators_at_once_contradict_nobody_and_leave_nothing_stuck"
)

// badReason undoes what sanitising did to a reason of a decision.
func badReason(reason string) string {
	if len(reason) == reliable.MaxReasonBytes {
		return reason + " and so on"
	}
	return reason
}

// statusAfter is where an action leads.
func statusAfter(action reliable.Action) reliable.Status {
	switch action {
	case reliable.Requeue:
		return reliable.Pending
	case reliable.Compensate:
		return reliable.Compensated
	}
	return reliable.Discarded
}
