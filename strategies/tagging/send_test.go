package tagging_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

func noCompensation(context.Context, *reliable.Record) error { return nil }

func envelope(id string) reliable.Envelope {
	return reliable.Envelope{ID: reliable.ID(id), Topic: "orders", Payload: []byte(id)}
}

func statusOf(t *testing.T, store *memstore.Store, id string) reliable.Status {
	t.Helper()
	for _, record := range store.Records() {
		if record.ID == reliable.ID(id) {
			return record.Status
		}
	}
	require.Failf(t, "not stored", "%q", id)
	return 0
}

func storedIDs(store *memstore.Store) (ids []string) {
	for _, record := range store.Records() {
		ids = append(ids, string(record.ID))
	}
	return ids
}

// single is a fleet of one that relays until the end of the test.
func single(t *testing.T, store *memstore.Store, broker *membroker.Broker, opts ...tagging.Option) *process {
	t.Helper()
	p, err := newProcess(store, broker, opts...)
	require.NoError(t, err)
	p.start()
	t.Cleanup(func() {
		p.cancel()
		_ = <-p.done
		_ = broker.Close()
		after(10 * time.Millisecond) // a writer may be gathering still, for callers that will not come back
	})
	synctest.Wait()
	return p
}

// after lets virtual time pass, and everything come to rest.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestInTx_commitsBusinessAndMessagesTogetherAndSendsThemFromMemory(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New()
		p := single(t, store, broker)
		claims := p.line.counted("claim")
		began := time.Now()
		require.NoError(t, tagging.InTx(t.Context(), p, nil, func(tx *memstore.Tx, out *tagging.Scope) error {
			require.NoError(t, tx.Put("order-1", "placed"))
			ids, err := out.SendIDs(envelope("a"), envelope("b"))
			assert.Equal(t, []reliable.ID{"a", "b"}, ids)
			assert.Empty(t, broker.Attempts(), "nothing is sent before the commit")
			return err
		}))
		after(30 * time.Millisecond)
		assert.Len(t, broker.Delivered("orders"), 2)
		assert.Equal(t, began, broker.Attempts()[0].HandedOver, "right after COMMIT")
		assert.Equal(t, reliable.Confirmed, statusOf(t, store, "a"))
		for op, want := range map[string]int{"begin": 1, "enqueue": 1, "commit": 1, "settle": 1, "claim": claims} {
			assert.Equal(t, want, p.line.counted(op), "%s statements", op)
		}
	})
}

func TestInTx_whatRollsBackIsNotSent(t *testing.T) {
	for name, fn := range map[string]func(tx *memstore.Tx, out *tagging.Scope) error{
		"an error": func(*memstore.Tx, *tagging.Scope) error { return errRollback },
		"a panic":  func(*memstore.Tx, *tagging.Scope) error { panic(errRollback) },
	} {
		t.Run(name, func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				store, broker := memstore.New(), membroker.New()
				p := single(t, store, broker, tagging.WithMemory(1000, 1<<20))
				var leaked *tagging.Scope
				err := func() (err error) {
					defer func() {
						if panicked := recover(); panicked != nil {
							err = panicked.(error) //nolint:forcetypeassert // the test's own
						}
					}()
					return tagging.InTx(t.Context(), p, nil, func(tx *memstore.Tx, out *tagging.Scope) error {
						leaked = out
						require.NoError(t, tx.Put("order-1", "placed"))
						require.NoError(t, out.Send(envelope("a")))
						return fn(tx, out)
					})
				}()
				require.ErrorIs(t, err, errRollback)
				after(time.Minute)
				assert.Empty(t, store.Records())
				assert.Empty(t, store.BusinessRows())
				assert.Empty(t, broker.Attempts())
				require.ErrorIs(t, leaked.Send(envelope("b")), reliable.ErrClosed, "a scope must not swallow messages after its end")
				require.ErrorIs(t, leaked.Nested(func(*tagging.Scope) error { return nil }), reliable.ErrClosed)
			})
		})
	}
}

func TestInTx_aNestedScopeWithdrawsItsMessagesWhenItRollsBack(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New()
		p := single(t, store, broker)
		require.NoError(t, tagging.InTx(t.Context(), p, nil, func(tx *memstore.Tx, out *tagging.Scope) error {
			require.NoError(t, out.Send(envelope("first")))
			err := out.Nested(func(out *tagging.Scope) error {
				require.NoError(t, tx.Put("gone", 1))
				require.NoError(t, out.Nested(func(out *tagging.Scope) error { return out.Send(envelope("gone-inner")) }))
				require.NoError(t, out.Send(envelope("gone")))
				return errRollback
			})
			require.ErrorIs(t, err, errRollback)
			assert.Panics(t, func() {
				_ = out.Nested(func(out *tagging.Scope) error {
					require.NoError(t, tx.Put("gone", 2))
					require.NoError(t, out.Send(envelope("gone-too")))
					panic("lost")
				})
			})
			return out.Nested(func(out *tagging.Scope) error {
				require.NoError(t, tx.Put("kept", 1))
				return out.Send(envelope("kept"))
			})
		}))
		after(time.Second)
		assert.Equal(t, []string{"first", "kept"}, storedIDs(store))
		assert.Equal(t, map[string]any{"kept": 1}, store.BusinessRows())
	})
}

