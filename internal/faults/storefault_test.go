//go:build services

package faults

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

// storeFault makes a database unusable, and usable again.
type storeFault struct {
	name       string
	begin, end func(t *testing.T, d *privateDatabase, proxy *faultproxy.Proxy)
	openTx     bool // it also takes a transaction that was begun before it
}

var storeFaults = []storeFault{
	{
		name:   "read-only",
		begin:  func(t *testing.T, d *privateDatabase, _ *faultproxy.Proxy) { d.readOnly(t, true) },
		end:    func(t *testing.T, d *privateDatabase, _ *faultproxy.Proxy) { d.readOnly(t, false) },
		openTx: false,
	},
	{
		name:   "stalled",
		begin:  func(_ *testing.T, _ *privateDatabase, proxy *faultproxy.Proxy) { proxy.Stall(faultproxy.Both, true) },
		end:    func(_ *testing.T, _ *privateDatabase, proxy *faultproxy.Proxy) { proxy.Stall(faultproxy.Both, false) },
		openTx: true,
	},
	{
		name:   "hanging",
		begin:  func(_ *testing.T, d *privateDatabase, _ *faultproxy.Proxy) { d.Pause() },
		end:    func(_ *testing.T, d *privateDatabase, _ *faultproxy.Proxy) { d.Resume() },
		openTx: true,
	},
	{
		name:   "stopped",
		begin:  func(_ *testing.T, d *privateDatabase, _ *faultproxy.Proxy) { d.Stop() },
		end:    func(_ *testing.T, d *privateDatabase, _ *faultproxy.Proxy) { d.Start() },
		openTx: true,
	},
}

func TestStoreFault_everyWayOfSendingFailsInTimeAndTakesTheBusinessBack(t *testing.T) {
	t.Parallel()
	for kind, start := range privateDatabases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d, amqpURL := start(t), testenv.RabbitMQ(t)
			declare(t, amqpURL, queue, quorum)
			proxy := faultproxy.New(t, d.Addr())
			r := newRig(t, rigConfig{database: d.via(proxy.Addr()), amqpURL: amqpURL})
			r.createOrders()
			audit := make(map[string]error)
			for _, fault := range storeFaults {
				r.tryToSend(t, d, proxy, fault, audit)
			}
			r.eventuallySettled()

			stored, orders := r.withStatus(reliable.Confirmed), r.orders()
			for id, err := range audit {
				switch {
				case err == nil:
					assert.True(t, orders[id] && stored[id], "%s went well, and is not there", id)
				case !errors.Is(err, reliable.ErrUnknown):
					assert.False(t, orders[id] || stored[id], "%s failed, and is there: %v", id, err)
				default:
					assert.True(t, strings.HasSuffix(id, "/Publish") || orders[id] == stored[id], "%s is there by half", id)
				}
			}
			receipts := consume(t, amqpURL, queue)
			for id := range receipts {
				assert.True(t, stored[id], "sent, but not stored: %s", id)
			}
			assert.Len(t, receipts, len(stored))
		})
	}
}

// tryToSend sends under a fault in every way, then heals it and sends once more. It notes what each call returned.
func (r *rig) tryToSend(t *testing.T, d *privateDatabase, proxy *faultproxy.Proxy, fault storeFault, audit map[string]error) {
	t.Helper()
	name := func(way string) string { return fault.name + "/" + way }
	openID := name("open")
	open := r.openOrder(t, openID)
	fault.begin(t, d, proxy)

	ways := map[string]func(ctx context.Context, id string) error{
		"InTx":    func(ctx context.Context, id string) error { return r.place(ctx, id) },
		"Send":    r.placeOwn,
		"Publish": r.publishOne,
	}
	if fault.openTx {
		ways["open"] = func(ctx context.Context, id string) error { return r.sendAndCommit(ctx, open, id) }
	}
	for way, call := range ways {
		ctx, cancel := context.WithTimeout(context.Background(), callTime)
		began := time.Now()
		err := call(ctx, name(way))
		took := time.Since(began)
		cancel()
		require.Error(t, err, name(way))
		assert.Less(t, took, callTime+margin, "%s was held past its context", name(way))
		if way == "Publish" {
			assert.True(t, errors.Is(err, reliable.ErrNotStored) || errors.Is(err, reliable.ErrUnknown), "%s: %v", name(way), err)
		}
		audit[name(way)] = err
	}
	if !fault.openTx {
		require.NoError(t, open.Rollback())
		audit[openID] = context.Canceled
	}

	fault.end(t, d, proxy)
	healed := name("healed")
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), callTime)
		defer cancel()
		err := r.place(ctx, healed)
		audit[healed] = err
		// The server may have committed what it could not say.
		return err == nil || errors.Is(err, reliable.ErrUnknown)
	}, patience, 100*time.Millisecond, "it must work again by itself")
}

// openOrder begins a transaction of its own and writes an order in it.
func (r *rig) openOrder(t *testing.T, id string) *sql.Tx {
	t.Helper()
	tx, err := r.db.BeginTx(context.Background(), nil)
	require.NoError(t, err)
	require.NoError(t, insertOrder(context.Background(), tx, r.kind, id))
	return tx
}

// sendAndCommit ends a transaction that has its order with a message.
func (r *rig) sendAndCommit(ctx context.Context, tx *sql.Tx, id string) error {
	_, err := r.outbox.Send(ctx, tx, reliable.Envelope{ID: reliable.ID(id), Topic: queue, Payload: []byte(id)})
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("%w: %w", reliable.ErrUnknown, err)
	}
	return nil
}

// placeOwn is place in a transaction of the caller's own.
func (r *rig) placeOwn(ctx context.Context, id string) error {
	tx, err := r.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := insertOrder(ctx, tx, r.kind, id); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return r.sendAndCommit(ctx, tx, id)
}

func (r *rig) publishOne(ctx context.Context, id string) error {
	_, err := r.outbox.Publish(ctx, reliable.Envelope{ID: reliable.ID(id), Topic: queue, Payload: []byte(id)})
	return err
}
