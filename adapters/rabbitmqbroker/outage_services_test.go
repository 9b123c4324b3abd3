//go:build services

package rabbitmqbroker_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
)

// load publishes in the background until stop; its outcomes are complete after that.
type load struct {
	t        *testing.T
	b        *rabbitmqbroker.Broker
	handed   []reliable.Attempt
	longest  time.Duration // that a call of Publish took
	confirms map[reliable.ID]reliable.Confirm
	acked    atomic.Int64
	unknown  atomic.Int64
	stopping chan struct{}
	stopped  chan struct{}
	received chan struct{}
}

const (
	// callTimeout is what each call of Publish has.
	callTimeout = 300 * time.Millisecond
	// slack is how much later than it should a busy machine may be.
	slack = 20 * time.Second
)

func startLoad(t *testing.T, b *rabbitmqbroker.Broker) *load {
	t.Helper()
	l := &load{
		t: t, b: b, confirms: make(map[reliable.ID]reliable.Confirm),
		stopping: make(chan struct{}), stopped: make(chan struct{}), received: make(chan struct{}),
	}
	go l.publish()
	go l.receive()
	return l
}

func (l *load) publish() {
	defer close(l.stopped)
	for {
		select {
		case <-l.stopping:
			return
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		batch := attempts("orders", 50)
		began := time.Now()
		n, err := l.b.Publish(ctx, batch)
		l.longest = max(l.longest, time.Since(began))
		cancel()
		l.handed = append(l.handed, batch[:n]...)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			l.t.Errorf("publish: %v", err)
			return
		}
	}
}

func (l *load) receive() {
	defer close(l.received)
	for {
		confirms, err := l.b.Receive(context.Background(), 1000)
		if err != nil {
			return
		}
		for _, c := range confirms {
			if before, twice := l.confirms[c.ID]; twice {
				l.t.Errorf("a second confirm for %q: %v after %v", c.ID, c.Outcome, before.Outcome)
			}
			l.confirms[c.ID] = c
			switch c.Outcome {
			case reliable.Acked:
				l.acked.Add(1)
			case reliable.Unknown:
				l.unknown.Add(1)
			default:
				l.t.Errorf("%q is %v: %v", c.ID, c.Outcome, c.Err)
			}
		}
	}
}

// awaitAcks waits until n more are acked.
func (l *load) awaitAcks(n int64) {
	l.t.Helper()
	want := l.acked.Load() + n
	require.Eventually(l.t, func() bool { return l.acked.Load() >= want }, patience, time.Millisecond)
}

// stop stops publishing, closes the broker, and checks that each attempt has had its confirm.
func (l *load) stop() {
	l.t.Helper()
	close(l.stopping)
	<-l.stopped
	require.NoError(l.t, l.b.Close())
	<-l.received
	require.Len(l.t, l.confirms, len(l.handed))
	for i := range l.handed {
		_, confirmed := l.confirms[l.handed[i].ID]
		require.True(l.t, confirmed, "no confirm for %q", l.handed[i].ID)
	}
	require.Less(l.t, l.longest, callTimeout+slack, "a call of Publish was held past its context")
}

// end stops, and checks that all that were acked are in the queue.
func (l *load) end(url string) {
	l.t.Helper()
	l.stop()
	there := consumeAll(l.t, url, "orders")
	for id, c := range l.confirms {
		if c.Outcome == reliable.Acked {
			require.Positive(l.t, there[id], "%q was acked and is lost", id)
		}
	}
	duplicates := 0
	for _, n := range there {
		duplicates += n - 1
	}
	require.Zero(l.t, duplicates, "the adapter has sent something again")
	l.t.Logf("%d handed over, %d acked, %d unknown, longest call %v",
		len(l.handed), l.acked.Load(), l.unknown.Load(), l.longest)
}

// consumeAll takes everything off a queue, and counts by message id.
func consumeAll(t *testing.T, url, queue string) map[reliable.ID]int {
	t.Helper()
	ch := admin(t, url)
	there := make(map[reliable.ID]int)
	total := depth(t, ch, queue)
	deliveries, err := ch.Consume(queue, "", true, false, false, false, nil)
	require.NoError(t, err)
	for range total {
		select {
		case d := <-deliveries:
			there[reliable.ID(d.MessageId)]++
		case <-time.After(patience):
			require.Fail(t, "the queue holds less than it says")
		}
	}
	return there
}

