package middleware_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable"
)

// invoice is a handler with an effect that is seen when it happens twice.
func invoice(_ context.Context, tx *memstore.Tx, msg *message.Message) error {
	count, _ := tx.Get(msg.UUID)
	n, _ := count.(int)
	return tx.Put(msg.UUID, n+1)
}

func onceIn(t *testing.T, store *memstore.Store, h func(context.Context, *memstore.Tx, *message.Message) error) message.NoPublishHandlerFunc {
	t.Helper()
	handle, err := middleware.Once(store, nil, "billing", h)
	require.NoError(t, err)
	return handle
}

func TestOnce_theEffectOfARepeatedMessageHappensOnce(t *testing.T) {
	store := memstore.New()
	handle := onceIn(t, store, invoice)
	for range 3 {
		require.NoError(t, handle(message.NewMessage("order-1", nil)))
	}
	require.NoError(t, handle(message.NewMessage("order-2", nil)))
	assert.Equal(t, map[string]any{"order-1": 1, "order-2": 1}, store.BusinessRows())
}

func TestOnce_concurrentCopiesHaveOneEffect(t *testing.T) {
	store := memstore.New()
	handle := onceIn(t, store, invoice)
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() { assert.NoError(t, handle(message.NewMessage("order-1", nil))) })
	}
	group.Wait()
	assert.Equal(t, map[string]any{"order-1": 1}, store.BusinessRows())
}

func TestOnce_whatFailedIsTriedAgainFromNothing(t *testing.T) {
	store := memstore.New()
	broken := errors.New("no such customer")
	fail := true
	handle := onceIn(t, store, func(ctx context.Context, tx *memstore.Tx, msg *message.Message) error {
		if err := invoice(ctx, tx, msg); err != nil || !fail {
			return err
		}
		return broken
	})
	require.ErrorIs(t, handle(message.NewMessage("order-1", nil)), broken)
	assert.Empty(t, store.BusinessRows())
	fail = false
	require.NoError(t, handle(message.NewMessage("order-1", nil)))
	assert.Equal(t, map[string]any{"order-1": 1}, store.BusinessRows())
}

func TestOnce_aPanicTakesEverythingBack(t *testing.T) {
	store := memstore.New()
	handle := onceIn(t, store, func(ctx context.Context, tx *memstore.Tx, msg *message.Message) error {
		_ = invoice(ctx, tx, msg)
		panic("broken")
	})
	require.Panics(t, func() { _ = handle(message.NewMessage("order-1", nil)) })
	require.NoError(t, onceIn(t, store, invoice)(message.NewMessage("order-1", nil)))
	assert.Equal(t, map[string]any{"order-1": 1}, store.BusinessRows())
}

// The answer to the COMMIT is cut off: the next delivery finds that it had committed.
func TestOnce_aCommitWhoseAnswerIsLostIsNotRepeated(t *testing.T) {
	lose := true
	store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
		if op == memstore.OpCommit && lose {
			lose = false
			return memstore.Fault{After: errors.New("connection reset")}
		}
		return memstore.Fault{}
	}))
	handle := onceIn(t, store, invoice)
	require.ErrorIs(t, handle(message.NewMessage("order-1", nil)), reliable.ErrUnknown)
	require.NoError(t, handle(message.NewMessage("order-1", nil)))
	assert.Equal(t, map[string]any{"order-1": 1}, store.BusinessRows())
}

func TestOnce_aDatabaseThatIsAwayIsNoFaultOfTheMessage(t *testing.T) {
	for _, op := range []memstore.Op{memstore.OpBegin, memstore.OpReceive, memstore.OpCommit} {
		store := memstore.New(memstore.WithFault(func(o memstore.Op, _ []reliable.ID) memstore.Fault {
			if o == op {
				return memstore.Fault{Before: errors.New("connection refused")}
			}
			return memstore.Fault{}
		}))
		assert.Equal(t, outcomePostponed, outcomeOf(t, onceIn(t, store, invoice), "order-1"), "%v", op)
		assert.Empty(t, store.BusinessRows())
	}
}

