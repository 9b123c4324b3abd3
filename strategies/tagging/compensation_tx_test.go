package tagging_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// refunding writes one business row for each message, and then does what comes next.
func refunding(log *runLog, next func(ctx context.Context, run int) error) tagging.Option {
	return tagging.WithFailedTxHandler("orders", nil, func(ctx context.Context, tx *memstore.Tx, record *reliable.Record) error {
		return log.noting(func(ctx context.Context, record *reliable.Record) error {
			refunds, _ := tx.Get("refunds of " + string(record.ID))
			so, _ := refunds.(int)
			if err := tx.Put("refunds of "+string(record.ID), so+1); err != nil {
				return err
			}
			return next(ctx, len(log.runs(record.ID)))
		})(ctx, record)
	})
}

func refundsOf(store *memstore.Store, id string) any {
	refunds, _ := store.Business("refunds of " + id)
	return refunds
}

func TestTxHandler_itsEffectCommitsWithTheStatus(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, log := memstore.New(), newRunLog()
		var seen []any
		single(t, store, rejecting(), refunding(log, func(context.Context, int) error {
			seen = append(seen, refundsOf(store, "a"), statusOf(t, store, "a"))
			return nil
		}))
		stored(t, store, envelope("a"))
		after(time.Minute)
		assert.Equal(t, []any{nil, reliable.Failed}, seen, "nothing is there before the commit")
		assert.Equal(t, 1, refundsOf(store, "a"))
		assert.Equal(t, reliable.Compensated, statusOf(t, store, "a"))
	})
}

func TestTxHandler_whatFailsOrPanicsLeavesNoEffect(t *testing.T) {
	for name, fail := range map[string]func() error{
		"an error": func() error { return errBank },
		"a panic":  func() error { panic("the bank burns") },
	} {
		t.Run(name, func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				store, log := memstore.New(), newRunLog()
				single(t, store, rejecting(), refunding(log, func(_ context.Context, run int) error {
					if run < 3 {
						return fail()
					}
					return nil
				}))
				stored(t, store, envelope("a"))
				after(time.Minute)
				assert.Len(t, log.runs("a"), 3)
				assert.Equal(t, 1, refundsOf(store, "a"))
				assert.Equal(t, reliable.Compensated, statusOf(t, store, "a"))
			})
		})
	}
}

// forgetful is a store whose leases end long before a process thinks that they do.
type forgetful struct{ *line }

func (f *forgetful) Unwrap() any { return f.line }

func (f *forgetful) ClaimFailed(ctx context.Context, req reliable.ClaimRequest, topics ...string) ([]reliable.Record, error) {
	req.Lease /= 10
	return f.line.ClaimFailed(ctx, req, topics...)
}

func TestTxHandler_aRunThatWasTakenOverIsRolledBack(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker, log := memstore.New(), rejecting(), newRunLog()
		var told notes
		opts := func(name string, takes time.Duration) []tagging.Option {
			return []tagging.Option{
				tagging.WithLease(20 * time.Second), tagging.WithHandlersAtOnce(1), tagging.WithLogger(slog.New(slog.DiscardHandler)),
				refunding(log, func(context.Context, int) error {
					time.Sleep(takes)
					return nil
				}),
				tagging.WithHooks(tagging.Hooks{
					HandlerFailed: func(_ *reliable.Record, err error) { told.add("%s: %v", name, err) },
					Compensated:   func(*reliable.Record) { told.add("%s: compensated", name) },
				}),
			}
		}
		stored(t, store, envelope("a"))
		conn := broker.Connect()
		first, err := tagging.New(&forgetful{&line{store: store}}, conn, conn, opts("first", 15*time.Second)...)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- first.Run(ctx) }()
		after(time.Second)
		single(t, store, broker, opts("second", 12*time.Second)...)
		after(30 * time.Second)
		assert.Equal(t, []string{
			"first: the lease of this run passed on (stale), and what it wrote is rolled back", "second: compensated",
		}, told.all())
		assert.Equal(t, 1, refundsOf(store, "a"))
		assert.Equal(t, reliable.Compensated, statusOf(t, store, "a"))
		cancel()
		require.NoError(t, <-done)
	})
}

