//go:build services

package faults

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// Everything here goes through the API of tagging, on every database and driver.

var errBusiness = errors.New("the business says no")

func insertOf(id string) string { return "INSERT INTO orders (id) VALUES ('" + id + "')" }

func TestDuplicate_withTheSameContentIsStoredAndSentOnce(t *testing.T) {
	eachFace(t, func(t *testing.T, f *face) {
		ctx := t.Context()
		for range 2 {
			_, err := f.outbox.Publish(ctx, order("published"))
			require.NoError(t, err)
			require.NoError(t, f.inTx(ctx, func(_ execFunc, out *tagging.Scope) error { return out.Send(order("in tx")) }))
			tx, err := f.begin(ctx)
			require.NoError(t, err)
			_, err = f.outbox.Send(ctx, tx.native, order("sent"))
			require.NoError(t, err)
			require.NoError(t, tx.exec(ctx, "DELETE FROM orders"), "the transaction must stay usable")
			require.NoError(t, tx.commit(ctx))
		}
		assert.Equal(t, []string{"in tx", "published", "sent"}, f.sent())
	})
}

func TestDuplicate_withAnotherContentIsAConflictThatChangesNothing(t *testing.T) {
	eachFace(t, func(t *testing.T, f *face) {
		ctx := t.Context()
		_, err := f.outbox.Publish(ctx, order("one"))
		require.NoError(t, err)
		other := order("one")
		other.Payload = []byte("something else")

		_, err = f.outbox.Publish(ctx, order("beside"), other)
		require.ErrorIs(t, err, reliable.ErrConflict)
		err = f.inTx(ctx, func(do execFunc, out *tagging.Scope) error {
			return errors.Join(do(ctx, insertOf("business")), out.Send(order("beside"), other))
		})
		require.ErrorIs(t, err, reliable.ErrConflict)
		tx, err := f.begin(ctx)
		require.NoError(t, err)
		_, err = f.outbox.Send(ctx, tx.native, order("beside"), other)
		require.ErrorIs(t, err, reliable.ErrConflict)
		require.NoError(t, tx.rollback(ctx))

		assert.Equal(t, []string{"one"}, f.sent())
		assert.Equal(t, "order one", string(f.broker.Delivered(queue)[0].Payload))
		require.NoError(t, f.inTx(ctx, func(do execFunc, _ *tagging.Scope) error { return do(ctx, insertOf("business")) }),
			"the business must have been rolled back")
	})
}

func TestID_thatDiffersInCaseOrATrailingSpaceIsAnotherMessage(t *testing.T) {
	eachFace(t, func(t *testing.T, f *face) {
		ctx := t.Context()
		_, err := f.outbox.Publish(ctx, order("order-A"))
		require.NoError(t, err)
		require.NoError(t, f.inTx(ctx, func(_ execFunc, out *tagging.Scope) error { return out.Send(order("ORDER-a"), order("order-A ")) }))
		tx, err := f.begin(ctx)
		require.NoError(t, err)
		_, err = f.outbox.Send(ctx, tx.native, order("order-Á"), order("order-a"))
		require.NoError(t, err)
		require.NoError(t, tx.commit(ctx))
		assert.Equal(t, []string{"ORDER-a", "order-A", "order-A ", "order-a", "order-Á"}, f.sent())
	})
}

func TestRollback_ofAnyKindSendsNothing(t *testing.T) {
	eachFace(t, func(t *testing.T, f *face) {
		ctx := t.Context()
		err := f.inTx(ctx, func(do execFunc, out *tagging.Scope) error {
			return errors.Join(do(ctx, insertOf("o")), out.Send(order("error")), errBusiness)
		})
		require.ErrorIs(t, err, errBusiness)
		assert.PanicsWithValue(t, "fn", func() {
			_ = f.inTx(ctx, func(do execFunc, out *tagging.Scope) error {
				assert.NoError(t, errors.Join(do(ctx, insertOf("o")), out.Send(order("panic"))))
				panic("fn")
			})
		})
		err = f.inTx(ctx, func(do execFunc, out *tagging.Scope) error {
			return errors.Join(out.Send(order("sql error")), do(ctx, "INSERT INTO nowhere VALUES (1)"))
		})
		require.Error(t, err)
		tx, err := f.begin(ctx)
		require.NoError(t, err)
		require.NoError(t, tx.exec(ctx, insertOf("o")))
		_, err = f.outbox.Send(ctx, tx.native, order("own"))
		require.NoError(t, err)
		require.NoError(t, tx.rollback(ctx))

		require.NoError(t, f.inTx(ctx, func(do execFunc, out *tagging.Scope) error {
			return errors.Join(do(ctx, insertOf("o")), out.Send(order("committed")))
		}), "the row of all those that rolled back must be free")
		assert.Equal(t, []string{"committed"}, f.sent())
	})
}

