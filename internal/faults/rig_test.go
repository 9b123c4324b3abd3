//go:build services

package faults

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

func TestMain(m *testing.M) {
	if runAsChild() {
		return
	}
	// Most of these tests wait: for a pause to be over, for a lease to end. More of them at a time than there are
	// processors cost little, and each measures itself against what runs beside it or runs alone.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// queue is the topic that healthy messages go to.
const queue = "orders"

// quiet keeps logs out of the output of tests that pass; a failed test's log is in t.Output.
func quiet(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// rig is one process that places orders: a database with a business table, a broker, and an outbox between them.
type rig struct {
	t      testing.TB
	db     *sql.DB
	kind   string
	store  reliable.Store
	broker connection
	outbox *tagging.Outbox
	seen   *observer
	topic  string // that orders go to

	stop func() error
}

// connection is what a broker adapter opens.
type connection interface {
	reliable.Publisher
	reliable.ConfirmSource
	Close() error
}

// rigConfig is what a test wants other than usual.
type rigConfig struct {
	database  database
	topic     string                      // default: queue
	connect   func(testing.TB) connection // default: to RabbitMQ, by the three fields that follow
	amqpURL   string
	topology  func(amqpURL string) wamqp.Config // default: a topic is the queue of its name
	broker    []rabbitmqbroker.Option
	wrapStore func(reliable.Store) reliable.Store
	outbox    []tagging.Option
}

// newRig migrates, connects and starts relaying; the test's end stops it.
func newRig(t testing.TB, cfg rigConfig) *rig {
	t.Helper()
	if cfg.topic == "" {
		cfg.topic = queue
	}
	r := &rig{t: t, kind: cfg.database.kind(), seen: newObserver(), topic: cfg.topic}
	var err error
	r.db, r.store, err = cfg.database.open(context.Background())
	require.NoError(t, err)
	if cfg.wrapStore != nil {
		r.store = cfg.wrapStore(r.store)
	}
	if cfg.connect == nil {
		cfg.connect = cfg.connectRabbitMQ
	}
	r.broker = cfg.connect(t)
	outboxOptions := append([]tagging.Option{
		tagging.WithLogger(quiet(t)), tagging.WithLease(10 * time.Second), tagging.WithHooks(r.seen.hooks()),
		tagging.WithUnknownBackoff(100*time.Millisecond, time.Second), tagging.WithoutRetention(),
	}, cfg.outbox...)
	r.outbox, err = tagging.New(r.store, r.broker, r.broker, outboxOptions...)
	require.NoError(t, err)
	r.run()
	return r
}

func (cfg *rigConfig) connectRabbitMQ(t testing.TB) connection {
	t.Helper()
	options := append([]rabbitmqbroker.Option{
		rabbitmqbroker.WithQuorumQueues(), rabbitmqbroker.WithLogger(quiet(t)),
		rabbitmqbroker.WithConfirmTimeout(3 * time.Second), rabbitmqbroker.WithBlockedTimeout(4 * time.Second),
		rabbitmqbroker.WithReconnectBackoff(50*time.Millisecond, time.Second),
	}, cfg.broker...)
	topology := cfg.topology
	if topology == nil {
		topology = wamqp.NewDurableQueueConfig
	}
	broker, err := rabbitmqbroker.New(topology(cfg.amqpURL), options...)
	require.NoError(t, err)
	return broker
}

// run starts the relay. stop ends it, and is called at the end of the test if nobody did.
func (r *rig) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.outbox.Run(ctx) }()
	var once sync.Once
	var result error
	r.stop = func() error {
		once.Do(func() {
			cancel()
			result = <-done
			assert.NoError(r.t, r.broker.Close())
			assert.NoError(r.t, r.db.Close())
		})
		return result
	}
	r.t.Cleanup(func() { _ = r.stop() })
}

// createOrders makes the business table.
func (r *rig) createOrders() {
	r.t.Helper()
	_, err := r.db.Exec("CREATE TABLE orders (id VARCHAR(64) PRIMARY KEY)")
	require.NoError(r.t, err)
}

