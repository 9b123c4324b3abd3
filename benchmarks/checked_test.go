//go:build services

package benchmarks

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

const (
	// checkDelay is so long that no check comes due while anything is measured.
	checkDelay = 10 * time.Minute
	consumer   = "billing"
)

// checked is a broker with a topic for messages and a place where their checks wait.
type checked struct {
	broker
	later      reliable.Scheduler // nil where checks go to their topic at once
	checkTopic string
	waiting    func() int // checks that wait
	// empty takes out what earlier runs left, so that neither side of a pair pays for the messages of the other.
	empty func(b *testing.B)
}

// checksOnTopic is a broker, new for each run, whose checks go to their topic at once.
func checksOnTopic(to broker, checkTopic string, waiting func() int) checked {
	return checked{broker: to, checkTopic: checkTopic, waiting: waiting, empty: func(*testing.B) {}}
}

// sending runs a sender while body works, and stops it, which waits for what is on its way.
func (c checked) sending(b *testing.B, body func(s *delayedcheck.Sender), opts ...delayedcheck.SenderOption) {
	b.Helper()
	all := []delayedcheck.SenderOption{
		delayedcheck.WithGroups(consumer), delayedcheck.WithCheckTopic(c.checkTopic), delayedcheck.WithCheckDelay(checkDelay),
		delayedcheck.WithWindow(window), delayedcheck.WithCheckTimeout(30 * time.Second), // what is measured here is no sick broker
	}
	if c.later == nil {
		all = append(all, delayedcheck.WithTopicChecks())
	}
	s, err := delayedcheck.NewSender(c.publisher, c.confirms, c.later, append(all, opts...)...)
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	body(s)
	cancel()
	require.NoError(b, <-ran)
	stats := s.Stats()
	require.Equal(b, stats.Checks, stats.Acked)
	require.Zero(b, stats.ChecksFailed+stats.Unconfirmed+stats.LeftToCheck)
}

// nothingLost fails b unless the broker has n messages and as many checks.
func (c checked) nothingLost(b *testing.B, n int) {
	b.Helper()
	delivered(b, c.broker, n)
	require.GreaterOrEqual(b, c.waiting(), n, "checks were lost")
}

// publish sends n messages from many goroutines, one a call, and returns how many were confirmed, each after its check, a second.
func (c checked) publish(b *testing.B, n int) float64 {
	b.Helper()
	payload := make([]byte, payloadBytes)
	var elapsed time.Duration
	c.sending(b, func(s *delayedcheck.Sender) {
		used := pairs.StartMeter()
		calls := together(b, publishers, n, func(int) error {
			return s.Publish(context.Background(), reliable.Envelope{Topic: c.topic, Payload: payload})
		})
		elapsed = used.Elapsed()
		used.Log(b, "delayedcheck", n)
		used.Report(b, n)
		report(b, calls.metrics())
	})
	c.nothingLost(b, n)
	return float64(n) / elapsed.Seconds()
}

// bare is a bare client doing the same: a check confirmed, then the message confirmed. What it is given returns when the
// broker has confirmed.
func (c checked) bare(b *testing.B, n int, check, message func(ctx context.Context, i int, body []byte) error) float64 {
	b.Helper()
	due := delayedcheck.Check{
		Message: reliable.Envelope{ID: reliable.NewID(), Topic: c.topic, Payload: make([]byte, payloadBytes)},
		Groups:  []string{consumer}, Round: 1, Committed: true,
	}
	asked, err := due.Envelope(c.checkTopic)
	require.NoError(b, err)
	ctx, used := context.Background(), pairs.StartMeter()
	together(b, publishers, n, func(i int) error {
		if err := check(ctx, i, asked.Payload); err != nil {
			return err
		}
		return message(ctx, i, due.Message.Payload)
	})
	elapsed := used.Elapsed()
	used.Log(b, "bare", n)
	c.nothingLost(b, n)
	return float64(n) / elapsed.Seconds()
}

// calls are how long calls took, in milliseconds.
type calls []float64

// metrics are the percentiles, by their units.
func (c calls) metrics() map[string]float64 {
	return map[string]float64{
		"p50-ms": pairs.Percentile(c, 0.5), "p99-ms": pairs.Percentile(c, 0.99), "p99.9-ms": pairs.Percentile(c, 0.999),
	}
}

// report tells metrics of b.
func report(b *testing.B, metrics map[string]float64) {
	for unit, value := range metrics {
		b.ReportMetric(value, unit)
	}
}

// together runs work n times, from many goroutines, and returns how long each took.
func together(b *testing.B, goroutines, n int, work func(i int) error) calls {
	b.Helper()
	took := make(calls, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				start := time.Now()
				if err := work(int(i)); err != nil {
					b.Error(err)
					return
				}
				took[i-1] = float64(time.Since(start)) / float64(time.Millisecond)
			}
		})
	}
	wg.Wait()
	require.False(b, b.Failed())
	return took
}
