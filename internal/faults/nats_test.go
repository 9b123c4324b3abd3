//go:build services

package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// natsVariable tells a child process to be a NATS server: this test binary, run again.
const natsVariable = "WAYBILL_FAULTS_NATS"

// natsJob is what such a child is told.
type natsJob struct {
	Dir  string
	Port int // 0: a free one
}

// serveNATS runs the server in the environment and does not return.
func serveNATS() {
	var j natsJob
	err := json.Unmarshal([]byte(os.Getenv(natsVariable)), &j)
	if err == nil {
		var server *embedded.Server
		if server, err = embedded.StartServer(context.Background(), j.Dir, embedded.WithListener(j.Port)); err == nil {
			fmt.Println(server.URL())
			_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed, or the test's process is gone
			os.Exit(0)
		}
	}
	fmt.Fprintln(os.Stderr, "serve NATS:", err)
	os.Exit(3)
}

// natsServer is a NATS server with JetStream in a process of its own, on a port and a folder that it keeps.
type natsServer struct {
	t   testing.TB
	job natsJob
	cmd *exec.Cmd
	url string
}

func startNATS(t testing.TB) *natsServer {
	t.Helper()
	s := &natsServer{t: t, job: natsJob{Dir: t.TempDir()}}
	s.start()
	t.Cleanup(s.kill)
	return s
}

// start returns once the server answers.
func (s *natsServer) start() {
	s.t.Helper()
	text, err := json.Marshal(s.job)
	require.NoError(s.t, err)
	self, err := os.Executable()
	require.NoError(s.t, err)
	s.cmd = exec.Command(self)
	s.cmd.Env = append(os.Environ(), natsVariable+"="+string(text))
	s.cmd.Stderr = s.t.Output()
	_, err = s.cmd.StdinPipe()
	require.NoError(s.t, err)
	out, err := s.cmd.StdoutPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, s.cmd.Start())
	lines := bufio.NewScanner(out)
	require.True(s.t, lines.Scan(), "the server did not start")
	s.url = lines.Text()
	address, err := url.Parse(s.url)
	require.NoError(s.t, err)
	s.job.Port, err = strconv.Atoi(address.Port())
	require.NoError(s.t, err)
}

func (s *natsServer) kill() {
	_ = s.cmd.Process.Kill() // the test may have killed it before
	_ = s.cmd.Wait()         // says that it was killed
}

func (s *natsServer) signal(signal syscall.Signal) {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Process.Signal(signal))
}

// addr is the host and port.
func (s *natsServer) addr() string {
	s.t.Helper()
	address, err := url.Parse(s.url)
	require.NoError(s.t, err)
	return address.Host
}

