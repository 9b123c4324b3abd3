//go:build services

package faults

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/reliable"
)

// sqlConnection is a broker in a database, with a pool of its own.
type sqlConnection struct {
	*sqlbroker.Broker
	pool *sql.DB
}

// Close says nothing of the pool's end: a connection that was cut says that it is bad.
func (c sqlConnection) Close() error {
	err := c.Broker.Close()
	_ = c.pool.Close()
	return err
}

// connectSQL opens a broker in a database.
func (d database) connectSQL(options ...sqlbroker.Option) (sqlConnection, error) {
	pool, err := sql.Open(d.Driver, d.DSN)
	if err != nil {
		return sqlConnection{}, err
	}
	pool.SetMaxIdleConns(10)
	kind := sqlbroker.MySQL
	if d.kind() == "postgres" {
		kind = sqlbroker.Postgres
	}
	broker, err := sqlbroker.New(kind, pool, options...)
	return sqlConnection{broker, pool}, err
}

// toSQL makes connections to a broker in a database.
func toSQL(d database, options ...sqlbroker.Option) func(testing.TB) connection {
	return func(t testing.TB) connection {
		t.Helper()
		c, err := d.connectSQL(append([]sqlbroker.Option{
			sqlbroker.WithLogger(quiet(t)), sqlbroker.WithConfirmTimeout(2 * time.Second),
		}, options...)...)
		require.NoError(t, err)
		return c
	}
}

// declareSQL makes the tables of topics.
func declareSQL(t testing.TB, d database, topics ...string) {
	t.Helper()
	c, err := d.connectSQL()
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, c.Declare(ctx, topics...))
}

// fromSQL reads the table of a topic with a bare client, in its order.
func fromSQL(t testing.TB, d database, topic string) (ids []string) {
	t.Helper()
	db, err := sql.Open(d.Driver, d.DSN)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	query := "SELECT uuid FROM `watermill_" + topic + "` ORDER BY `offset`"
	if d.kind() == "postgres" {
		query = `SELECT uuid FROM "watermill_` + topic + `" ORDER BY transaction_id, "offset"`
	}
	rows, err := db.Query(query)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	for rows.Next() {
		var id string
		require.NoError(t, rows.Scan(&id))
		ids = append(ids, id)
	}
	require.NoError(t, rows.Err())
	return ids
}

// everyThird breaks a connection as every third COMMIT goes by.
func everyThird(action faultproxy.Action) func(chunk []byte) faultproxy.Action {
	var commits atomic.Int64
	return func(chunk []byte) faultproxy.Action {
		if isCommit(chunk) && commits.Add(1)%3 == 0 {
			return action
		}
		return faultproxy.Forward
	}
}

// isCommit tells COMMIT from the name of an isolation level.
func isCommit(chunk []byte) bool {
	text := bytes.ToUpper(chunk)
	return bytes.Contains(text, []byte("COMMIT")) && !bytes.Contains(text, []byte("COMMITTED"))
}

// sqlFault breaks the database of the broker under load, and heals it before it returns.
type sqlFault struct {
	name    string
	unknown bool // it certainly meets transactions that are open
	breakIt func(d *privateDatabase, proxy *faultproxy.Proxy)
}

var sqlFaults = []sqlFault{
	{"killed", false, func(d *privateDatabase, _ *faultproxy.Proxy) {
		d.Kill()
		time.Sleep(5 * time.Second)
		d.Start()
	}},
	{"restarted", false, func(d *privateDatabase, _ *faultproxy.Proxy) {
		d.Stop()
		d.Start()
	}},
	{"paused", true, func(d *privateDatabase, _ *faultproxy.Proxy) {
		d.Pause()
		time.Sleep(outage / 2)
		d.Resume()
	}},
	{"cut before the answer to COMMIT", true, func(_ *privateDatabase, proxy *faultproxy.Proxy) {
		proxy.OnClientBytes(everyThird(faultproxy.LoseAnswer))
		time.Sleep(3 * time.Second)
		proxy.OnClientBytes(nil)
	}},
	{"cut before COMMIT", true, func(_ *privateDatabase, proxy *faultproxy.Proxy) {
		proxy.OnClientBytes(everyThird(faultproxy.CutBefore))
		time.Sleep(3 * time.Second)
		proxy.OnClientBytes(nil)
	}},
	{"unreachable", false, func(_ *privateDatabase, proxy *faultproxy.Proxy) {
		proxy.Refuse(true)
		proxy.CutAll()
		time.Sleep(5 * time.Second)
		proxy.Refuse(false)
	}},
}

// The outbox is in another database, which is sound. One server serves all faults, one after the other.
func TestSQLFault_losesNothingFailsNothingAndHealsByItself(t *testing.T) {
	t.Parallel()
	for kind, start := range privateDatabases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			server := start(t)
			for i, fault := range sqlFaults {
				t.Run(fault.name, func(t *testing.T) {
					topic := fmt.Sprint(queue, i)
					declareSQL(t, server.database, topic)
					proxy := faultproxy.New(t, server.Addr())
					r := newRig(t, rigConfig{database: databases[kind](t), topic: topic, connect: toSQL(server.via(proxy.Addr()))})
					r.survives(func() { fault.breakIt(server, proxy) })
					if fault.unknown {
						assert.NotZero(t, r.seen.outcome(reliable.Unknown), "the fault must have met messages in flight")
					}
					r.audit(receiptsOf(fromSQL(t, server.database, topic)))
				})
			}
		})
	}
}

