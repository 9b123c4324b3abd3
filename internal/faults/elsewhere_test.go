//go:build services

package faults

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// apart is an outbox whose orders are in another database, and a process that survives the children.
type apart struct {
	*rig
	outboxIn database
	shop     shop
	orders   *rig // reads the business tables only
	amqpURL  string
}

// apartments are the pairs of databases: that of the business, that of the outbox.
var apartments = map[string]func(testing.TB) (shop, database){
	"mariadb row/postgres":    func(t testing.TB) (shop, database) { return shop{Database: mariaDB(t)}, postgres(t) },
	"postgres/mariadb":        func(t testing.TB) (shop, database) { return shop{Database: postgres(t)}, mariaDB(t) },
	"mariadb marker/postgres": func(t testing.TB) (shop, database) { return shop{Database: mariaDB(t), Marker: true}, postgres(t) },
}

func newApart(t *testing.T, s shop, outboxIn database) *apart {
	t.Helper()
	amqpURL := testenv.RabbitMQ(t)
	declare(t, amqpURL, queue, quorum)
	db, transactor, witness, err := s.open(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	orders := &rig{t: t, db: db, kind: s.Database.kind()}
	orders.createOrders()
	r := newRig(t, rigConfig{
		database: outboxIn, amqpURL: amqpURL,
		outbox: []tagging.Option{tagging.WithElsewhere("shop", transactor, witness, tagging.AskAfter(shopAskAfter))},
	})
	return &apart{rig: r, outboxIn: outboxIn, shop: s, orders: orders, amqpURL: amqpURL}
}

func (a *apart) child(stand point, prefix string, orders int) *child {
	return startChild(a.t, job{
		Database: a.outboxIn, Shop: &a.shop, AMQPURL: a.amqpURL, Prefix: prefix, Orders: orders, Stand: stand, Lease: crashLease,
	})
}

func (a *apart) withheld() map[string]bool { return a.column("SELECT id FROM waybill_withheld") }

// audit waits until nothing is undecided, and compares the business tables with what a consumer gets.
func (a *apart) audit() (orders map[string]bool) {
	a.t.Helper()
	require.Eventually(a.t, func() bool { return len(a.withheld()) == 0 }, time.Minute, 100*time.Millisecond, "all is decided by itself")
	a.eventuallySettled()
	receipts := consume(a.t, a.amqpURL, queue)
	orders = a.orders.orders()
	lost, phantom := 0, 0
	for id := range receipts {
		if !orders[id] {
			phantom++
		}
	}
	for id := range orders {
		if receipts[id] == 0 {
			lost++
		}
	}
	assert.Zero(a.t, lost, "committed in one database, and not delivered from the other")
	assert.Zero(a.t, phantom, "delivered, and never committed")
	a.t.Logf("orders=%d delivered=%d lost=%d phantom=%d", len(orders), len(receipts), lost, phantom)
	return orders
}

func TestElsewhere_aProcessKilledAnywhereLosesNothingAndSendsNothingUncommitted(t *testing.T) {
	t.Parallel()
	const comeThrough, standing = 5, 4
	for pair, makePair := range apartments {
		for _, c := range []struct {
			stand point
			least int // of the orders on their way are committed
		}{
			{beforeMark, 0}, {beforeWithhold, 0}, {beforeCommit, 0},
			{beforeRelease, 1}, {afterRelease, 1}, {beforeConfirm, 1}, {beforeSettle, 1},
		} {
			t.Run(pair+"/"+string(c.stand), func(t *testing.T) {
				t.Parallel()
				s, outboxIn := makePair(t)
				a := newApart(t, s, outboxIn)
				child := a.child(c.stand, "child", standing)
				child.await("at " + string(c.stand))
				if c.stand == beforeCommit {
					require.Eventually(t, func() bool { return len(a.withheld()) > 0 }, time.Minute, 10*time.Millisecond)
				}
				child.kill()
				orders := a.audit()
				if c.least == 0 {
					assert.Len(t, orders, comeThrough, "what stood before the commit is rolled back")
					return
				}
				assert.GreaterOrEqual(t, len(orders), comeThrough+c.least)
			})
		}
	}
}

func TestElsewhere_processesKilledUnderLoadLoseNothingAndSendNothingUncommitted(t *testing.T) {
	t.Parallel()
	for pair, makePair := range apartments {
		t.Run(pair, func(t *testing.T) {
			t.Parallel()
			s, outboxIn := makePair(t)
			a := newApart(t, s, outboxIn)
			for i, prefix := range []string{"first", "second", "third"} {
				child := a.child(nowhere, prefix, 100_000)
				require.Eventually(t, func() bool { return a.placed() >= 60*(i+1) }, time.Minute, time.Millisecond)
				child.kill()
			}
			assert.GreaterOrEqual(t, len(a.audit()), 180)
		})
	}
}

func (a *apart) placed() (n int) {
	a.t.Helper()
	require.NoError(a.t, a.orders.db.QueryRow("SELECT COUNT(*) FROM orders").Scan(&n))
	return n
}

// The business goes on from where it was when its process comes back before anybody has asked: with the same IDs.
func TestElsewhere_aTransactionTriedAgainWithTheSameIDIsDecidedByItself(t *testing.T) {
	t.Parallel()
	for pair, makePair := range apartments {
		t.Run(pair, func(t *testing.T) {
			t.Parallel()
			s, outboxIn := makePair(t)
			a := newApart(t, s, outboxIn)
			child := a.child(beforeCommit, "child", 4)
			child.await("at " + string(beforeCommit))
			require.Eventually(t, func() bool { return a.withheld()["child-0-0"] }, time.Minute, 10*time.Millisecond)
			child.kill()
			require.Eventually(t, func() bool { // the server notices, and rolls back
				err := placeElsewhere(t.Context(), a.outbox, a.orders.db, a.orders.kind, "child-0-0")
				return err == nil
			}, time.Minute, 100*time.Millisecond)
			assert.True(t, a.audit()["child-0-0"])
		})
	}
}