func TestSavepoint_rolledBackSendsNoneOfItsMessages(t *testing.T) {
	eachFace(t, func(t *testing.T, f *face) {
		ctx := t.Context()
		require.NoError(t, f.inTx(ctx, func(do execFunc, out *tagging.Scope) error {
			require.NoError(t, out.Send(order("before")))
			require.ErrorIs(t, out.Nested(func(nested *tagging.Scope) error {
				require.NoError(t, nested.Nested(func(inner *tagging.Scope) error { return inner.Send(order("inner, released")) }))
				return errors.Join(do(ctx, insertOf("o")), nested.Send(order("nested")), errBusiness)
			}), errBusiness)
			require.NoError(t, out.Nested(func(nested *tagging.Scope) error {
				return errors.Join(do(ctx, insertOf("o")), nested.Send(order("kept")))
			}), "the row of the scope that was rolled back must be free")
			return out.Send(order("after"))
		}))

		tx, err := f.begin(ctx)
		require.NoError(t, err)
		send := func(id string) {
			_, err := f.outbox.Send(ctx, tx.native, order(id))
			require.NoError(t, err)
		}
		send("own before")
		require.NoError(t, tx.exec(ctx, "SAVEPOINT mine"))
		send("own within")
		require.NoError(t, tx.exec(ctx, "ROLLBACK TO SAVEPOINT mine"))
		send("own after")
		require.NoError(t, tx.commit(ctx))
		assert.Equal(t, []string{"after", "before", "kept", "own after", "own before"}, f.sent())
	})
}

func TestTransaction_thatIsOverTakesNothing(t *testing.T) {
	eachFace(t, func(t *testing.T, f *face) {
		ctx := t.Context()
		for _, end := range []func(*transaction) error{
			func(tx *transaction) error { return tx.commit(ctx) },
			func(tx *transaction) error { return tx.rollback(ctx) },
		} {
			tx, err := f.begin(ctx)
			require.NoError(t, err)
			require.NoError(t, end(tx))
			_, err = f.outbox.Send(ctx, tx.native, order("too late"))
			require.ErrorIs(t, err, reliable.ErrNotStored)
		}
		var kept *tagging.Scope
		require.NoError(t, f.inTx(ctx, func(_ execFunc, out *tagging.Scope) error {
			kept = out
			return nil
		}))
		require.ErrorIs(t, kept.Send(order("too late")), reliable.ErrClosed)
		require.ErrorIs(t, kept.Nested(func(*tagging.Scope) error { return nil }), reliable.ErrClosed)
		assert.Empty(t, f.sent())
	})
}

func TestContext_thatWasCanceledStoresNothing(t *testing.T) {
	eachFace(t, func(t *testing.T, f *face) {
		ctx, cancel := context.WithCancel(t.Context())
		err := f.inTx(ctx, func(do execFunc, out *tagging.Scope) error {
			err := errors.Join(do(ctx, insertOf("o")), out.Send(order("canceled within")))
			cancel()
			return err
		})
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, reliable.ErrUnknown, "COMMIT was not sent, and that is known")
		require.ErrorIs(t, f.inTx(ctx, func(execFunc, *tagging.Scope) error { return nil }), context.Canceled)
		_, err = f.outbox.Publish(ctx, order("canceled before"))
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, reliable.ErrNotStored)

		tx, err := f.begin(t.Context())
		require.NoError(t, err)
		_, err = f.outbox.Send(ctx, tx.native, order("canceled send"))
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, reliable.ErrNotStored)
		_ = tx.rollback(t.Context()) // some drivers have closed the connection

		require.NoError(t, f.inTx(t.Context(), func(do execFunc, _ *tagging.Scope) error { return do(t.Context(), insertOf("o")) }),
			"the business must have been rolled back")
		assert.Empty(t, f.sent())
	})
}
