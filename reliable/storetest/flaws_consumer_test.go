package storetest_test

import (
	"context"
	"strings"
	"time"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
)

func (b *broken) Receive(ctx context.Context, tx any, group string, id reliable.ID) (bool, error) {
	if b.receive != nil {
		return b.receive(ctx, tx, group, id)
	}
	return b.Store.Receive(ctx, tx, group, id)
}

func (b *broken) StoreProcessed(ctx context.Context, confirms ...reliable.Processed) error {
	if b.storeProcessed != nil {
		b.lock.Lock()
		defer b.lock.Unlock()
		return b.storeProcessed(ctx, confirms)
	}
	return b.Store.StoreProcessed(ctx, confirms...)
}

func (b *broken) ProcessedBy(ctx context.Context, ids ...reliable.ID) (map[reliable.ID][]string, error) {
	if b.processedBy != nil {
		return b.processedBy(ctx, ids)
	}
	return b.Store.ProcessedBy(ctx, ids...)
}

func (b *broken) PurgeInbox(ctx context.Context, olderThan time.Duration, limit int) (int, error) {
	if b.purgeOldest != nil {
		return b.purgeOldest(ctx, olderThan, limit)
	}
	return b.Store.PurgeInbox(ctx, olderThan, limit)
}

func (b *broken) PurgeProcessed(ctx context.Context, olderThan time.Duration, limit int) (int, error) {
	if b.purgeOldest != nil {
		return b.purgeOldest(ctx, olderThan, limit)
	}
	return b.Store.PurgeProcessed(ctx, olderThan, limit)
}

func (b *broken) PurgeMarkers(ctx context.Context, olderThan time.Duration, limit int) (int, error) {
	if b.purgeOldest != nil {
		return b.purgeOldest(ctx, olderThan, limit)
	}
	return b.Store.PurgeMarkers(ctx, olderThan, limit)
}

func (b *broken) MarkerWitness(horizon time.Duration) (reliable.Witness, error) {
	if b.markerWitness != nil {
		return b.markerWitness(horizon)
	}
	return b.Store.MarkerWitness(horizon)
}

// saying is a witness that says something else where the sound one says when.
type saying struct {
	reliable.Witness
	when, instead reliable.Fate
}

func (s saying) Ask(ctx context.Context, id reliable.ID, token reliable.Token) (reliable.Fate, error) {
	fate, err := s.Witness.Ask(ctx, id, token)
	if fate == s.when {
		fate = s.instead
	}
	return fate, err
}

// forgetful is a witness that deletes whatever it is told to.
type forgetful struct {
	reliable.Witness
	store   *memstore.Store
	horizon time.Duration
}

func (f forgetful) Horizon() time.Duration { return f.horizon }

func (f forgetful) Unwrap() any { return f.store }

func (f forgetful) Forget(ctx context.Context, olderThan time.Duration, limit int) (int, error) {
	return f.store.PurgeMarkers(ctx, olderThan, limit)
}

func receivesAs(change func(group string, id reliable.ID) (string, reliable.ID)) func(b *broken) {
	return func(b *broken) {
		b.receive = func(ctx context.Context, tx any, group string, id reliable.ID) (bool, error) {
			group, id = change(group, id)
			return b.Store.Receive(ctx, tx, group, id)
		}
	}
}

func processedAs(change func(p reliable.Processed) reliable.Processed) func(b *broken) {
	return func(b *broken) {
		b.storeProcessed = func(ctx context.Context, confirms []reliable.Processed) error {
			changed := make([]reliable.Processed, len(confirms))
			for i := range confirms {
				changed[i] = change(confirms[i])
			}
			return b.Store.StoreProcessed(ctx, changed...)
		}
	}
}

