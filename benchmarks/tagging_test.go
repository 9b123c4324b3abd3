//go:build services

package benchmarks

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

const (
	topic      = "orders"
	publishers = 64
)

var (
	// endToEnd is how many messages one side of a pair moves.
	endToEnd = sized(30_000)
	backlog  = sized(100_000)
)

// broker is a publisher with its confirms, and a way to know what it has.
type broker struct {
	topic     string
	publisher reliable.Publisher
	confirms  reliable.ConfirmSource
	stored    func() int // messages that it has
	close     func()
}

// instant is a broker that answers at once.
func instant(b *testing.B) broker {
	b.Helper()
	m := membroker.New(membroker.WithDiscard())
	return broker{topic, m, m, func() int { return m.Counts().Stored }, func() { require.NoError(b, m.Close()) }}
}

// declareQuorum makes an empty quorum queue and returns a function that counts its messages.
func declareQuorum(b *testing.B, url string) (count func() int) {
	b.Helper()
	conn, err := amqp.Dial(url)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, conn.Close()) })
	channel, err := conn.Channel()
	require.NoError(b, err)
	arguments := amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum}
	_, err = channel.QueueDeclare(topic, true, false, false, false, arguments)
	require.NoError(b, err)
	_, err = channel.QueuePurge(topic, false)
	require.NoError(b, err)
	return func() int {
		state, err := channel.QueueDeclarePassive(topic, true, false, false, false, arguments)
		require.NoError(b, err)
		return state.Messages
	}
}

func rabbit(b *testing.B, url string) broker {
	b.Helper()
	r, err := rabbitmqbroker.NewFromURL(url, rabbitmqbroker.WithQuorumQueues(), rabbitmqbroker.WithWindow(window),
		rabbitmqbroker.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(b, err)
	require.NoError(b, r.Ping(context.Background()))
	return broker{topic, r, r, declareQuorum(b, url), func() { require.NoError(b, r.Close()) }}
}

// relaying runs an outbox while body works, and stops it.
func relaying(b *testing.B, store reliable.Store, to broker, body func(o *tagging.Outbox), opts ...tagging.Option) {
	b.Helper()
	o, err := tagging.New(store, to.publisher, to.confirms, append([]tagging.Option{tagging.WithoutRetention(), tagging.WithWindow(window)}, opts...)...)
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- o.Run(ctx) }()
	for !o.Running() {
		runtime.Gosched()
	}
	body(o)
	cancel()
	require.NoError(b, <-ran)
}

// countSettled returns hooks that close done once n messages are confirmed: asking the database all the time for how many
// are would be a load that nobody else has.
func countSettled(n int) (hooks tagging.Hooks, done <-chan struct{}) {
	var settled atomic.Int64
	all := make(chan struct{})
	return tagging.Hooks{Settled: func(_ *reliable.Attempt, s *reliable.Settlement, result reliable.SettleResult) {
		if s.To == reliable.Confirmed && result == reliable.Applied && settled.Add(1) == int64(n) {
			close(all)
		}
	}}, all
}

// await waits for done, no longer than a run can reasonably take.
func await(b *testing.B, done <-chan struct{}) {
	b.Helper()
	select {
	case <-done:
	case <-time.After(5 * time.Minute):
		require.Fail(b, "not all messages were confirmed")
	}
}

// nothingLost fails b unless the outbox has n confirmed messages and none else, and the broker has them all.
func nothingLost(b *testing.B, db *sql.DB, to broker, n int) {
	b.Helper()
	var confirmed, others int
	err := db.QueryRow("SELECT COUNT(CASE WHEN status = 1 THEN 1 END), COUNT(CASE WHEN status <> 1 THEN 1 END) FROM waybill_outbox").
		Scan(&confirmed, &others)
	require.NoError(b, err)
	require.Equal(b, []int{n, 0}, []int{confirmed, others}, "messages that are confirmed, and that are not")
	delivered(b, to, n)
}

// delivered fails b unless the broker has n messages, and counts those that it has more than once.
func delivered(b *testing.B, to broker, n int) {
	b.Helper()
	stored := to.stored()
	pairs.Count(b, "lost", max(0, n-stored))
	pairs.Count(b, "duplicated", max(0, stored-n))
	require.GreaterOrEqual(b, stored, n, "messages were lost")
}