// place writes one order and its message in one transaction.
func (r *rig) place(ctx context.Context, id string, change ...func(*reliable.Envelope)) error {
	env := reliable.Envelope{ID: reliable.ID(id), Topic: r.topic, Payload: []byte(id)}
	for _, edit := range change {
		edit(&env)
	}
	return tagging.InTx(ctx, r.outbox, r.db, func(tx *sql.Tx, out *tagging.Scope) error {
		if err := insertOrder(ctx, tx, r.kind, id); err != nil {
			return err
		}
		return out.Send(env)
	})
}

func insertOrder(ctx context.Context, tx *sql.Tx, kind, id string) error {
	statement := "INSERT INTO orders (id) VALUES (?)"
	if kind == "postgres" {
		statement = "INSERT INTO orders (id) VALUES ($1)"
	}
	_, err := tx.ExecContext(ctx, statement, id)
	return err
}

const (
	// patience is how long to wait for what must come, on a machine that has much else to do.
	patience = 2 * time.Minute
	// callTime is how long a caller gives a call to a database that is broken; with margin it must be over.
	callTime = 2 * time.Second
	// placeTime is how long a caller gives an order: a sound database, of a busy machine, must have taken it by then. Less than
	// an outage, so that it shows if callers wait for a broker.
	placeTime = 15 * time.Second
	// unhurried is a confirm timeout that a sound broker keeps to on a busy machine, where a test counts copies.
	unhurried = 7 * time.Second
	// margin is how much later than its context a call may return, on a busy machine. Less than an outage, too.
	margin = 8 * time.Second
)

// load places orders from several goroutines until stopped, each at a steady pace, and returns how many were placed. No
// caller may be held past its context, and an order may fail only while mayFail says so.
func (r *rig) load(goroutines int, every time.Duration, mayFail func() bool) (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	var placed atomic.Int64
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			pace := time.NewTicker(every)
			defer pace.Stop()
			for i := 0; ; i++ {
				select {
				case <-ctx.Done():
					return
				case <-pace.C:
				}
				callCtx, done := context.WithTimeout(context.Background(), placeTime)
				began, lenient := time.Now(), mayFail()
				err := r.place(callCtx, fmt.Sprintf("g%d-%d", g, i))
				done()
				if !assert.Less(r.t, time.Since(began), placeTime+margin, "a caller was held past its context") {
					return
				}
				if err == nil {
					placed.Add(1)
				} else if !lenient && !mayFail() && !assert.NoError(r.t, err) {
					return
				}
			}
		})
	}
	return func() int {
		cancel()
		wg.Wait()
		return int(placed.Load())
	}
}

// awaitPlace waits until an order can be placed. Each is another one: what became of one that failed may not be known.
func (r *rig) awaitPlace() {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), placeTime)
		defer cancel()
		return r.place(ctx, fmt.Sprint("healed-", time.Now().UnixNano())) == nil
	}, patience, 100*time.Millisecond, "it must work again by itself")
}

// never is for load where the database is sound.
func never() bool { return false }

// orders returns the IDs that were committed.
func (r *rig) orders() map[string]bool {
	r.t.Helper()
	return r.column("SELECT id FROM orders")
}

// withStatus returns the IDs of the outbox rows of a status.
func (r *rig) withStatus(status reliable.Status) map[string]bool {
	r.t.Helper()
	return r.column(fmt.Sprintf("SELECT id FROM waybill_outbox WHERE status = %d", status))
}

func (r *rig) column(query string) map[string]bool {
	r.t.Helper()
	rows, err := r.db.Query(query)
	require.NoError(r.t, err)
	defer func() { require.NoError(r.t, rows.Close()) }()
	values := make(map[string]bool)
	for rows.Next() {
		var value []byte
		require.NoError(r.t, rows.Scan(&value))
		values[string(value)] = true
	}
	require.NoError(r.t, rows.Err())
	return values
}