// eventuallyAcked publishes until a message is acked: a busy broker may miss a confirm timeout that was made short for a fault.
func eventuallyAcked(t *testing.T, b *rabbitmqbroker.Broker) {
	t.Helper()
	require.Eventually(t, func() bool {
		return only(publish(t, b, attempts("orders", 1)...)).Outcome == reliable.Acked
	}, patience, 10*time.Millisecond)
}

// steadyGoroutines is for faults that repeat: it requires that they leave no goroutines behind.
func steadyGoroutines(t *testing.T, before int) {
	t.Helper()
	const others = 6 // a dial in progress, a connection that is closing
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+others }, patience, 50*time.Millisecond,
		"goroutines grew from %d to %d", before, runtime.NumGoroutine())
}

func TestOutage_aKilledBrokerLosesNothingThatWasAcked(t *testing.T) {
	server := testservers.StartRabbitMQ(t)
	b := open(t, server.URL(),
		rabbitmqbroker.WithConfirmTimeout(patience), rabbitmqbroker.WithBlockedTimeout(patience))
	declareQueue(t, admin(t, server.URL()), "orders", nil)
	server.KeepQueues()
	l := startLoad(t, b)
	l.awaitAcks(500)
	goroutines := runtime.NumGoroutine()
	for range 2 {
		server.Kill()
		require.Eventually(t, func() bool { return !b.Stats().Connected }, patience, time.Millisecond)
		server.Start()
		l.awaitAcks(500)
	}
	steadyGoroutines(t, goroutines)
	require.GreaterOrEqual(t, b.Stats().Sessions, uint64(3))
	l.end(server.URL())
	for _, c := range l.confirms {
		if c.Outcome == reliable.Unknown {
			require.ErrorIs(t, c.Err, reliable.ErrConnectionLost)
		}
	}
}

func TestOutage_aPausedBrokerIsAbandonedAfterTheConfirmTimeout(t *testing.T) {
	const timeout = 2 * time.Second
	server := testservers.StartRabbitMQ(t)
	b := open(t, server.URL(), rabbitmqbroker.WithConfirmTimeout(timeout), rabbitmqbroker.WithBlockedTimeout(timeout))
	l := startLoad(t, b)
	l.awaitAcks(500)
	goroutines := runtime.NumGoroutine()
	server.Pause()
	began := time.Now()
	require.Eventually(t, func() bool { return l.unknown.Load() > 0 }, patience, time.Millisecond)
	require.Less(t, time.Since(began), b.MaxConfirmWait()+slack)
	require.Eventually(t, func() bool { return !b.Stats().Connected }, patience, time.Millisecond)
	steadyGoroutines(t, goroutines)
	server.Resume()
	l.awaitAcks(500)
	l.end(server.URL())
	for _, c := range l.confirms {
		if c.Outcome == reliable.Unknown {
			require.NotErrorIs(t, c.Err, reliable.ErrConnectionLost, "nobody is to blame for a pause")
		}
	}
}

func TestOutage_aMemoryAlarmHoldsNobodyPastTheContext(t *testing.T) {
	server := testservers.StartRabbitMQ(t)
	var blocked, unblocked atomic.Int64
	hooks := rabbitmqbroker.Hooks{Blocking: func(on bool, reason string) {
		if on && reason != "" {
			blocked.Add(1)
		} else if !on {
			unblocked.Add(1)
		}
	}}
	b := open(t, server.URL(), rabbitmqbroker.WithHooks(hooks),
		rabbitmqbroker.WithConfirmTimeout(patience), rabbitmqbroker.WithBlockedTimeout(patience))
	l := startLoad(t, b)
	l.awaitAcks(500)
	server.SetMemoryAlarm(true)
	require.Eventually(t, func() bool { return blocked.Load() == 1 }, patience, time.Millisecond)
	require.True(t, b.Stats().Blocked)

	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	n, err := b.Publish(ctx, attempts("orders", 1))
	require.Zero(t, n)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	server.SetMemoryAlarm(false)
	l.awaitAcks(500)
	require.EqualValues(t, 1, unblocked.Load())
	l.end(server.URL())
	require.Zero(t, l.unknown.Load(), "an alarm that is shorter than the blocked timeout costs nothing")
}