func TestTxHandler_aCommitWhoseAnswerIsLostIsNotDoneTwice(t *testing.T) {
	for name, fault := range map[string]memstore.Fault{
		"it committed":     {After: errDead},
		"it did not":       {Before: errDead},
		"nobody will know": {HangAfter: true},
	} {
		t.Run(name, func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				var commits, compensated atomic.Int64
				store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
					if op == memstore.OpCommit && commits.Add(1) == 1 {
						return fault
					}
					return memstore.Fault{}
				}))
				log := newRunLog()
				single(t, store, rejecting(), tagging.WithLease(10*time.Second), refunding(log, func(context.Context, int) error { return nil }),
					tagging.WithHooks(tagging.Hooks{Compensated: func(*reliable.Record) { compensated.Add(1) }}))
				stored(t, store, envelope("a"))
				after(time.Minute)
				assert.Equal(t, 1, refundsOf(store, "a"))
				assert.Equal(t, reliable.Compensated, statusOf(t, store, "a"))
				assert.EqualValues(t, 1, compensated.Load(), "and the hook is told once")
				assert.Len(t, log.runs("a"), map[bool]int{true: 2, false: 1}[name == "it did not"])
			})
		})
	}
}

func TestTxHandler_canSendInItsTransaction(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		sender, err := tagging.NewSender(store)
		require.NoError(t, err)
		runs := 0
		single(t, store, rejecting(), tagging.WithFailedTxHandler("orders", nil,
			func(ctx context.Context, tx *memstore.Tx, record *reliable.Record) error {
				if _, err := sender.Send(ctx, tx, reliable.Envelope{ID: "refund of " + record.ID, Topic: "refunds"}); err != nil {
					return err
				}
				if runs++; runs == 1 {
					return errBank
				}
				return nil
			}))
		stored(t, store, envelope("a"))
		after(time.Minute)
		assert.Equal(t, []string{"a", "refund of a"}, storedIDs(store))
	})
}

func TestTxHandler_saysWhatIsWrongWithItsTransaction(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		single(t, store, rejecting(),
			tagging.WithFailedTxHandler("orders", nil, func(context.Context, *string, *reliable.Record) error { return nil }),
			tagging.WithFailedTxHandler("other", "no database", func(context.Context, *memstore.Tx, *reliable.Record) error { return nil }))
		stored(t, store, envelope("a"), reliable.Envelope{ID: "b", Topic: "other"})
		after(time.Second)
		reason := func(id reliable.ID) string {
			history := recordOf(t, store, id).History
			return history[len(history)-1].Reason
		}
		assert.Contains(t, reason("a"), "takes a *string, but the transaction on this db is a *memstore.Tx")
		assert.Contains(t, reason("b"), "begin")
		assert.Equal(t, reliable.Failed, statusOf(t, store, "a"))
	})
}

func TestTxHandler_needsAStoreThatRecordsInATransaction(t *testing.T) {
	noTx := tagging.WithFailedTxHandler("orders", nil, func(context.Context, *memstore.Tx, *reliable.Record) error { return nil })
	broker := rejecting()
	_, err := tagging.New(compensatorOnly{bare{memstore.New()}}, broker, broker, noTx)
	assert.Equal(t, []string{"WithFailedTxHandler"}, invalidFields(err))
	require.NoError(t, broker.Close())

	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), rejecting()
		outbox, err := tagging.New(&plainTx{&line{store: store}}, broker, broker, noTx)
		require.NoError(t, err)
		stored(t, store, envelope("a"))
		_, err = outbox.SweepOnce(t.Context())
		require.NoError(t, err)
		history := recordOf(t, store, "a").History
		assert.Contains(t, history[len(history)-1].Reason, "use WithFailedHandler")
		require.NoError(t, broker.Close())
	})
}

// compensatorOnly is a store without transactions.
type compensatorOnly struct{ bare }

func (compensatorOnly) ClaimFailed(context.Context, reliable.ClaimRequest, ...string) ([]reliable.Record, error) {
	return nil, errors.ErrUnsupported
}

func (compensatorOnly) SettleCompensation(context.Context, reliable.Compensation) (reliable.SettleResult, error) {
	return 0, errors.ErrUnsupported
}

// plainTx is a store whose transactions can store, and no more.
type plainTx struct{ *line }

func (p *plainTx) Begin(ctx context.Context, db any) (reliable.Tx, error) {
	tx, err := p.line.Begin(ctx, db)
	return struct{ reliable.Tx }{tx}, err
}