// pending returns how many rows are not settled.
func (r *rig) pending() int { return len(r.withStatus(reliable.Pending)) }

// eventuallySettled waits until nothing is pending.
func (r *rig) eventuallySettled() {
	r.t.Helper()
	r.eventuallySettledBut(0)
}

// eventuallySettledBut is eventuallySettled but for a few rows that are left.
func (r *rig) eventuallySettledBut(left int) {
	r.t.Helper()
	require.Eventually(r.t, func() bool { return r.pending() <= left }, patience, 100*time.Millisecond,
		"what is pending must go to %d by itself", left)
}

// lookup returns what is stored of messages.
func (r *rig) lookup(ids map[string]bool) (records []reliable.Record) {
	r.t.Helper()
	inspector, ok := reliable.Ability[reliable.Inspector](r.store)
	require.True(r.t, ok)
	for chunk := range slices.Chunk(slices.Collect(maps.Keys(ids)), 1000) {
		asked := make([]reliable.ID, len(chunk))
		for i, id := range chunk {
			asked[i] = reliable.ID(id)
		}
		found, err := inspector.Lookup(context.Background(), asked...)
		require.NoError(r.t, err)
		records = append(records, found...)
	}
	return records
}

// observer counts what the engine says, as a second opinion beside the tables.
type observer struct {
	mu       sync.Mutex
	outcomes map[reliable.Outcome]int
	handed   map[string]int // by topic
}

func newObserver() *observer {
	return &observer{outcomes: make(map[reliable.Outcome]int), handed: make(map[string]int)}
}

func (o *observer) hooks() tagging.Hooks {
	return tagging.Hooks{
		Handed: func(attempts []reliable.Attempt) {
			o.mu.Lock()
			defer o.mu.Unlock()
			for i := range attempts {
				o.handed[attempts[i].Topic]++
			}
		},
		Answered: func(_ *reliable.Attempt, c *reliable.Confirm, _ time.Duration) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.outcomes[c.Outcome]++
		},
	}
}

func (o *observer) outcome(outcome reliable.Outcome) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.outcomes[outcome]
}

// attempts returns how many attempts were handed over to a topic.
func (o *observer) attempts(topic string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.handed[topic]
}

// consume reads a queue with a bare client until idle for a while, and returns how often each message id came.
func consume(t testing.TB, url, queue string) map[string]int {
	t.Helper()
	conn, err := amqp.Dial(url)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	channel, err := conn.Channel()
	require.NoError(t, err)
	receipts := make(map[string]int)
	for {
		message, ok, err := channel.Get(queue, true)
		require.NoError(t, err)
		if !ok {
			return receipts
		}
		receipts[message.MessageId]++
	}
}

// audit compares what was committed with what is recorded and what arrived.
func (r *rig) audit(receipts map[string]int) {
	r.t.Helper()
	orders, confirmed := r.orders(), r.withStatus(reliable.Confirmed)
	duplicates := 0
	for id, n := range receipts {
		if !assert.True(r.t, orders[id], "a message of an order that was never committed: %s", id) {
			return
		}
		duplicates += n - 1
	}
	lost, untrue := 0, 0
	for id := range orders {
		if receipts[id] == 0 {
			lost++
		}
		if confirmed[id] && receipts[id] == 0 {
			untrue++
		}
	}
	assert.Zero(r.t, lost, "committed orders whose message did not arrive")
	assert.Zero(r.t, untrue, "messages with status 1 that the broker does not have")
	assert.Len(r.t, confirmed, len(orders), "orders with status 1")
	assert.LessOrEqual(r.t, duplicates, r.seen.outcome(reliable.Unknown), "copies beyond the unknown outcomes")
	r.t.Logf("%s: orders=%d delivered=%d duplicates=%d unknown=%d", r.kind, len(orders), len(receipts), duplicates, r.seen.outcome(reliable.Unknown))
}