// publishAll sends n messages from many goroutines, one a call, and returns the rate at which they were settled.
func publishAll(b *testing.B, d database, db *sql.DB, store reliable.Store, to broker, n int) float64 {
	b.Helper()
	empty(b, d, db)
	payload := make([]byte, payloadBytes)
	rate := publishMore(b, store, to, n, func(int) reliable.Envelope { return reliable.Envelope{Topic: to.topic, Payload: payload} })
	nothingLost(b, db, to, n)
	return rate
}

// publishMore does the same with any messages, beside what is in the outbox. The last of each goroutine is waited for.
func publishMore(b *testing.B, store reliable.Store, to broker, n int, message func(i int) reliable.Envelope) float64 {
	b.Helper()
	var elapsed time.Duration
	hooks, done := countSettled(n)
	relaying(b, store, to, func(o *tagging.Outbox) {
		ctx := context.Background()
		last := make([]*tagging.Receipt, publishers)
		took := make(calls, n)
		used := pairs.StartMeter()
		var wg sync.WaitGroup
		for g := range publishers {
			wg.Go(func() {
				for i := g; i < n; i += publishers {
					start := time.Now()
					receipt, err := o.Publish(ctx, message(i))
					if err != nil {
						b.Error(err)
						return
					}
					last[g], took[i] = receipt, float64(time.Since(start))/float64(time.Millisecond)
				}
			})
		}
		wg.Wait()
		require.False(b, b.Failed())
		await(b, done)
		elapsed = used.Elapsed()
		used.Log(b, "tagging", n)
		used.Report(b, n)
		report(b, took.metrics())
		for _, receipt := range last {
			statuses, err := receipt.Wait(ctx)
			require.NoError(b, err)
			require.Equal(b, []reliable.Status{reliable.Confirmed}, statuses)
		}
	}, tagging.WithHooks(hooks))
	return float64(n) / elapsed.Seconds()
}

func BenchmarkTaggingStore(b *testing.B) {
	for _, d := range []database{mariaDB, postgres, sqlite} {
		b.Run(d.name, func(b *testing.B) {
			db, store := d.open(b)
			pairs.Compare(b, "tagging-store-"+d.name, "tagging end to end with a broker that answers at once", "bare insert and update",
				func(b *testing.B) float64 { return bareStore(b, d, db, endToEnd) },
				func(b *testing.B) float64 {
					to := instant(b)
					defer to.close()
					return publishAll(b, d, db, store, to, endToEnd)
				})
		})
	}
}

func BenchmarkTaggingRabbitMQ(b *testing.B) {
	for _, d := range []database{mariaDB, postgres} {
		b.Run(d.name, func(b *testing.B) {
			db, store := d.open(b)
			url := testenv.RabbitMQ(b)
			declareQuorum(b, url)
			pairs.Compare(b, "tagging-rabbitmq-"+d.name, "tagging end to end", "1/(1/P+1/S)",
				func(b *testing.B) float64 {
					p, s := barePublish(b, url, topic, endToEnd), bareStore(b, d, db, endToEnd)
					b.Logf("P %.0f/s, S %.0f/s", p, s)
					return 1 / (1/p + 1/s)
				},
				func(b *testing.B) float64 {
					to := rabbit(b, url)
					defer to.close()
					return publishAll(b, d, db, store, to, endToEnd)
				})
		})
	}
}

func BenchmarkPublishRabbitMQ(b *testing.B) {
	url := testenv.RabbitMQ(b)
	declareQuorum(b, url)
	pairs.Compare(b, "publish-rabbitmq", "confirmed publish through rabbitmqbroker", "bare client",
		func(b *testing.B) float64 { return barePublish(b, url, topic, endToEnd) },
		func(b *testing.B) float64 {
			to := rabbit(b, url)
			defer to.close()
			return publishRaw(b, to, endToEnd)
		})
}

