//go:build services

package rabbitmqbroker_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

// These tests are of a broker that keeps its connections and answers no more, as one does to whoever wants to consume a
// quorum queue that has no leader.

// setUp is longer than a busy machine takes to begin a subscription.
const setUp = 5 * time.Second

// The methods of AMQP 0-9-1 that tests recognise, as they are on the wire.
var (
	queueDeclare = []byte{0, 50, 0, 10}
	basicConsume = []byte{0, 60, 0, 20}
)

// silentOnce has the broker say nothing more once a client has sent method, until a client connects.
func silentOnce(proxy *faultproxy.Proxy, method []byte) {
	var met atomic.Bool
	proxy.OnClientBytes(func(chunk []byte) faultproxy.Action {
		switch {
		case bytes.HasPrefix(chunk, []byte("AMQP")):
			proxy.Stall(faultproxy.Downstream, false)
		case bytes.Contains(chunk, method) && met.CompareAndSwap(false, true):
			proxy.Stall(faultproxy.Downstream, true)
		}
		return faultproxy.Forward
	})
}

func TestSubscriber_givesUpOnASilentBrokerAndLetsOthersBe(t *testing.T) {
	address := testenv.RabbitMQ(t)
	proxy := faultproxy.New(t, hostOf(t, address))
	sub := subscriberOf(t, open(t, via(t, address, proxy.Addr())), rabbitmqbroker.WithSetUpTimeout(setUp))
	messages := subscribe(t, sub, "orders")
	publisher := open(t, address)
	publish(t, publisher, attempts("orders", 1)...)
	held := await(t, messages)

	proxy.Stall(faultproxy.Downstream, true)
	_, err := sub.Subscribe(t.Context(), "payments")
	require.ErrorContains(t, err, "set-up timeout")
	proxy.Stall(faultproxy.Downstream, false)
	subscribe(t, sub, "payments") // on another connection
	assert.Equal(t, 2, proxy.Connections())

	held.Ack() // which reaches the broker: the connection is the same
	second := attempts("orders", 1)
	publish(t, publisher, second...)
	msg := await(t, messages)
	assert.Equal(t, string(second[0].ID), msg.UUID, "the first one came again")
	msg.Ack()
}

func TestSubscriber_abandonsASilentConnectionThatServesNobody(t *testing.T) {
	address := testenv.RabbitMQ(t)
	proxy := faultproxy.New(t, hostOf(t, address))
	sub := subscriberOf(t, open(t, via(t, address, proxy.Addr())), rabbitmqbroker.WithSetUpTimeout(setUp))
	require.NoError(t, sub.SubscribeInitialize("orders"))
	proxy.Stall(faultproxy.Downstream, true)
	require.ErrorContains(t, sub.SubscribeInitialize("payments"), "set-up timeout")
	require.Eventually(t, func() bool { return proxy.Connections() == 0 }, patience, 10*time.Millisecond)
	proxy.Stall(faultproxy.Downstream, false)
	require.NoError(t, sub.SubscribeInitialize("payments"))
}

func TestSubscriber_consumesOverANewConnectionWhenTheBrokerWasSilent(t *testing.T) {
	address := testenv.RabbitMQ(t)
	proxy := faultproxy.New(t, hostOf(t, address))
	patient := via(t, address, proxy.Addr()) + "?heartbeat=600" // no heartbeat ends the silence
	sub := subscriberOf(t, open(t, patient), rabbitmqbroker.WithSetUpTimeout(setUp))
	messages := subscribe(t, sub, "orders")
	silentOnce(proxy, basicConsume)
	proxy.CutAll()
	publish(t, open(t, address), attempts("orders", 1)...)
	began := time.Now()
	await(t, messages).Ack()
	assert.GreaterOrEqual(t, time.Since(began), setUp/2, "the broker was not silent")
}

func TestPublisher_doesNotWaitForADeclarationForEver(t *testing.T) {
	address := testenv.RabbitMQ(t)
	proxy := faultproxy.New(t, hostOf(t, address))
	b := open(t, via(t, address, proxy.Addr()), rabbitmqbroker.WithConfirmTimeout(2*time.Second), rabbitmqbroker.WithBlockedTimeout(2*time.Second))
	silentOnce(proxy, queueDeclare)
	requireOutcome(t, reliable.Unknown, only(publish(t, b, attempts("orders", 1)...)))
	eventuallyAcked(t, b)
}

func TestScheduler_doesNotWaitForADeclarationForEver(t *testing.T) {
	address := testenv.RabbitMQ(t)
	proxy := faultproxy.New(t, hostOf(t, address))
	b := open(t, via(t, address, proxy.Addr()), rabbitmqbroker.WithConfirmTimeout(2*time.Second), rabbitmqbroker.WithBlockedTimeout(2*time.Second))
	scheduler, err := b.Scheduler([]time.Duration{10 * time.Millisecond})
	require.NoError(t, err)
	defer scheduler.Close()
	silentOnce(proxy, queueDeclare)
	one := attempts("orders", 1)[0].Envelope
	require.ErrorIs(t, scheduler.Schedule(t.Context(), 0, one), reliable.ErrUnknown)
	require.Eventually(t, func() bool { return scheduler.Schedule(t.Context(), 0, one) == nil }, patience, 10*time.Millisecond)
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lockedBuffer) lines(about string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.all.String(), about)
}

func TestBroker_thatIsNotThereDoesNotFillTheLog(t *testing.T) {
	var log lockedBuffer
	b := open(t, nobody, rabbitmqbroker.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	const tries = 50
	for range tries { // each tries at once
		require.Error(t, b.Ping(t.Context()))
	}
	lines := log.lines("cannot connect")
	assert.Positive(t, lines)
	assert.Less(t, lines, tries/5)
}
