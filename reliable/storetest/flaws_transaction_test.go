package storetest_test

import (
	"context"
	"slices"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
)

// badSavepoint ends a savepoint in another way than it was asked to.
type badSavepoint struct {
	reliable.Savepoint
	release, rollback func(ctx context.Context) error
}

func (s badSavepoint) Release(ctx context.Context) error {
	if s.release != nil {
		return s.release(ctx)
	}
	return s.Savepoint.Release(ctx)
}

func (s badSavepoint) Rollback(ctx context.Context) error {
	if s.rollback != nil {
		return s.rollback(ctx)
	}
	return s.Savepoint.Rollback(ctx)
}

// savepoints wraps each savepoint that is opened.
func (b *broken) savepoints(wrap func(reliable.Savepoint) badSavepoint) {
	b.savepoint = func(ctx context.Context, tx *memstore.Tx) (reliable.Savepoint, error) {
		sp, err := tx.Savepoint(ctx)
		if err != nil {
			return nil, err
		}
		return wrap(sp), nil
	}
}

var transactionFlaws = []flaw{
	{"a rollback keeps what was stored", func(b *broken) {
		b.rollback = func(ctx context.Context, tx *memstore.Tx) error {
			_ = tx.Commit(ctx)
			return nil
		}
		bind := func(tx any) (reliable.Enqueuer, error) {
			if _, err := b.Store.Bind(tx); err != nil {
				return nil, err
			}
			return b.Store, nil
		}
		b.bind = bind
	}, by(
		"Order_a_follower_whose_transaction_rolled_back_leaves_no_gap",
		"Tx_a_rollback_leaves_nothing",
		"Tx_two_thousand_are_rolled_back_together",
	)},
	{"a commit loses what was stored", func(b *broken) {
		b.commit = func(ctx context.Context, tx *memstore.Tx) error { return tx.Rollback(ctx) }
	}, by(
		"Tx_what_was_committed_can_be_claimed",
		"Tx_Bind_stores_in_a_transaction_of_the_user's_own",
	)},
	{"a transaction stores at once", func(b *broken) {
		b.enqueue = func(
			ctx context.Context, _ reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			return b.Store.Enqueue(ctx, req, envs...)
		}
	}, by(
		"Tx_nothing_is_seen_before_the_commit,_and_no_claim_waits_for_it",
		"Order_a_follower_whose_transaction_commits_after_its_head_settled_comes",
	)},
	{"a transaction leases nothing", func(b *broken) {
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			if in != reliable.Enqueuer(b.Store) {
				req.Lease = 0
			}
			return in.Enqueue(ctx, req, envs...)
		}
	}, by("Tx_a_lease_given_inside_holds_after_the_commit")},
	{"a duplicate ends the transaction", func(b *broken) {
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			all, err := in.Enqueue(ctx, req, envs...)
			tx, inside := in.(*memstore.Tx)
			if inside && slices.ContainsFunc(all, func(s stored) bool { return !s.New }) {
				err = tx.Rollback(ctx)
			}
			return all, err
		}
	}, by(
		"Tx_a_duplicate_leaves_the_transaction_usable",
		"Tx_a_duplicate_of_its_own_is_found",
		"Tx_concurrent_transactions_that_store_the_same_envelopes_store_them_once",
	)},
	{"a conflict in a transaction keeps the rest", func(b *broken) {
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) (all []stored, err error) {
			if in == reliable.Enqueuer(b.Store) {
				return in.Enqueue(ctx, req, envs...)
			}
			for _, e := range envs {
				one, err := b.Store.Enqueue(ctx, req, e)
				if err != nil {
					return nil, err
				}
				all = append(all, one...)
			}
			return all, nil
		}
	}, by("Tx_a_conflict_stores_nothing", "Tx_a_conflict_inside_a_savepoint_can_be_taken_back")},
	{"a savepoint rolled back keeps what was stored", func(b *broken) {
		b.savepoints(func(sp reliable.Savepoint) badSavepoint { return badSavepoint{sp, nil, sp.Release} })
	}, by("Tx_a_savepoint_rolled_back_withdraws_what_came_since")},
	{"a savepoint released loses what was stored", func(b *broken) {
		b.savepoints(func(sp reliable.Savepoint) badSavepoint { return badSavepoint{sp, sp.Rollback, nil} })
	}, by("Tx_a_savepoint_released_keeps_what_came_since")},
	{"a savepoint inside another is ignored", func(b *broken) {
		open := 0
		b.savepoints(func(sp reliable.Savepoint) badSavepoint {
			open++
			if open == 1 {
				return badSavepoint{Savepoint: sp}
			}
			return badSavepoint{sp, sp.Release, sp.Release}
		})
	}, by("Tx_savepoints_nest")},
	{"a transaction that has ended takes more", func(b *broken) {
		b.enqueue = func(
			ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
		) ([]stored, error) {
			all, err := in.Enqueue(ctx, req, envs...)
			if err != nil && in != reliable.Enqueuer(b.Store) {
				return b.Store.Enqueue(ctx, req, envs...)
			}
			return all, err
		}
	}, by("Tx_once_ended_it_refuses_everything_but_Rollback")},
	{"a rollback of what has ended is an error", func(b *broken) {
		ended := make(map[*memstore.Tx]bool)
		b.rollback = func(ctx context.Context, tx *memstore.Tx) error {
			if ended[tx] {
				return errFlaw
			}
			ended[tx] = true
			return tx.Rollback(ctx)
		}
	}, by("Tx_once_ended_it_refuses_everything_but_Rollback")},
	{"a canceled transaction commits", func(b *broken) {
		b.begin = func(ctx context.Context, db any) (reliable.Tx, error) {
			return b.begun(b.Store.Begin(context.WithoutCancel(ctx), db))
		}
		b.commit = func(ctx context.Context, tx *memstore.Tx) error { return tx.Commit(context.WithoutCancel(ctx)) }
	}, by("Tx_a_context_that_ends_before_the_commit_leaves_nothing")},
	{"Begin takes anything for a database", func(b *broken) {
		b.begin = func(ctx context.Context, _ any) (reliable.Tx, error) { return b.begun(b.Store.Begin(ctx, nil)) }
	}, by("Tx_Begin_refuses_what_is_no_database_of_its_kind")},
	{"Bind stores at once", func(b *broken) {
		b.bind = func(tx any) (reliable.Enqueuer, error) {
			_, err := b.Store.Bind(tx)
			return b.Store, err
		}
	}, by(
		"Tx_Bind_obeys_savepoints_of_the_user's_own",
		"Tx_Bind_stores_in_the_transaction_that_Native_returns",
	)},
	{"Bind takes anything for a transaction", func(b *broken) {
		b.bind = func(tx any) (reliable.Enqueuer, error) {
			bound, err := b.Store.Bind(tx)
			if err != nil {
				return b.Store, nil
			}
			return bound, nil
		}
	}, by("Tx_Bind_refuses_what_is_no_transaction")},
}