func TestOnce_aUUIDThatNoInboxKeepsIsPermanent(t *testing.T) {
	handle := onceIn(t, memstore.New(), invoice)
	for _, id := range []string{"", string(make([]byte, 129)), "order-\xff"} {
		assert.Equal(t, outcomePermanent, outcomeOf(t, handle, id), "%q", id)
	}
}

const (
	outcomePostponed = "postponed"
	outcomePermanent = "permanent"
)

// outcomeOf tells by a preset what it takes the handler's error for: a permanent one is tried once and poisoned, a postponed
// one given back.
func outcomeOf(t *testing.T, handle message.NoPublishHandlerFunc, id string) string {
	t.Helper()
	err := handle(message.NewMessage(id, nil))
	require.Error(t, err)
	switch {
	case middleware.IsPermanent(err):
		return outcomePermanent
	case middleware.IsPostponed(err):
		return outcomePostponed
	}
	return fmt.Sprint(err)
}

func TestOnce_reportsAllThatIsWrongTogether(t *testing.T) {
	_, err := middleware.Once[*sql.Tx]("a store", nil, "", nil)
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, part := range []string{"store", "Group", "handler"} {
		require.ErrorContains(t, err, part)
	}
}

func TestOnce_saysWhichTransactionTheHandlerMustTake(t *testing.T) {
	handle, err := middleware.Once(memstore.New(), nil, "billing",
		func(context.Context, *sql.Tx, *message.Message) error { return nil })
	require.NoError(t, err)
	require.ErrorContains(t, handle(message.NewMessage("order-1", nil)), "takes a *sql.Tx")
}

func TestOnce_onADatabase(t *testing.T) {
	store, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "shop.db"))
	require.NoError(t, err)
	defer func() { assert.NoError(t, store.Close()) }()
	_, err = store.DB().ExecContext(t.Context(), "CREATE TABLE invoices (order_id TEXT)")
	require.NoError(t, err)
	handle, err := middleware.Once(store, store.DB(), "billing", func(ctx context.Context, tx *sql.Tx, msg *message.Message) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO invoices (order_id) VALUES (?)", msg.UUID)
		return err
	})
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, handle(message.NewMessage("order-1", nil)))
	}
	var n int
	require.NoError(t, store.DB().QueryRowContext(t.Context(), "SELECT COUNT(*) FROM invoices").Scan(&n))
	assert.Equal(t, 1, n)
}

func TestKeepInbox_forgetsWhatIsOldAndNothingElse(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		handle := onceIn(t, store, invoice)
		ctx, stop := context.WithCancel(t.Context())
		kept := make(chan error, 1)
		go func() { kept <- middleware.KeepInbox(ctx, store, "worker-1", time.Hour, slog.New(slog.DiscardHandler)) }()
		require.NoError(t, handle(message.NewMessage("order-1", nil)))
		time.Sleep(59 * time.Minute)
		require.NoError(t, handle(message.NewMessage("order-1", nil)))
		assert.Equal(t, map[string]any{"order-1": 1}, store.BusinessRows(), "it is still known")
		time.Sleep(3 * time.Minute)
		require.NoError(t, handle(message.NewMessage("order-1", nil)))
		assert.Equal(t, map[string]any{"order-1": 2}, store.BusinessRows(), "it was forgotten")
		stop()
		require.ErrorIs(t, <-kept, context.Canceled)
	})
}

func TestKeepInbox_refusesWhatMakesNoSense(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	require.ErrorIs(t, middleware.KeepInbox(t.Context(), "a store", "w", time.Hour, logger), reliable.ErrInvalid)
	require.ErrorIs(t, middleware.KeepInbox(t.Context(), memstore.New(), "w", time.Second, logger), reliable.ErrInvalid)
	require.ErrorIs(t, middleware.KeepInbox(t.Context(), memstore.New(), "w", time.Hour, nil), reliable.ErrInvalid)
}
