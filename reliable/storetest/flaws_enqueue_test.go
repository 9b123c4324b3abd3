package storetest_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

var errFlaw = errors.New("a flaw")

var enqueueFlaws = []flaw{
	{"payloads are made valid UTF-8", func(b *broken) {
		b.beforeEnqueue(func(_ *enqueueRequest, e *envelope) {
			e.Payload = []byte(strings.ToValidUTF8(string(e.Payload), "?"))
		})
	}, by("Enqueue_an_envelope_is_kept_whole")},
	{"metadata is dropped", func(b *broken) {
		b.eachClaimed(func(a *attempt) { a.Metadata = nil })
		b.eachRecord(func(r *record) { r.Metadata = nil })
	}, by("Enqueue_an_envelope_is_kept_whole")},
	{"deadlines are forgotten", func(b *broken) {
		b.eachClaimed(func(a *attempt) { a.Deadline = 0 })
	}, by("Enqueue_an_envelope_is_kept_whole")},
	{"an empty payload comes back as null", func(b *broken) {
		b.eachClaimed(func(a *attempt) {
			if len(a.Payload) == 0 {
				a.Payload = []byte("null")
			}
		})
	}, by("Enqueue_an_empty_payload_and_no_metadata_are_kept")},
	{"payloads are cut at 64 KiB", func(b *broken) {
		b.beforeEnqueue(func(_ *enqueueRequest, e *envelope) { e.Payload = e.Payload[:min(len(e.Payload), 65535)] })
	}, by("Enqueue_a_payload_of_one_mebibyte_is_kept")},
	{"a batch is cut after a thousand", func(b *broken) {
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			all, err := in.Enqueue(ctx, req, envs[:min(len(envs), 1000)]...)
			for _, e := range envs[len(all):] {
				all = append(all, stored{Attempt: attempt{Envelope: e}, New: true})
			}
			return all, err
		}
	}, by("Enqueue_three_thousand_at_once_are_all_stored")},
	{"an empty batch is an error", func(b *broken) {
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			if len(envs) == 0 {
				return nil, errFlaw
			}
			return in.Enqueue(ctx, req, envs...)
		}
	}, by("Enqueue_nothing_to_store_is_no_error")},
	{"everything is leased while storing", func(b *broken) {
		b.beforeEnqueue(func(req *enqueueRequest, _ *envelope) { req.Lease = time.Hour })
	}, by("Enqueue_without_a_lease_all_are_claimable_at_once")},
	{"keyed and delayed ones are said to be leased", func(b *broken) {
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			all, err := in.Enqueue(ctx, req, envs...)
			for i := range all {
				all[i].Leased = all[i].New && req.Lease > 0
			}
			return all, err
		}
	}, by("Enqueue_with_a_lease_the_unkeyed_and_undelayed_belong_to_the_caller")},
	{"nothing is leased while storing", func(b *broken) {
		b.beforeEnqueue(func(req *enqueueRequest, _ *envelope) { req.Lease = 0 })
	}, by(
		"Enqueue_with_a_lease_the_unkeyed_and_undelayed_belong_to_the_caller",
		"Tx_a_lease_given_inside_holds_after_the_commit",
	)},
	{"a lease given while storing never ends", func(b *broken) {
		b.beforeEnqueue(func(req *enqueueRequest, _ *envelope) { req.Lease *= 1_000_000 })
	}, by("Enqueue_a_lease_given_while_storing_runs_out")},
	{"a lease given while storing is told with fence 0", func(b *broken) {
		b.afterEnqueue(func(_ envelope, s *stored) { s.Fence = 0 })
	}, by("Enqueue_a_lease_given_while_storing_can_be_settled")},
	{"delays are ignored", func(b *broken) {
		b.beforeEnqueue(func(_ *enqueueRequest, e *envelope) { e.Delay = 0 })
	}, by("Enqueue_a_delayed_envelope_is_not_claimed_early,_and_then_it_is")},
	{"delays of keyed ones are ignored", func(b *broken) {
		b.beforeEnqueue(func(_ *enqueueRequest, e *envelope) {
			if e.Key != "" {
				e.Delay = 0
			}
		})
	}, by(
		"Order_a_delayed_follower_waits_for_its_own_time_too",
		"Order_a_delayed_head_blocks_its_followers",
	)},
	{"a delay never ends", func(b *broken) {
		b.beforeEnqueue(func(_ *enqueueRequest, e *envelope) { e.Delay *= 10_000 })
	}, by("Enqueue_a_delayed_envelope_is_not_claimed_early,_and_then_it_is")},
	{"duplicates are said to be pending", func(b *broken) {
		b.afterEnqueue(func(_ envelope, s *stored) { s.Status = reliable.Pending })
	}, by("Enqueue_a_duplicate_is_skipped_and_its_status_told")},
	{"duplicates are said to be new", func(b *broken) {
		b.afterEnqueue(func(_ envelope, s *stored) { s.New = true })
	}, by(
		"Enqueue_a_duplicate_is_skipped_and_its_status_told",
		"Enqueue_concurrent_duplicates_are_stored_once",
	)},
	{"duplicates are errors", func(b *broken) {
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			all, err := in.Enqueue(ctx, req, envs...)
			if slices.ContainsFunc(all, func(s stored) bool { return !s.New }) {
				return nil, errFlaw
			}
			return all, err
		}
	}, by("Enqueue_a_duplicate_is_skipped_and_its_status_told")},
	{"duplicates with other metadata are conflicts", func(b *broken) {
		known := make(map[reliable.ID]envelope)
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			for _, e := range envs {
				if before, ok := known[e.ID]; ok && !maps.Equal(before.Metadata, e.Metadata) {
					return nil, reliable.ErrConflict
				}
			}
			all, err := in.Enqueue(ctx, req, envs...)
			for i, s := range all {
				if s.New {
					known[s.ID] = envs[i]
				}
			}
			return all, err
		}
	}, by("Enqueue_a_duplicate_with_another_key_or_other_metadata_is_skipped")},
	{"a duplicate keeps its neighbours from being stored", func(b *broken) {
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			for _, e := range envs {
				if _, there := b.row(e.ID); there {
					all, err := in.Enqueue(ctx, req, e)
					for len(all) > 0 && len(all) < len(envs) {
						all = append(all, all[0])
					}
					return all, err
				}
			}
			return in.Enqueue(ctx, req, envs...)
		}
	}, by("Enqueue_a_duplicate_beside_new_ones_is_skipped,_the_new_ones_are_stored")},
	{"a duplicate is leased to a second caller", func(b *broken) {
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			all, err := in.Enqueue(ctx, req, envs...)
			for i := range all {
				all[i].Leased = all[i].Leased || req.Lease > 0 && !all[i].New
			}
			return all, err
		}
	}, by("Enqueue_a_duplicate_takes_no_lease_away")},
	{"conflicts are taken for duplicates", func(b *broken) {
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			all, err := in.Enqueue(ctx, req, envs...)
			if errors.Is(err, reliable.ErrConflict) {
				for _, e := range envs {
					all = append(all, stored{Attempt: attempt{Envelope: e}})
				}
				return all, nil
			}
			return all, err
		}
	}, by(
		"Enqueue_another_payload_or_topic_under_a_stored_id_is_a_conflict_and_nothing_is_stored",
		"Enqueue_a_conflict_inside_one_batch_stores_nothing",
		"Tx_a_conflict_inside_a_savepoint_can_be_taken_back",
	)},
	{"duplicates overwrite what was stored", func(b *broken) {
		newest := make(map[reliable.ID]envelope)
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			all, err := in.Enqueue(ctx, req, envs...)
			for _, e := range envs {
				newest[e.ID] = e
			}
			return all, err
		}
		b.eachClaimed(func(a *attempt) {
			if e, ok := newest[a.ID]; ok {
				a.Envelope = e
			}
		})
	}, by(
		"Enqueue_a_duplicate_with_another_key_or_other_metadata_is_skipped",
		"Enqueue_another_payload_or_topic_under_a_stored_id_is_a_conflict_and_nothing_is_stored",
		"Tx_a_conflict_stores_nothing",
	)},
	{"a conflict with a settled envelope goes unnoticed", func(b *broken) {
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			for _, e := range envs {
				if r, there := b.row(e.ID); there && r.Status.Final() {
					return []stored{{Attempt: r.Attempt, Status: r.Status}}, nil
				}
			}
			return in.Enqueue(ctx, req, envs...)
		}
	}, by("Enqueue_a_conflict_with_a_settled_envelope_is_a_conflict_too")},
	{"a batch is stored one by one", func(b *broken) {
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) (all []stored, err error) {
			for _, e := range envs {
				one, err := in.Enqueue(ctx, req, e)
				if err != nil {
					return nil, err
				}
				all = append(all, one...)
			}
			return all, nil
		}
	}, by("Enqueue_another_payload_or_topic_under_a_stored_id_is_a_conflict_and_nothing_is_stored")},
	{"ids are compared without case", func(b *broken) {
		b.beforeEnqueue(func(_ *enqueueRequest, e *envelope) { e.ID = reliable.ID(strings.ToLower(string(e.ID))) })
	}, by("Enqueue_ids_are_compared_byte_by_byte")},
	{"ids are compared without trailing space", func(b *broken) {
		b.beforeEnqueue(func(_ *enqueueRequest, e *envelope) { e.ID = reliable.ID(strings.TrimRight(string(e.ID), " ")) })
	}, by("Enqueue_ids_are_compared_byte_by_byte")},
	{"keys are compared without case", func(b *broken) {
		b.beforeEnqueue(func(_ *enqueueRequest, e *envelope) { e.Key = strings.ToLower(e.Key) })
	}, by("Order_keys_are_compared_byte_by_byte")},
	{"keys are compared without trailing space", func(b *broken) {
		b.beforeEnqueue(func(_ *enqueueRequest, e *envelope) { e.Key = strings.TrimRight(e.Key, " ") })
	}, by("Order_keys_are_compared_byte_by_byte")},
	{"what is too long is cut", func(b *broken) {
		b.beforeEnqueue(func(_ *enqueueRequest, e *envelope) {
			e.ID = e.ID[:min(len(e.ID), reliable.MaxIDBytes)]
			e.Topic = e.Topic[:min(len(e.Topic), 255)]
			e.Key = e.Key[:min(len(e.Key), 255)]
		})
	}, by("Enqueue_what_is_too_long_is_refused,_never_cut")},
	{"a canceled context is ignored", func(b *broken) {
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			return in.Enqueue(context.WithoutCancel(ctx), req, envs...)
		}
	}, by("Enqueue_a_canceled_context_stores_nothing")},
	{"bad requests to store are mended", func(b *broken) {
		b.beforeEnqueue(func(req *enqueueRequest, _ *envelope) {
			req.Lease = max(req.Lease, 0)
			req.Worker = req.Worker[:min(len(req.Worker), 128)]
		})
	}, by("Enqueue_bad_requests_are_refused")},
	{"a batch is stored backwards", func(b *broken) {
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			backwards := slices.Clone(envs)
			slices.Reverse(backwards)
			all, err := in.Enqueue(ctx, req, backwards...)
			slices.Reverse(all)
			return all, err
		}
	}, by(
		"Enqueue_a_duplicate_inside_one_batch_is_stored_once",
		"Order_a_batch_is_ordered_as_it_was_given",
		"Order_a_batch_of_acks_lets_one_follower_of_each_key_go",
		"Order_concurrent_claimers_never_hold_two_of_a_key,_nor_out_of_order",
	)},
}