// stream makes a stream for what it is given.
func (s *natsServer) stream(config jetstream.StreamConfig) {
	s.t.Helper()
	broker := toNATS(s.url)(s.t).(*natsbroker.Broker)
	defer func() { assert.NoError(s.t, broker.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(s.t, broker.EnsureStream(ctx, config))
}

// stored reads a stream from its beginning to its end with a bare client, and returns the message ids in its order.
func (s *natsServer) stored(stream string) (ids []string) {
	s.t.Helper()
	nc, err := nats.Connect(s.url)
	require.NoError(s.t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(s.t, err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	source, err := js.Stream(ctx, stream)
	require.NoError(s.t, err)
	left := int(source.CachedInfo().State.Msgs)
	consumer, err := source.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	require.NoError(s.t, err)
	messages, err := consumer.Messages()
	require.NoError(s.t, err)
	defer messages.Stop()
	for ; left > 0; left-- {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		require.NoError(s.t, err, "%d messages are still to come", left)
		ids = append(ids, natsbroker.Unmarshal(msg.Headers(), nil).UUID)
	}
	return ids
}

// toNATS makes connections to a server.
func toNATS(serverURL string, options ...natsbroker.Option) func(testing.TB) connection {
	return func(t testing.TB) connection {
		t.Helper()
		broker, err := natsbroker.New(natsbroker.Config{URL: serverURL}, append([]natsbroker.Option{
			natsbroker.WithLogger(quiet(t)), natsbroker.WithConfirmTimeout(2 * time.Second),
		}, options...)...)
		require.NoError(t, err)
		return broker
	}
}

// natsFault breaks a NATS server under load, and heals it before it returns.
type natsFault struct {
	name     string
	database func(testing.TB) database
	breakIt  func(server *natsServer, proxy *faultproxy.Proxy)
}

func natsKilled(server *natsServer, _ *faultproxy.Proxy) {
	server.signal(syscall.SIGSTOP) // it answers so soon that otherwise nothing might be in flight
	time.Sleep(500 * time.Millisecond)
	server.kill()
	time.Sleep(3 * time.Second) // however fast it would start
	server.start()
}

var natsFaults = []natsFault{
	{"killed, on MariaDB", mariaDB, natsKilled},
	{"killed, on PostgreSQL", postgres, natsKilled},
	{"paused", postgres, func(server *natsServer, _ *faultproxy.Proxy) {
		server.signal(syscall.SIGSTOP)
		time.Sleep(outage)
		server.signal(syscall.SIGCONT)
	}},
	{"cut before the answer", mariaDB, func(_ *natsServer, proxy *faultproxy.Proxy) {
		for range 5 {
			proxy.DropDownstream(true)
			time.Sleep(200 * time.Millisecond)
			proxy.CutAll()
			proxy.DropDownstream(false)
			time.Sleep(200 * time.Millisecond)
		}
	}},
	{"silent for long", postgres, func(_ *natsServer, proxy *faultproxy.Proxy) {
		proxy.DropDownstream(true)
		time.Sleep(5 * time.Second)
		proxy.CutAll()
		proxy.DropDownstream(false)
	}},
}

func TestNATSFault_losesNothingFailsNothingAndHealsByItself(t *testing.T) {
	t.Parallel()
	for _, fault := range natsFaults {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			server := startNATS(t)
			server.stream(jetstream.StreamConfig{Name: queue, Subjects: []string{queue}})
			proxy := faultproxy.New(t, server.addr())
			r := newRig(t, rigConfig{database: fault.database(t), connect: toNATS("nats://" + proxy.Addr())})
			r.survives(func() { fault.breakIt(server, proxy) })
			assert.NotZero(t, r.seen.outcome(reliable.Unknown), "the fault must have met messages in flight")
			r.audit(receiptsOf(server.stored(queue)))
		})
	}
}

func TestNATSRefusal_aMissingStreamHoldsUpNoOtherAndEndsOnceItIsThere(t *testing.T) {
	t.Parallel()
	server := startNATS(t)
	server.stream(jetstream.StreamConfig{Name: queue, Subjects: []string{queue}})
	r := newRig(t, rigConfig{database: mariaDB(t), connect: toNATS(server.url, natsbroker.WithConfirmTimeout(unhurried)), outbox: leisurely})
	refused := publishAll(t, r, refusedTopic, "refused", 1000)
	healthy := publishAll(t, r, queue, "healthy", 1000)
	require.Eventually(t, func() bool { return r.hasAll(reliable.Confirmed, healthy) }, patience, 50*time.Millisecond)
	require.Eventually(t, func() bool { return r.seen.outcome(reliable.Returned) > 4 }, patience, 50*time.Millisecond)
	assert.Zero(t, r.count(reliable.Confirmed, refused))

	server.stream(jetstream.StreamConfig{Name: "late", Subjects: []string{refusedTopic}})
	r.eventuallySettled()
	assert.True(t, r.hasAll(reliable.Confirmed, refused))
	assert.Zero(t, r.seen.outcome(reliable.Unknown), "nothing was out of reach")
	assert.Len(t, server.stored("late"), len(refused), "each arrives once")
	assert.Len(t, server.stored(queue), len(healthy), "the healthy ones arrive once each")
}

func TestNATSRefusal_ofAMissingStreamFailsItsMessagesOnlyAfterTheBudget(t *testing.T) {
	t.Parallel()
	server := startNATS(t)
	r := newRig(t, rigConfig{database: postgres(t), connect: toNATS(server.url), outbox: brief})
	stored := time.Now()
	refused := publishAll(t, r, refusedTopic, "refused", 500)
	var first time.Time
	require.Eventually(t, func() bool {
		looked, failed := time.Now(), r.count(reliable.Failed, refused)
		if failed > 0 && first.IsZero() {
			first = looked
		}
		return failed == len(refused)
	}, patience, 20*time.Millisecond)
	assert.GreaterOrEqual(t, first.Sub(stored), budget, "nothing may fail before the budget is used up")
}

func TestNATSPoison_aMessageThatIsTooLargeForItsStreamIsFoundAndItsNeighboursArrive(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			const limit = 64 << 10 // of the stream; the server, and so the adapter, believes in more
			server := startNATS(t)
			server.stream(jetstream.StreamConfig{Name: queue, Subjects: []string{queue}, MaxMsgSize: limit})
			r := newRig(t, rigConfig{database: makeDatabase(t), connect: toNATS(server.url, natsbroker.WithConfirmTimeout(unhurried)), outbox: leisurely})
			envs := make([]reliable.Envelope, 400)
			for i := range envs {
				envs[i] = reliable.Envelope{ID: reliable.ID(fmt.Sprintf("m-%d", i)), Topic: queue, Payload: []byte("x")}
			}
			envs[200].Payload = make([]byte, limit)
			_, err := r.store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envs...)
			require.NoError(t, err)
			r.eventuallySettled()
			assert.Equal(t, map[string]bool{"m-200": true}, r.withStatus(reliable.Failed))
			assert.Contains(t, r.lastReason("m-200"), "maximum")
			assert.Len(t, server.stored(queue), 399, "its neighbours arrive once each")
		})
	}
}

func TestNATSOrder_ofEachKeyHoldsThroughARestartOfTheBroker(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			const keys, perKey = 8, 60
			server := startNATS(t)
			server.stream(jetstream.StreamConfig{Name: queue, Subjects: []string{queue}})
			rigs := fleet(t, 2, rigConfig{
				database: makeDatabase(t), connect: toNATS(server.url),
				outbox: append([]tagging.Option{tagging.WithPollInterval(50 * time.Millisecond)}, endless...),
			})
			watcher := rigs[0]
			watcher.createOrders()
			var senders sync.WaitGroup
			for key := range keys {
				sender := rigs[key%len(rigs)]
				senders.Go(func() {
					for n := range perKey {
						env := keyed(key, n)
						env.Topic = queue
						assert.NoError(t, sender.place(context.Background(), string(env.ID), func(e *reliable.Envelope) { *e = env }))
						time.Sleep(30 * time.Millisecond)
					}
				})
			}
			acked := func() int { return rigs[0].seen.outcome(reliable.Acked) + rigs[1].seen.outcome(reliable.Acked) }
			require.Eventually(t, func() bool { return acked() > 2*keys }, patience, time.Millisecond)
			natsKilled(server, nil)
			senders.Wait()
			watcher.eventuallySettled()
			ids := server.stored(queue)
			assertOrder(t, ids, keys, perKey)
			t.Logf("%d messages, %d deliveries", keys*perKey, len(ids))
		})
	}
}
