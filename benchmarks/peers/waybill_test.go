//go:build services

package peers

import (
	"context"
	"database/sql"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// waybill is the strategy that keeps the status in the message's row.
var waybill = contender{name: "waybill", open: openWaybill, quiet: patience}

type waybillOutbox struct {
	t        testing.TB
	database database
	db       *sql.DB
	to       destination
	// stores is for a process that only stores; first is the first relay's outbox, which sends as well while it runs.
	stores  *tagging.Sender
	first   *tagging.Outbox
	settled atomic.Int64
}

func openWaybill(t testing.TB, d database, to destination) carrier {
	t.Helper()
	w := &waybillOutbox{t: t, database: d, db: d.open(t, ""), to: to}
	var err error
	w.stores, err = tagging.NewSender(w.store())
	require.NoError(t, err)
	return w
}

// store is the store in the database, with its tables.
func (w *waybillOutbox) store() reliable.Store {
	w.t.Helper()
	ctx := context.Background()
	if w.database.product == postgres {
		store, err := postgresstore.New(w.db)
		require.NoError(w.t, err)
		require.NoError(w.t, store.Migrate(ctx))
		return store
	}
	store, err := mysqlstore.New(w.db)
	require.NoError(w.t, err)
	require.NoError(w.t, store.Migrate(ctx))
	return store
}

func (w *waybillOutbox) relay() (stop func()) {
	w.t.Helper()
	publisher, confirms := w.to.adapter(w.t)
	o, err := tagging.New(w.store(), publisher, confirms, tagging.WithoutRetention(), tagging.WithWindow(window), tagging.WithLogger(silent),
		tagging.WithHooks(tagging.Hooks{Settled: func(_ *reliable.Attempt, s *reliable.Settlement, result reliable.SettleResult) {
			if s.To == reliable.Confirmed && result == reliable.Applied {
				w.settled.Add(1)
			}
		}}))
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- o.Run(ctx) }()
	require.Eventually(w.t, o.Running, patience, time.Millisecond)
	if w.first == nil {
		w.first = o
	}
	return func() {
		cancel()
		require.NoError(w.t, <-ran)
	}
}

func (w *waybillOutbox) send(ctx context.Context, topic string, content []byte) error {
	publish := w.stores.Publish
	if w.first != nil {
		publish = w.first.Publish
	}
	_, err := publish(ctx, reliable.Envelope{Topic: topic, Payload: content})
	return err
}

func (w *waybillOutbox) sell(ctx context.Context, sale int, topic string, content []byte) error {
	work := func(tx *sql.Tx, out *tagging.Scope) error {
		if _, err := tx.ExecContext(ctx, w.database.sale(), sale); err != nil {
			return err
		}
		return out.Send(reliable.Envelope{Topic: topic, Payload: content})
	}
	if w.first == nil {
		return tagging.InTx(ctx, w.stores, w.db, work)
	}
	return tagging.InTx(ctx, w.first, w.db, work)
}

func (w *waybillOutbox) recorded() int { return int(w.settled.Load()) }
