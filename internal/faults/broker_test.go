//go:build services

package faults

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
)

// outage is how long a broker is paused or full.
const outage = 20 * time.Second

// brokerFault breaks a broker under load, and heals it before it returns.
type brokerFault struct {
	name     string
	database func(testing.TB) database
	proxied  bool
	unknown  bool // it certainly meets messages in flight
	breakIt  func(t *testing.T, broker *testservers.RabbitMQ, proxy *faultproxy.Proxy)
}

func killed(_ *testing.T, broker *testservers.RabbitMQ, _ *faultproxy.Proxy) {
	broker.Pause() // it answers so soon that otherwise nothing might be in flight
	time.Sleep(500 * time.Millisecond)
	broker.Kill()
	broker.Start()
}

var brokerFaults = []brokerFault{
	{"killed, on MariaDB", mariaDB, false, true, killed},
	{"killed, on PostgreSQL", postgres, false, true, killed},
	{"restarted", postgres, false, false, func(_ *testing.T, broker *testservers.RabbitMQ, _ *faultproxy.Proxy) {
		broker.Stop()
		broker.Start()
	}},
	{"paused", mariaDB, false, true, func(_ *testing.T, broker *testservers.RabbitMQ, _ *faultproxy.Proxy) {
		broker.Pause()
		time.Sleep(outage)
		broker.Resume()
	}},
	{"out of memory", postgres, false, false, func(_ *testing.T, broker *testservers.RabbitMQ, _ *faultproxy.Proxy) {
		broker.SetMemoryAlarm(true)
		time.Sleep(outage)
		broker.SetMemoryAlarm(false)
	}},
	{"cut before the confirm", mariaDB, true, true, func(_ *testing.T, _ *testservers.RabbitMQ, proxy *faultproxy.Proxy) {
		proxy.DropDownstream(true)
		time.Sleep(time.Second)
		proxy.CutAll()
		proxy.DropDownstream(false)
	}},
}

func TestBrokerFault_losesNothingFailsNothingAndHealsByItself(t *testing.T) {
	t.Parallel()
	for _, fault := range brokerFaults {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			broker := testservers.StartRabbitMQ(t)
			declare(t, broker.URL(), queue, quorum)
			broker.KeepQueues()
			amqpURL, proxy := broker.URL(), (*faultproxy.Proxy)(nil)
			if fault.proxied {
				amqpURL, proxy = through(t, amqpURL)
			}
			r := newRig(t, rigConfig{database: fault.database(t), amqpURL: amqpURL})
			r.survives(func() { fault.breakIt(t, broker, proxy) })
			if fault.unknown {
				assert.NotZero(t, r.seen.outcome(reliable.Unknown), "the fault must have met messages in flight")
			}
			r.audit(consume(t, broker.URL(), queue))
		})
	}
}

// survives places orders all the time, breaks the broker and heals it, and waits until all is settled.
func (r *rig) survives(breakAndHeal func()) {
	r.t.Helper()
	r.createOrders()
	stop := r.load(4, 20*time.Millisecond, never)
	require.Eventually(r.t, func() bool { return r.seen.outcome(reliable.Acked) > 200 }, patience, 10*time.Millisecond)
	goroutines, heap := runtime.NumGoroutine(), heapInUse()

	breakAndHeal()
	healed := time.Now()
	before := r.seen.outcome(reliable.Acked)
	require.Eventually(r.t, func() bool { return r.seen.outcome(reliable.Acked) > before+200 }, patience, 10*time.Millisecond)
	placed := stop()
	r.eventuallySettled()
	r.t.Logf("placed %d, settled %v after healing", placed, time.Since(healed).Round(time.Millisecond))

	assert.Empty(r.t, r.withStatus(reliable.Failed), "an outage must fail nothing")
	assert.Less(r.t, runtime.NumGoroutine(), goroutines+500, "goroutines must stay flat")
	assert.Less(r.t, heapInUse(), heap+64<<20, "memory must stay flat")
}
