//go:build services

package benchmarks

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

const (
	// A consumer that normally takes 50 ms for a message takes ten times that: twenty at a time are 40 a second, which is
	// what comes, and so little that the consumer is the limit on any machine. A fifth of it may be sent again.
	stormSlow      = 500 * time.Millisecond
	stormAtOnce    = 20
	stormFresh     = 40
	stormResends   = 8
	stormInstances = 2
	// stormDelay is that of the checks: five times what a message normally takes, half of what it takes now.
	stormDelay  = 250 * time.Millisecond
	stormWarmUp = 2 * time.Second
	stormWindow = 6 * time.Second
)

// BenchmarkResendStorm has a consumer work at a tenth of its speed, as fast as it can, while every check comes due before its
// message is processed; the yardstick are the same messages with checks that come later. It counts new messages, not copies.
func BenchmarkResendStorm(b *testing.B) {
	pairs.Compare(b, "resend-storm", "new messages processed while every check comes too early", "while none does",
		func(b *testing.B) float64 { return openStorm(b, checkDelay).run(b) },
		func(b *testing.B) float64 {
			s := openStorm(b, stormDelay)
			fresh := s.run(b)
			resends := float64(s.resends.Load()) / (stormWarmUp + stormWindow).Seconds()
			pairs.Report("resend-storm %.0f resends a second of %d instances, the limit is %d", resends, stormInstances, stormResends)
			return fresh
		})
}

// storm is a producer, a consumer and instances of the callback service, on RabbitMQ and MariaDB.
type storm struct {
	subscriber *rabbitmqbroker.Subscriber
	sender     *delayedcheck.Sender
	services   []*delayedcheck.Service
	resends    atomic.Int64
}

func openStorm(b *testing.B, delay time.Duration) *storm {
	b.Helper()
	quiet := slog.New(slog.DiscardHandler)
	broker, err := rabbitmqbroker.NewFromURL(testenv.RabbitMQ(b), rabbitmqbroker.WithQuorumQueues(), rabbitmqbroker.WithLogger(quiet))
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, broker.Close()) })
	require.NoError(b, broker.Declare(b.Context(), topic, delayedcheck.DefaultCheckTopic))
	later, err := broker.Scheduler([]time.Duration{delay}, rabbitmqbroker.WithShards(1))
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, later.Close()) })
	s := new(storm)
	s.subscriber, err = broker.Subscriber(rabbitmqbroker.WithPrefetch(2*stormAtOnce), rabbitmqbroker.WithConcurrency(stormAtOnce))
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, s.subscriber.Close()) })
	s.sender, err = delayedcheck.NewSender(broker, broker, later, delayedcheck.WithGroups(consumer), delayedcheck.WithCheckDelay(delay),
		delayedcheck.WithSenderLogger(quiet))
	require.NoError(b, err)
	_, ledger := mariaDB.open(b)
	for range stormInstances {
		service, err := delayedcheck.NewService(ledger, s, later, delayedcheck.WithNextCheck(delayedcheck.DefaultCheckTopic, delay),
			delayedcheck.WithResendRate(stormResends, stormResends), delayedcheck.WithServiceLogger(quiet))
		require.NoError(b, err)
		s.services = append(s.services, service)
	}
	return s
}

// Resend counts what is sent again.
func (s *storm) Resend(ctx context.Context, check delayedcheck.Check) (delayedcheck.Answer, error) {
	s.resends.Add(1)
	return s.sender.Resend(ctx, check)
}

// run returns how many new messages were processed a second.
func (s *storm) run(b *testing.B) float64 {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	for _, run := range []func(context.Context) error{s.sender.Run, s.services[0].Run, s.services[1].Run} {
		work.Go(func() { _ = run(ctx) }) // what is left at the end is left on purpose
	}
	checks, err := s.subscriber.Subscribe(ctx, delayedcheck.DefaultCheckTopic)
	require.NoError(b, err)
	for range stormAtOnce {
		work.Go(func() {
			for msg := range checks {
				if s.services[0].Checks(msg) != nil {
					msg.Nack()
					continue
				}
				msg.Ack()
			}
		})
	}
	var fresh atomic.Int64
	var seen sync.Map
	messages, err := s.subscriber.Subscribe(ctx, topic)
	require.NoError(b, err)
	for range stormAtOnce {
		work.Go(func() {
			for msg := range messages {
				time.Sleep(stormSlow)
				confirm, err := reliable.ProcessedMessage(reliable.Processed{ID: reliable.ID(msg.UUID), Group: consumer})
				if err != nil || s.services[1].Processed(confirm) != nil {
					msg.Nack()
					continue
				}
				if _, copied := seen.LoadOrStore(msg.UUID, true); !copied {
					fresh.Add(1)
				}
				msg.Ack()
			}
		})
	}
	work.Go(func() { s.produce(ctx, &work) })
	time.Sleep(stormWarmUp)
	before := fresh.Load()
	time.Sleep(stormWindow)
	after := fresh.Load()
	cancel()
	work.Wait()
	return float64(after-before) / stormWindow.Seconds()
}

// produce sends new messages at a steady rate.
func (s *storm) produce(ctx context.Context, work *sync.WaitGroup) {
	tick := time.NewTicker(time.Second / stormFresh)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			work.Go(func() {
				_ = s.sender.Publish(ctx, reliable.Envelope{Topic: topic, Payload: make([]byte, payloadBytes)})
			})
		case <-ctx.Done():
			return
		}
	}
}
