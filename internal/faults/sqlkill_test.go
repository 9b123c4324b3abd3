//go:build services

package faults

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// shortLease is for a broker whose confirm timeout is childConfirm.
var shortLease = []tagging.Option{tagging.WithLease(crashLease), tagging.WithPollInterval(100 * time.Millisecond)}

// kills is how many processes are killed, each one message of the database's protocol further on than the last.
const kills = 80

// Everything that a process says to the database, its business included, goes through a proxy, which kills it when it says
// the n-th thing: half of them before the database hears it, half after. All use the same tables, and so does the one that
// is left.
func TestSQLKill_atEveryStepOfTheHandOverLosesNothingAndDuplicatesNothing(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			duplicates, orders := killAtEveryStep(t, makeDatabase(t), joinedBroker)
			assert.Zero(t, duplicates)
			t.Logf("%d processes killed, %d orders, %d duplicates", kills, orders, duplicates)
		})
	}
}

// That the test above finds none is worth something, because this one does.
func TestSQLKill_withoutTheHandOverDuplicates(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			duplicates, orders := killAtEveryStep(t, makeDatabase(t), apartBroker)
			assert.NotZero(t, duplicates)
			t.Logf("%d processes killed, %d orders, %d duplicates", kills, orders, duplicates)
		})
	}
}

// killAtEveryStep returns how many copies there are beyond the first of each message, and how many orders were placed. It
// fails the test if one is lost, or was sent and not committed.
func killAtEveryStep(t *testing.T, d database, mode string) (duplicates, orders int) {
	t.Helper()
	declareSQL(t, d, queue)
	var options []sqlbroker.Option
	if mode == apartBroker {
		options = append(options, sqlbroker.WithoutHandOver())
	}
	// The tables are there before the first child says anything.
	first := newRig(t, rigConfig{database: d, connect: toSQL(d, append(options, sqlbroker.WithConfirmTimeout(childConfirm))...), outbox: shortLease})
	first.createOrders()
	require.NoError(t, first.stop())

	behind, proxy := d.proxied(t)
	for n := range kills {
		c := startChild(t, job{
			Database: behind, SQLBroker: mode, Prefix: fmt.Sprint("child", n), Orders: 1000, Stand: nowhere, Lease: crashLease,
		})
		c.await("relays")
		var said atomic.Int64
		killed := make(chan struct{})
		proxy.OnClientBytes(func(chunk []byte) faultproxy.Action {
			switch at := said.Add(1); {
			case at == int64(n+1):
				_ = c.cmd.Process.Kill()
				close(killed)
				if n%2 == 0 {
					return faultproxy.CutBefore
				}
				return faultproxy.Forward
			case at > int64(n+1): // what it managed to say while it was being killed
				return faultproxy.CutBefore
			}
			return faultproxy.Forward
		})
		select {
		case <-killed:
		case <-time.After(time.Minute):
			require.FailNow(t, "the child did not come this far")
		}
		c.kill()
		proxy.CutAll()
		proxy.OnClientBytes(nil)
	}

	r := newRig(t, rigConfig{database: d, connect: toSQL(d, append(options, sqlbroker.WithConfirmTimeout(childConfirm))...), outbox: shortLease})
	r.eventuallySettled()
	placed := r.orders()
	receipts := receiptsOf(fromSQL(t, d, queue))
	for id, copies := range receipts {
		assert.True(t, placed[id], "sent, and not committed: %s", id)
		duplicates += copies - 1
	}
	for id := range placed {
		assert.NotZero(t, receipts[id], "lost: %s", id)
	}
	assert.Greater(t, len(placed), kills/2)
	return duplicates, len(placed)
}