func TestInTx_aCommitWhoseAnswerIsLostHandsNothingOver(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var lose atomic.Bool
		store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
			if op == memstore.OpCommit && lose.Load() {
				return memstore.Fault{After: errStore}
			}
			return memstore.Fault{}
		}))
		broker := membroker.New(membroker.WithConfirmTimeout(time.Second))
		p := single(t, store, broker, tagging.WithLease(10*time.Second), tagging.WithWindow(3), tagging.WithMemory(4, 1<<20))
		lose.Store(true)
		for i := range 5 { // more than there are places: each reservation is returned
			err := tagging.InTx(t.Context(), p, nil, func(_ *memstore.Tx, out *tagging.Scope) error {
				return out.Send(envelope(fmt.Sprint(i)))
			})
			require.ErrorIs(t, err, reliable.ErrUnknown)
			assert.Contains(t, err.Error(), "repeat with the same message IDs")
		}
		after(9 * time.Second)
		assert.Empty(t, broker.Attempts(), "nobody knows whether it committed")
		after(3 * time.Second)
		assert.Len(t, broker.Delivered("orders"), 5, "it had: they are found when their lease ends")

		lose.Store(false)
		require.NoError(t, tagging.InTx(t.Context(), p, nil, func(_ *memstore.Tx, out *tagging.Scope) error { return out.Send(envelope("next")) }))
		after(30 * time.Millisecond)
		assert.Len(t, broker.Delivered("orders"), 6, "there is room in memory")
	})
}

func TestInTx_saysWhatTheFunctionMustTake(t *testing.T) {
	sender, err := tagging.NewSender(memstore.New())
	require.NoError(t, err)
	called := false
	err = tagging.InTx(t.Context(), sender, nil, func(string, *tagging.Scope) error { called = true; return nil })
	require.ErrorIs(t, err, reliable.ErrInvalid)
	assert.ErrorContains(t, err, "takes a string, but the transaction on this db is a *memstore.Tx")
	err = tagging.InTx(t.Context(), sender, nil, func(fmt.Stringer, *tagging.Scope) error { called = true; return nil })
	assert.ErrorContains(t, err, "takes a fmt.Stringer")
	err = tagging.InTx(t.Context(), sender, "a database", func(*memstore.Tx, *tagging.Scope) error { called = true; return nil })
	require.ErrorIs(t, err, reliable.ErrInvalid)
	assert.False(t, called)
}

func TestInTx_badInputIsRefusedBeforeAnythingIsStored(t *testing.T) {
	store := memstore.New()
	sender, err := tagging.NewSender(store, tagging.WithLimits(reliable.Limits{Payload: 3}))
	require.NoError(t, err)
	err = tagging.InTx(t.Context(), sender, nil, func(_ *memstore.Tx, out *tagging.Scope) error {
		return out.Send(envelope("ok"), envelope("too long"))
	})
	require.ErrorIs(t, err, reliable.ErrInvalid)
	assert.ErrorContains(t, err, "message 2 of 2")
	assert.NotContains(t, err.Error(), "too long")
	assert.Empty(t, store.Records())
}

func TestSend_storesInTheTransactionOfTheCaller(t *testing.T) {
	store := memstore.New()
	sender, err := tagging.NewSender(store)
	require.NoError(t, err)
	for _, commit := range []bool{false, true} {
		tx, err := store.Begin(t.Context(), nil)
		require.NoError(t, err)
		ids, err := sender.Send(t.Context(), tx.Native(), envelope("a"), reliable.Envelope{Topic: "orders"})
		require.NoError(t, err)
		assert.Len(t, ids, 2)
		assert.Equal(t, reliable.ID("a"), ids[0])
		assert.Len(t, ids[1], 36)
		if assert.Empty(t, store.Records()); commit {
			require.NoError(t, tx.Commit(t.Context()))
			assert.Len(t, store.Records(), 2)
		} else {
			require.NoError(t, tx.Rollback(t.Context()))
			assert.Empty(t, store.Records())
		}
	}
	_, err = sender.Send(t.Context(), "no transaction", envelope("b"))
	require.ErrorIs(t, err, reliable.ErrInvalid)
}

func TestPublisher_storesWhatWatermillPublishesAndStripsWhatAReceivedMessageCarries(t *testing.T) {
	store := memstore.New()
	sender, err := tagging.NewSender(store, tagging.WithCapture(func(context.Context) map[string]string {
		return map[string]string{"traceparent": "captured", "tenant": "captured"}
	}))
	require.NoError(t, err)
	received := message.NewMessage("order-1", message.Payload("paid"))
	received.Metadata = message.Metadata{
		"name": "OrderPaid", "tenant": "its own", reliable.HeaderVersion: reliable.WireVersion, reliable.HeaderKey: "customer-7", "waybill-future": "x",
	}
	tx, err := store.Begin(t.Context(), nil)
	require.NoError(t, err)
	inTx, err := sender.Publisher(t.Context(), tx.Native())
	require.NoError(t, err)
	require.NoError(t, inTx.Publish("payments", received, message.NewMessage("", nil)))
	require.NoError(t, inTx.Publish("payments"))
	require.NoError(t, inTx.Close())
	require.NoError(t, tx.Commit(t.Context()))

	require.NoError(t, tagging.InTx(t.Context(), sender, nil, func(_ *memstore.Tx, out *tagging.Scope) error {
		return out.Publisher().Publish("payments", message.NewMessage("order-2", nil))
	}))
	records := store.Records()
	require.Len(t, records, 3)
	assert.Equal(t, reliable.ID("order-1"), records[0].ID)
	assert.Equal(t, "customer-7", records[0].Key)
	assert.Equal(t, map[string]string{"name": "OrderPaid", "tenant": "its own", "traceparent": "captured"}, records[0].Metadata)
	assert.Len(t, records[1].ID, 36, "a message without UUID is given an ID")
	assert.Equal(t, reliable.ID("order-2"), records[2].ID)
	assert.NotContains(t, received.Metadata, "traceparent", "the caller's message is not touched")
}