// Outbox and broker go down together, and messages are handed over by one transaction.
func TestSQLHandOver_aDatabaseThatIsKilledOrCutLosesNothingAndDuplicatesNothing(t *testing.T) {
	t.Parallel()
	for kind, start := range privateDatabases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			server := start(t)
			for name, breakIt := range map[string]func(proxy *faultproxy.Proxy){
				"killed": func(*faultproxy.Proxy) {
					server.Kill()
					time.Sleep(2 * time.Second)
					server.Start()
				},
				"paused": func(*faultproxy.Proxy) {
					server.Pause()
					time.Sleep(crashLease + 2*time.Second) // beyond the confirm timeout, and the lease
					server.Resume()
				},
				"cut at COMMIT": func(proxy *faultproxy.Proxy) {
					proxy.OnClientBytes(everyThird(faultproxy.LoseAnswer))
					time.Sleep(3 * time.Second)
					proxy.OnClientBytes(everyThird(faultproxy.CutAfter))
					time.Sleep(3 * time.Second)
					proxy.OnClientBytes(nil)
				},
			} {
				t.Run(name, func(t *testing.T) {
					administerAll(t, server)
					declareSQL(t, server.database, queue)
					proxy := faultproxy.New(t, server.Addr())
					behind := server.via(proxy.Addr())
					var down atomic.Bool
					r := newRig(t, rigConfig{database: behind, connect: toSQL(behind, sqlbroker.WithConfirmTimeout(childConfirm)), outbox: shortLease})
					r.createOrders()
					stop := r.load(4, 20*time.Millisecond, down.Load)
					require.Eventually(t, func() bool { return r.seen.outcome(reliable.Acked) > 200 }, patience, 10*time.Millisecond)
					down.Store(true)
					breakIt(proxy)
					r.awaitPlace()
					down.Store(false)
					stop()
					r.eventuallySettled()
					assert.Empty(t, r.withStatus(reliable.Failed), "an outage must fail nothing")
					receipts := receiptsOf(fromSQL(t, server.database, queue))
					for id, n := range receipts {
						assert.Equal(t, 1, n, "copies of %s", id)
					}
					r.audit(receipts)
				})
			}
		})
	}
}

// administerAll drops what a fault before has left.
func administerAll(t testing.TB, d *privateDatabase) {
	t.Helper()
	for _, table := range []string{
		"orders", "watermill_orders", "watermill_offsets_orders", "waybill_outbox", "waybill_lane", "waybill_head", "waybill_hold",
		"waybill_history", "waybill_chore", "waybill_schema", "waybill_decision",
	} {
		administer(t, d.Driver, d.DSN, "DROP TABLE IF EXISTS "+table)
	}
}

func TestSQLRefusal_aMissingTableHoldsUpNoOtherAndEndsOnceItIsDeclared(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		for name, broker := range map[string]func(outbox database) database{
			"in another database":     func(database) database { return makeDatabase(t) },
			"in the outbox's own one": func(outbox database) database { return outbox },
		} {
			t.Run(kind+" "+name, func(t *testing.T) {
				t.Parallel()
				outbox := makeDatabase(t)
				d := broker(outbox)
				declareSQL(t, d, queue)
				r := newRig(t, rigConfig{database: outbox, connect: toSQL(d), outbox: endless})
				refused := publishAll(t, r, refusedTopic, "refused", 1000)
				healthy := publishAll(t, r, queue, "healthy", 1000)
				require.Eventually(t, func() bool { return r.hasAll(reliable.Confirmed, healthy) }, patience, 50*time.Millisecond)
				require.Eventually(t, func() bool { return r.seen.outcome(reliable.Returned) > 4 }, patience, 50*time.Millisecond)
				assert.Zero(t, r.count(reliable.Confirmed, refused))
				assert.Empty(t, r.withStatus(reliable.Failed))

				declareSQL(t, d, refusedTopic)
				r.eventuallySettled()
				assert.True(t, r.hasAll(reliable.Confirmed, refused))
				assert.Len(t, fromSQL(t, d, refusedTopic), len(refused))
				assert.Len(t, fromSQL(t, d, queue), len(healthy), "the healthy ones arrive once each")
			})
		}
	}
}

func TestSQLPoison_aRecordThatIsTooLargeIsFoundAndItsNeighboursArrive(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d := makeDatabase(t)
			declareSQL(t, d, queue)
			// The broker believes in more than the column takes.
			administer(t, d.Driver, d.DSN, map[string]string{
				"mariadb":  "ALTER TABLE watermill_orders MODIFY payload BLOB",
				"postgres": "ALTER TABLE watermill_orders ALTER uuid TYPE VARCHAR(40)",
			}[kind])
			poison := reliable.ID("m-200")
			r := newRig(t, rigConfig{database: d, connect: toSQL(d), outbox: endless})
			envs := make([]reliable.Envelope, 400)
			for i := range envs {
				envs[i] = reliable.Envelope{ID: reliable.ID(fmt.Sprintf("m-%d", i)), Topic: queue, Payload: []byte("x")}
			}
			envs[200].Payload = incompressible(70 << 10)
			if kind == "postgres" {
				poison = reliable.ID("m-200-" + fmt.Sprintf("%040d", 0))
				envs[200].ID = poison
			}
			_, err := r.store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envs...)
			require.NoError(t, err)
			r.eventuallySettled()
			assert.Equal(t, map[string]bool{string(poison): true}, r.withStatus(reliable.Failed))
			assert.Contains(t, r.lastReason(poison), "does not fit into table")
			assert.Len(t, receiptsOf(fromSQL(t, d, queue)), 399)
			assert.Len(t, fromSQL(t, d, queue), 399, "no copies")
		})
	}
}