// publishRaw hands n attempts to a broker and takes their confirms.
func publishRaw(b *testing.B, to broker, n int) float64 {
	b.Helper()
	ctx := context.Background()
	payload := make([]byte, payloadBytes)
	failed := make(chan error, 1)
	start := time.Now()
	go func() {
		batch := make([]reliable.Attempt, 0, 250)
		for i := range n {
			batch = append(batch, reliable.Attempt{Fence: 1, Envelope: reliable.Envelope{
				ID: reliable.ID(fmt.Sprintf("raw-%032d", i)), Topic: to.topic, Payload: payload,
			}})
			if len(batch) == cap(batch) || i == n-1 {
				if _, err := to.publisher.Publish(ctx, batch); err != nil {
					failed <- err
					return
				}
				batch = batch[:0]
			}
		}
		failed <- nil
	}()
	for acked := 0; acked < n; {
		confirms, err := to.confirms.Receive(ctx, window)
		require.NoError(b, err)
		for i := range confirms {
			require.Equal(b, reliable.Acked, confirms[i].Outcome)
		}
		acked += len(confirms)
	}
	elapsed := time.Since(start)
	require.NoError(b, <-failed)
	delivered(b, to, n)
	return float64(n) / elapsed.Seconds()
}

func BenchmarkDrainRabbitMQ(b *testing.B) {
	for _, d := range []database{mariaDB, postgres} {
		b.Run(d.name, func(b *testing.B) {
			db, store := d.open(b)
			url := testenv.RabbitMQ(b)
			declareQuorum(b, url)
			var heap uint64
			pairs.Compare(b, "drain-rabbitmq-"+d.name, fmt.Sprintf("draining a backlog of %d", backlog), "bare client",
				func(b *testing.B) float64 { return barePublish(b, url, topic, endToEnd) },
				func(b *testing.B) float64 {
					empty(b, d, db)
					n := storeBacklog(b, store, backlog)
					drained := drain(b, db, store, url, n)
					heap = max(heap, drained.memory)
					return drained.rate
				})
			b.ReportMetric(float64(heap)/(1<<20), "peak-MiB")
			pairs.Report("memory drain-rabbitmq-%s: %.0f MiB of the process at most", d.name, float64(heap)/(1<<20))
			require.Less(b, heap, uint64(100<<20), "memory of the process while it drains")
		})
	}
}

// storeBacklog stores n messages, and returns how many it stored.
func storeBacklog(b *testing.B, store reliable.Store, n int) int {
	b.Helper()
	envs := make([]reliable.Envelope, min(n, 500))
	payload := make([]byte, payloadBytes)
	for range n / len(envs) {
		for i := range envs {
			envs[i] = reliable.Envelope{ID: reliable.NewID(), Topic: topic, Payload: payload}
		}
		_, err := store.Enqueue(context.Background(), reliable.EnqueueRequest{Worker: "a-host/12345/0123456789ab"}, envs...)
		require.NoError(b, err)
	}
	return n / len(envs) * len(envs)
}

// drained is what came of relaying a backlog: the rate, and the most bytes of memory and of its heap that were in use.
type drained struct {
	rate         float64
	memory, heap uint64
}

// drain relays the n messages that an outbox has to send, beside whatever is settled.
func drain(b *testing.B, db *sql.DB, store reliable.Store, url string, n int) (d drained) {
	b.Helper()
	to := rabbit(b, url)
	defer to.close()
	runtime.GC()
	used := pairs.StartMeter()
	hooks, done := countSettled(n)
	relaying(b, store, to, func(*tagging.Outbox) {
		look := time.NewTicker(50 * time.Millisecond)
		defer look.Stop()
		for draining := true; draining; {
			select {
			case <-done:
				draining = false
			case <-look.C:
			}
			var memory runtime.MemStats
			runtime.ReadMemStats(&memory)
			d.memory, d.heap = max(d.memory, memory.Sys-memory.HeapReleased), max(d.heap, memory.HeapInuse)
		}
	}, tagging.WithHooks(hooks))
	d.rate = float64(n) / used.Elapsed().Seconds()
	used.Log(b, "drain", n)
	used.Report(b, n)
	var pending int
	require.NoError(b, db.QueryRow("SELECT COUNT(*) FROM waybill_outbox WHERE status = 0").Scan(&pending))
	require.Zero(b, pending)
	delivered(b, to, n)
	return d
}
