package natsbroker_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/schedulertest"
)

func scheduler(t testing.TB, b *natsbroker.Broker, opts ...natsbroker.SchedulerOption) *natsbroker.Scheduler {
	s := b.Scheduler(opts...)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

// scheduling is a subject whose topics are in the stream "orders" of server.
func scheduling(t testing.TB, b *natsbroker.Broker, server *embedded.Server, topics *atomic.Int64) schedulertest.Subject {
	current := scheduler(t, b)
	return schedulertest.Subject{
		Scheduler: current,
		Topic:     func(testing.TB) string { return fmt.Sprint("orders.checks-", topics.Add(1)) },
		Subscribe: func(t testing.TB, topic string) <-chan *message.Message {
			sub, err := b.Subscriber("suite", natsbroker.WithPrefetch(1000), natsbroker.WithMaxAckPending(10_000),
				natsbroker.WithConcurrency(100))
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, sub.Close()) })
			messages, err := sub.Subscribe(t.Context(), topic)
			require.NoError(t, err)
			return messages
		},
		Reopen: func(t testing.TB) reliable.Scheduler {
			require.NoError(t, current.Close())
			return scheduler(t, b)
		},
		Crash: func(t testing.TB) { require.NoError(t, server.Restart(t.Context())) },
	}
}

func TestScheduler_conforms(t *testing.T) {
	var topics atomic.Int64
	open := func(t testing.TB) schedulertest.Subject {
		server := startServer(t)
		return scheduling(t, declared(t, newBroker(t, server)), server, &topics)
	}
	schedulertest.Run(t, schedulertest.Harness{
		Open: open, OpenToCrash: open, Delay: time.Second, Tolerance: 2 * time.Second,
	})
}

func check(id, topic string) reliable.Envelope {
	return reliable.Envelope{ID: reliable.ID(id), Topic: topic, Payload: []byte(id)}
}

func TestScheduler_theSameIDComesAsOftenAsItIsScheduled(t *testing.T) {
	server := startServer(t)
	b := declared(t, newBroker(t, server))
	s := scheduler(t, b)
	sub, err := b.Subscriber("service")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, sub.Close()) })
	messages, err := sub.Subscribe(t.Context(), "orders.checks")
	require.NoError(t, err)
	for range 2 { // a stream would drop the second one within its window if both had a Nats-Msg-Id
		require.NoError(t, s.Schedule(within(t), time.Millisecond, check("round", "orders.checks")))
		select {
		case msg := <-messages:
			assert.Equal(t, "round", msg.UUID)
			msg.Ack()
		case <-time.After(patience):
			require.FailNow(t, "it did not come")
		}
	}
	require.Eventually(t, func() bool { return stored(t, server, "orders") == 2 }, patience, 50*time.Millisecond,
		"what came due waits no more")
}

func TestScheduler_refusesStreamsThatWouldLoseWhatWaits(t *testing.T) {
	server := startServer(t)
	b := newBroker(t, server,
		natsbroker.WithStreamConfig(jetstream.StreamConfig{Name: "short", MaxAge: time.Minute}),
		natsbroker.WithStreamConfig(jetstream.StreamConfig{Name: "interest", Retention: jetstream.InterestPolicy}),
		natsbroker.WithStreamConfig(jetstream.StreamConfig{Name: "strict", Discard: jetstream.DiscardNew}),
		natsbroker.WithStreamConfig(jetstream.StreamConfig{Name: "all", Subjects: []string{"all.>", "waybill.delay.all.*"}}))
	s := scheduler(t, declared(t, b))
	ctx := within(t)
	require.ErrorIs(t, s.Schedule(ctx, time.Hour, check("1", "short")), reliable.ErrInvalid)
	require.NoError(t, s.Schedule(ctx, 50*time.Second, check("1", "short")))
	require.ErrorIs(t, s.Schedule(ctx, time.Second, check("1", "interest")), reliable.ErrInvalid)
	require.ErrorContains(t, s.Schedule(ctx, time.Second, check("1", "strict")), "discard new")
	require.ErrorIs(t, s.Schedule(ctx, time.Second, check("1", "nowhere")), reliable.ErrUnroutable)
	require.ErrorIs(t, s.Schedule(ctx, time.Second, check("1", "no subject")), reliable.ErrInvalid)
	require.NoError(t, s.Schedule(ctx, time.Hour, check("1", "all.checks")), "its subjects stay as they are")

	_, js := client(t, server)
	stream, err := js.Stream(ctx, "all")
	require.NoError(t, err)
	assert.Equal(t, []string{"all.>", "waybill.delay.all.*"}, stream.CachedInfo().Config.Subjects)
}

func TestScheduler_withoutStreamUpdatesChangesNoStream(t *testing.T) {
	server := startServer(t)
	b := declared(t, newBroker(t, server))
	ctx := within(t)
	s := scheduler(t, b, natsbroker.WithoutStreamUpdates())
	err := s.Schedule(ctx, time.Second, check("1", "orders.checks"))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	require.ErrorContains(t, err, "waybill.delay.orders.>")
	require.NoError(t, scheduler(t, b).Schedule(ctx, time.Second, check("1", "orders.checks")))
	require.NoError(t, s.Schedule(ctx, time.Second, check("2", "orders.checks")), "now it is ready")
}

func TestScheduler_severalProcessesPrepareAStreamAtOnce(t *testing.T) {
	server := startServer(t)
	b := declared(t, newBroker(t, server))
	const processes = 4
	errs := make(chan error, processes)
	for range processes {
		s := scheduler(t, b)
		ctx := within(t)
		go func() { errs <- s.Schedule(ctx, time.Hour, check("1", "orders.checks")) }()
	}
	for range processes {
		assert.NoError(t, <-errs)
	}
	assert.Equal(t, processes, stored(t, server, "orders"))
}
