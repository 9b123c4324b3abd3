//go:build services

package faults

import (
	"bytes"
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

func TestDatabase_downAfterConfirmsArrivedLosesNoneAndFailsNone(t *testing.T) {
	t.Parallel()
	for kind, start := range privateDatabases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d, amqpURL := start(t), testenv.RabbitMQ(t)
			declare(t, amqpURL, queue, quorum)
			store := &unsettled{}
			r := newRig(t, rigConfig{
				database: d.database, amqpURL: amqpURL, broker: notDeclaring,
				wrapStore: func(s reliable.Store) reliable.Store {
					store.Store = s
					return store
				},
			})
			r.createOrders()
			var down atomic.Bool
			stop := r.load(4, 20*time.Millisecond, down.Load)
			require.Eventually(t, func() bool { return r.seen.outcome(reliable.Acked) > 200 }, patience, 10*time.Millisecond)

			goroutines, heap := runtime.NumGoroutine(), heapInUse()
			store.hold() // so that confirms are certainly there which nobody has recorded
			acked := r.seen.outcome(reliable.Acked)
			require.Eventually(t, func() bool { return r.seen.outcome(reliable.Acked) > acked+100 }, patience, time.Millisecond)
			down.Store(true)
			d.Stop()
			store.letGo()
			time.Sleep(outage)
			assert.Less(t, runtime.NumGoroutine(), goroutines+500, "goroutines must stay flat")
			assert.Less(t, heapInUse(), heap+64<<20, "memory must stay flat")
			d.Start()
			healed := time.Now()
			r.awaitPlace()
			down.Store(false)
			stop()
			r.eventuallySettled()
			t.Logf("%d orders, settled %v after healing", len(r.orders()), time.Since(healed).Round(time.Millisecond))
			assert.Empty(t, r.withStatus(reliable.Failed))
			r.auditCopies(consume(t, amqpURL, queue), 2)
		})
	}
}

// heapInUse returns how many bytes are in use, garbage aside.
func heapInUse() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapInuse
}

// unsettled is a store whose settlements can be held back.
type unsettled struct {
	reliable.Store
	mu     sync.Mutex
	closed chan struct{} // nil while settlements pass
}

func (u *unsettled) Unwrap() any { return u.Store }

func (u *unsettled) hold() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = make(chan struct{})
}

func (u *unsettled) letGo() {
	u.mu.Lock()
	defer u.mu.Unlock()
	close(u.closed)
	u.closed = nil
}

func (u *unsettled) Settle(ctx context.Context, ss ...reliable.Settlement) ([]reliable.SettleResult, error) {
	u.mu.Lock()
	closed := u.closed
	u.mu.Unlock()
	if closed != nil {
		<-closed
	}
	return u.Store.Settle(ctx, ss...)
}

func TestSettle_whoseAnswerIsLostChargesOnce(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d, amqpURL := makeDatabase(t), testenv.RabbitMQ(t)
			proxied, proxy := d.proxied(t)
			var settling, lost atomic.Int64
			r := newRig(t, rigConfig{
				database: proxied, amqpURL: amqpURL, broker: notDeclaring,
				outbox:    []tagging.Option{tagging.WithFailureBudget(1000, time.Hour), tagging.WithBackoff(time.Minute, time.Minute)},
				wrapStore: func(s reliable.Store) reliable.Store { return noticed{s, &settling} },
			})
			proxy.OnClientBytes(func(chunk []byte) faultproxy.Action {
				if settling.Load() > 0 && bytes.Contains(bytes.ToUpper(chunk), []byte("COMMIT")) && lost.Add(1) <= 2 {
					return faultproxy.LoseAnswer
				}
				return faultproxy.Forward
			})
			publishAll(t, r, "nowhere", "m", 2)
			inspector, ok := reliable.Ability[reliable.Inspector](r.store)
			require.True(t, ok)
			var records []reliable.Record
			require.Eventually(t, func() bool {
				var err error
				records, err = inspector.Lookup(t.Context(), "m-0", "m-1")
				return err == nil && lost.Load() >= 1 && len(records) == 2 && len(records[0].History) > 0 && len(records[1].History) > 0
			}, patience, 50*time.Millisecond)
			for _, record := range records {
				assert.Equal(t, 1, record.Attempts)
				assert.Equal(t, 1, record.Failures, "one refusal is one charge")
				assert.Len(t, record.History, 1)
			}
		})
	}
}

// noticed is a store that says when a settlement is under way.
type noticed struct {
	reliable.Store
	settling *atomic.Int64
}

func (n noticed) Unwrap() any { return n.Store }

func (n noticed) Settle(ctx context.Context, ss ...reliable.Settlement) ([]reliable.SettleResult, error) {
	n.settling.Add(1)
	defer n.settling.Add(-1)
	return n.Store.Settle(ctx, ss...)
}