var consumerFlaws = []flaw{
	{"the inbox forgets", func(b *broken) {
		b.receive = func(context.Context, any, string, reliable.ID) (bool, error) { return true, nil }
	}, by("Inbox_a_message_is_received_once_by_each_group", "Inbox_of_concurrent_consumers_one_receives", "Inbox_bad_input_is_refused")},
	{"the inbox knows no groups", receivesAs(func(_ string, id reliable.ID) (string, reliable.ID) { return "all", id }),
		by("Inbox_a_message_is_received_once_by_each_group")},
	{"the inbox is written at once, whatever becomes of the transaction", func(b *broken) {
		b.receive = func(ctx context.Context, _ any, group string, id reliable.ID) (bool, error) {
			tx, err := b.Store.Begin(ctx, nil)
			if err != nil {
				return false, err
			}
			first, err := b.Store.Receive(ctx, tx, group, id)
			if err != nil {
				return false, err
			}
			return first, tx.Commit(ctx)
		}
	}, by("Inbox_what_was_rolled_back_was_not_received")},
	{"the inbox folds case", receivesAs(func(group string, id reliable.ID) (string, reliable.ID) {
		return group, reliable.ID(strings.ToLower(string(id)))
	}), by("Inbox_ids_and_groups_are_compared_byte_by_byte")},
	{"the inbox fails for a repeat", func(b *broken) {
		b.receive = func(ctx context.Context, tx any, group string, id reliable.ID) (bool, error) {
			first, err := b.Store.Receive(ctx, tx, group, id)
			if err == nil && !first {
				err = reliable.ErrConflict
			}
			return first, err
		}
	}, by("Inbox_a_repeat_leaves_the_transaction_usable")},
	{"a purge deletes what is young", func(b *broken) {
		b.purgeOldest = func(ctx context.Context, _ time.Duration, limit int) (int, error) {
			return b.Store.PurgeInbox(ctx, 0, limit)
		}
	}, by("Inbox_old_entries_are_deleted_in_bounded_batches")},
	{"a purge has no bound", func(b *broken) {
		b.purgeOldest = func(ctx context.Context, olderThan time.Duration, _ int) (int, error) {
			n, err := b.Store.PurgeProcessed(ctx, olderThan, 1000)
			if err != nil || n > 0 {
				return n, err
			}
			return b.Store.PurgeMarkers(ctx, olderThan, 1000)
		}
	}, by("Processed_old_confirms_are_deleted_in_bounded_batches", "Marker_old_markers_are_deleted_in_bounded_batches")},
	{"confirms know no groups", processedAs(func(p reliable.Processed) reliable.Processed {
		return reliable.Processed{ID: p.ID, Group: "all"}
	}), by("Processed_confirms_are_found_by_id_and_group")},
	{"a repeated confirm fails its batch", func(b *broken) {
		b.storeProcessed = func(ctx context.Context, confirms []reliable.Processed) error {
			for _, p := range confirms {
				known, err := b.Store.ProcessedBy(ctx, p.ID)
				if err != nil || len(known) > 0 {
					return reliable.ErrConflict
				}
			}
			return b.Store.StoreProcessed(ctx, confirms...)
		}
	}, by("Processed_a_repeated_confirm_changes_nothing", "Processed_concurrent_batches_with_confirms_in_common_are_stored")},
	{"confirms are kept in the process", func(b *broken) {
		b.reopen = func() reliable.Store { return &broken{Store: memstore.New()} }
	}, by("Processed_other_instances_see_them_at_once")},
	{"the good part of a bad batch is stored", func(b *broken) {
		b.storeProcessed = func(ctx context.Context, confirms []reliable.Processed) error {
			for _, p := range confirms {
				if err := b.Store.StoreProcessed(ctx, p); err != nil {
					return err
				}
			}
			return nil
		}
	}, by("Processed_bad_input_is_refused_and_nothing_stored")},
	{"a marker that is not seen yet counts as aborted", func(b *broken) {
		b.markerWitness = func(horizon time.Duration) (reliable.Witness, error) {
			sound, err := b.Store.MarkerWitness(horizon)
			return saying{sound, reliable.FateOpen, reliable.FateAborted}, err
		}
	}, by("Marker_its_witness_tells_what_became_of_a_transaction")},
	{"a witness forgets what may be asked about", func(b *broken) {
		b.markerWitness = func(horizon time.Duration) (reliable.Witness, error) {
			sound, err := b.Store.MarkerWitness(horizon)
			return forgetful{sound, b.Store, horizon}, err
		}
	}, by("Marker_its_witness_forgets_nothing_that_may_be_asked_about")},
	{"a witness without a horizon", func(b *broken) {
		b.markerWitness = func(time.Duration) (reliable.Witness, error) { return b.Store.MarkerWitness(time.Hour) }
	}, by("Marker_bad_input_is_refused")},
}
