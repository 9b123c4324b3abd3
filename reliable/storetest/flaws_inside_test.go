package storetest_test

import (
	"context"
	"slices"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
)

// plainTx has no ability but those of every transaction.
type plainTx struct{ reliable.Tx }

var insideFlaws = []flaw{
	{"a transaction compensates at once", func(b *broken) {
		b.inside = func(ctx context.Context, _ *memstore.Tx, c reliable.Compensation) (reliable.SettleResult, error) {
			return b.Store.SettleCompensation(ctx, c)
		}
	}, by(
		"Compensation_a_compensation_in_a_transaction_takes_effect_with_the_commit",
		"Compensation_a_compensation_in_a_transaction_that_is_rolled_back_leaves_nothing",
		"Compensation_a_compensation_in_a_savepoint_that_is_rolled_back_leaves_nothing",
		"Compensation_an_ended_transaction_compensates_nothing",
	)},
	{"a transaction cannot compensate", func(b *broken) {
		b.begin = func(ctx context.Context, db any) (reliable.Tx, error) {
			tx, err := b.Store.Begin(ctx, db)
			return plainTx{tx}, err
		}
	}, by("Compensation_a_compensation_in_a_transaction_takes_effect_with_the_commit")},
	{"a transaction forgets what it compensated", func(b *broken) {
		b.inside = func(context.Context, *memstore.Tx, reliable.Compensation) (reliable.SettleResult, error) {
			return reliable.Applied, nil
		}
	}, by(
		"Compensation_a_compensation_in_a_transaction_takes_effect_with_the_commit",
		"Compensation_a_compensation_in_a_transaction_lets_its_key_go_on",
		"Compensation_a_run_that_failed_can_be_told_in_a_transaction",
	)},
	{"a compensation in a transaction is not fenced", func(b *broken) {
		b.inside = func(ctx context.Context, tx *memstore.Tx, c reliable.Compensation) (reliable.SettleResult, error) {
			if r, there := b.row(c.ID); there {
				c.Fence = r.Fence
			}
			return tx.SettleCompensation(ctx, c)
		}
	}, by("Compensation_a_compensation_in_a_transaction_is_fenced")},
	{"a compensation in a transaction forgets who came since it began", func(b *broken) {
		open := false
		forgotten := make(map[reliable.ID]bool)
		b.begin = func(ctx context.Context, db any) (reliable.Tx, error) {
			open = true
			return b.begun(b.Store.Begin(ctx, db))
		}
		b.afterEnqueue(func(e envelope, s *stored) { forgotten[e.ID] = open && e.Key != "" && s.New })
		b.afterClaim(func(all []attempt) []attempt {
			return slices.DeleteFunc(all, func(a attempt) bool { return forgotten[a.ID] })
		})
	}, by("Compensation_a_compensation_in_a_transaction_lets_those_go_on_who_came_since_it_began")},
}