func TestOutage_anAlarmLongerThanTheBlockedTimeoutEndsUnknown(t *testing.T) {
	const timeout = 2 * time.Second
	server := testservers.StartRabbitMQ(t)
	b := open(t, server.URL(), rabbitmqbroker.WithConfirmTimeout(timeout), rabbitmqbroker.WithBlockedTimeout(timeout))
	eventuallyAcked(t, b)
	server.SetMemoryAlarm(true)
	batch := attempts("orders", 10)
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	n, _ := b.Publish(ctx, batch) // the broker tells of the alarm before that, or after
	began := time.Now()
	require.Equal(t, n, count(receive(t, b, batch[:n]), reliable.Unknown))
	require.Less(t, time.Since(began), b.MaxConfirmWait()+slack)
	server.SetMemoryAlarm(false)
	eventuallyAcked(t, b)
}

func TestOutage_aConnectionCutBetweenTheMessageAndItsConfirmIsUnknown(t *testing.T) {
	address := testenv.RabbitMQ(t)
	proxy := faultproxy.New(t, hostOf(t, address))
	b := open(t, via(t, address, proxy.Addr()))
	require.Equal(t, 1, count(publish(t, b, attempts("orders", 1)...), reliable.Acked)) // the queue is declared
	one := attempts("orders", 1)[0]
	proxy.OnClientBytes(func(chunk []byte) faultproxy.Action {
		if bytes.Contains(chunk, []byte(one.ID)) {
			return faultproxy.LoseAnswer
		}
		return faultproxy.Forward
	})
	c := only(publish(t, b, one))
	requireOutcome(t, reliable.Unknown, c)
	require.ErrorIs(t, c.Err, reliable.ErrConnectionLost)
	proxy.OnClientBytes(nil)
	requireOutcome(t, reliable.Acked, only(publish(t, b, one)))
	require.Equal(t, 2, consumeAll(t, address, "orders")[one.ID], "unknown, and sent again: that is the duplicate which is allowed")
}

func TestOutage_aStalledNetworkHoldsNobodyPastTheContext(t *testing.T) {
	const timeout = time.Second
	address := testenv.RabbitMQ(t)
	proxy := faultproxy.New(t, hostOf(t, address))
	b := open(t, via(t, address, proxy.Addr()),
		rabbitmqbroker.WithConfirmTimeout(timeout), rabbitmqbroker.WithBlockedTimeout(timeout))
	eventuallyAcked(t, b)
	goroutines := runtime.NumGoroutine()
	proxy.Stall(faultproxy.Both, true)
	large := attempts("orders", 400) // far more than sockets and buffers take
	for i := range large {
		large[i].Payload = make([]byte, 100<<10)
	}
	began := time.Now()
	n, err := b.Publish(t.Context(), large)
	require.NoError(t, err, "there is room in the window, and writing is not the caller's business")
	require.Less(t, time.Since(began), slack)
	require.Equal(t, n, count(receive(t, b, large[:n]), reliable.Unknown))
	require.Less(t, time.Since(began), b.MaxConfirmWait()+slack)

	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	n, err = b.Publish(ctx, large)
	require.Zero(t, n)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	steadyGoroutines(t, goroutines)
	proxy.Stall(faultproxy.Both, false)
	eventuallyAcked(t, b)
}

func TestOutage_closeDoesNotWaitForABrokerThatIsPaused(t *testing.T) {
	server := testservers.StartRabbitMQ(t)
	b := open(t, server.URL(), rabbitmqbroker.WithCloseTimeout(100*time.Millisecond))
	require.Equal(t, 1, count(publish(t, b, attempts("orders", 1)...), reliable.Acked))
	server.Pause()
	batch := attempts("orders", 10)
	n, err := b.Publish(t.Context(), batch)
	require.NoError(t, err)
	require.Equal(t, 10, n)
	began := time.Now()
	require.NoError(t, b.Close())
	require.Less(t, time.Since(began), slack)
	for _, c := range receive(t, b, batch) {
		requireOutcome(t, reliable.Unknown, c)
		require.ErrorIs(t, c.Err, reliable.ErrClosed)
	}
	server.Resume()
}

func TestOutage_theBrokerMayComeLater(t *testing.T) {
	server := testservers.StartRabbitMQ(t)
	server.Stop()
	b := open(t, server.URL())
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	_, err := b.Publish(ctx, attempts("orders", 1))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Error(t, b.Ping(t.Context()))
	server.Start()
	require.Equal(t, 1, count(publish(t, b, attempts("orders", 1)...), reliable.Acked))
	require.NoError(t, b.Ping(t.Context()))
}
