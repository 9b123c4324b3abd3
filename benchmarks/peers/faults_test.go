//go:build services && soak

package peers

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/internal/testservers"
)

const (
	// faulty is how many messages are sent while something goes wrong, and pace the time between two of them.
	faulty = 2000
	pace   = 2 * time.Millisecond
	// outage is how long the broker is away.
	outage = 8 * time.Second
	// elsewhere is a queue that is not there, and strays how many of the messages are for it.
	elsewhere = "elsewhere"
	strays    = 10
)

// fault is what goes wrong, from when a third of the messages was sent.
type fault struct {
	name   string
	relays int
	// strays is how many messages are for the queue that is not there.
	strays int
	// kills says that the broker is killed. What it forgets then of young queues no library could help.
	kills  bool
	happen func(broker *testservers.RabbitMQ)
}

var faults = []fault{
	{name: "broker killed and started again", relays: 1, kills: true, happen: func(broker *testservers.RabbitMQ) {
		broker.Kill()
		broker.Start()
	}},
	{name: "broker away for 8 s", relays: 1, happen: func(broker *testservers.RabbitMQ) {
		broker.Stop()
		time.Sleep(outage)
		broker.Start()
	}},
	{name: "10 messages for a queue that is not there yet", relays: 1, strays: strays, happen: func(*testservers.RabbitMQ) {}},
	{name: "two relays", relays: 2, happen: func(*testservers.RabbitMQ) {}},
}

// account is what came of 2,000 messages.
type account struct {
	lost, duplicated int
	// waiting is how many had not come and are not lost: the library has them, and pauses before it tries again.
	waiting int
	// stuck is how many came only once the relay's process had been started again.
	stuck int
}

// TestSoakPeersMeetFaults counts what each library loses, and what it sends more than once. Waybill may lose nothing, need no help,
// and send nothing twice where the broker was well; of the others it is told.
func TestSoakPeersMeetFaults(t *testing.T) {
	for _, c := range []contender{waybill, watermillForwarder, oagudoReader, oagudoOptimistic, riverJobs, bare} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			broker := testservers.StartRabbitMQ(t)
			for _, f := range faults {
				t.Run(f.name, func(t *testing.T) {
					a := suffer(t, c, f, broker)
					pairs.Report("fault | %s | %s | %d lost | %d copies | %d stuck | %d waiting",
						c.name, f.name, a.lost, a.duplicated, a.stuck, a.waiting)
					if c.name != waybill.name {
						return
					}
					assert.Zero(t, a.lost, "messages were lost")
					assert.Zero(t, a.stuck+a.waiting, "messages still waited, or waited for somebody to start the process again")
					if f.strays > 0 || f.relays > 1 {
						assert.Zero(t, a.duplicated, "copies, though the broker had answered everything")
					}
				})
			}
		})
	}
}

// suffer sends messages while f happens, and counts what arrived.
func suffer(t testing.TB, c contender, f fault, broker *testservers.RabbitMQ) (a account) {
	t.Helper()
	s := &scope{TB: t}
	defer s.end()
	d, name := emptyDatabase(s, postgres), fmt.Sprint(orders, "-", time.Now().UnixNano())
	if f.kills {
		queueOn(s, broker.URL(), name)
		broker.KeepQueues()
	}
	to := queueOn(s, broker.URL(), name)
	process := start(s, c, d, to, f.relays)
	begun, sent := sendPaced(process.carrier, name, f.strays)
	<-begun
	f.happen(broker)
	<-sent
	require.Equal(t, faulty, ask(t, d, "SELECT COUNT(*) FROM business"), "sales that were committed")

	to = queueOn(s, broker.URL(), name) // the connection may have gone with the broker
	counts, straying := collect(s, to), &tally{}
	arrived := func() int {
		_, there := await(faulty-f.strays, calm(c), counts.messages)
		if f.strays == 0 {
			return there
		}
		if straying.counts == nil {
			straying = collect(s, queueOn(s, broker.URL(), elsewhere))
		}
		_, strayed := await(f.strays, calm(c), straying.messages)
		return there + strayed
	}
	there := arrived()
	process.end()
	if there < faulty {
		process = start(s, c, d, to, 1)
		a.stuck = arrived() - there
		process.end()
	}
	missing := faulty - there - a.stuck
	if query, keeps := kept[c.name]; keeps {
		a.waiting = min(missing, ask(t, d, query))
	}
	a.lost = missing - a.waiting
	a.duplicated = counts.copies() + straying.copies()
	return a
}

// calm is how long nothing more may arrive after something was wrong: longer than the pauses after which each tries again,
// of which river's third has 81 s.
func calm(c contender) time.Duration {
	if c.name == bare.name {
		return quiet // it never tries again
	}
	return 100 * time.Second
}

// process is a contender with its relays, which can be ended as a process is, whatever state it is in.
type process struct {
	carrier carrier
	end     func()
}

func start(t testing.TB, c contender, d database, to destination, relays int) process {
	t.Helper()
	s := &scope{TB: t}
	o := c.open(s, d, to)
	var stops []func()
	for range relays {
		stops = append(stops, o.relay())
	}
	return process{o, func() {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for _, stop := range stops {
				stop()
			}
			s.end()
		}()
		select {
		case <-ended:
		case <-time.After(patience): // it hangs; its connections to the database would live on
			t.Logf("%s: does not stop", c.name)
		}
		closeConnections(t, d)
	}}
}

// closeConnections closes all that a process has left open, as its end would.
func closeConnections(t testing.TB, d database) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, d.dsn)
	require.NoError(t, err)
	_, err = conn.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	require.NoError(t, err)
	require.NoError(t, conn.Close(ctx))
}

// kept asks for how many messages each library still means to send.
var kept = map[string]string{
	waybill.name: "SELECT COUNT(*) FROM waybill_outbox WHERE status = 0",
	watermillForwarder.name: `SELECT COUNT(*) FROM watermill_events_to_forward m, watermill_offsets_events_to_forward o
		WHERE (m.transaction_id, m."offset") > (o.last_processed_transaction_id, o.offset_acked)`,
	oagudoReader.name:     "SELECT COUNT(*) FROM outbox",
	oagudoOptimistic.name: "SELECT COUNT(*) FROM outbox",
	riverJobs.name:        "SELECT COUNT(*) FROM river_job WHERE state NOT IN ('completed', 'discarded', 'cancelled')",
}

// ask runs a query for a number.
func ask(t testing.TB, d database, query string) (n int) {
	t.Helper()
	db, err := sql.Open(d.driver, d.dsn)
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.QueryRow(query).Scan(&n))
	return n
}

// sendPaced sells at a steady pace. An error is the answer of a bare publish that failed after its sale was committed.
func sendPaced(o carrier, topic string, strays int) (third, all <-chan struct{}) {
	begun, sent := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sent)
		ticks := time.NewTicker(pace)
		defer ticks.Stop()
		var calling sync.WaitGroup
		for i := range faulty {
			<-ticks.C
			to := topic
			if strays > 0 && i%(faulty/strays) == 0 {
				to = elsewhere
			}
			calling.Go(func() { _ = o.sell(context.Background(), i, to, payload(i)) })
			if i == faulty/3 {
				close(begun)
			}
		}
		calling.Wait()
	}()
	return begun, sent
}
