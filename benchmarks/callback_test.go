//go:build services

package benchmarks

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// BenchmarkCallback stores processed confirms and then answers the checks of the same messages, from 64 goroutines, each of
// which has one message at a time, as a router's handlers have.
func BenchmarkCallback(b *testing.B) {
	const goroutines = 64
	messages := sized(20_000)
	for _, d := range []database{mariaDB, postgres, sqlite} {
		b.Run(d.name, func(b *testing.B) {
			for b.Loop() {
				_, ledger := d.open(b)
				service, err := delayedcheck.NewService(ledger, nobody{}, nil)
				require.NoError(b, err)
				confirms, checks := make([]*message.Message, messages), make([]*message.Message, messages)
				for i := range messages {
					confirms[i], checks[i] = confirmAndCheck(b, reliable.ID(fmt.Sprintf("order-%06d", i)))
				}
				stored, _ := perSecond(b, goroutines, confirms, service.Processed)
				answered, took := perSecond(b, goroutines, checks, service.Checks)
				report(b, took.metrics())
				require.Zero(b, service.Stats().Requests, "a check was answered that was not confirmed")
				b.ReportMetric(stored, "confirms/s")
				b.ReportMetric(answered, "checks/s")
				pairs.Report("callback-%s %.0f confirms stored a second, %.0f checks answered a second, %d goroutines", d.name, stored, answered, goroutines)
			}
		})
	}
}

// nobody is asked for a resend.
type nobody struct{}

func (nobody) Resend(context.Context, delayedcheck.Check) (delayedcheck.Answer, error) {
	return delayedcheck.Unknowable, nil
}

func confirmAndCheck(b *testing.B, id reliable.ID) (confirm, check *message.Message) {
	b.Helper()
	confirm, err := reliable.ProcessedMessage(reliable.Processed{ID: id, Group: "billing"})
	require.NoError(b, err)
	due := delayedcheck.Check{
		Message: reliable.Envelope{ID: id, Topic: "orders", Payload: make([]byte, 256)}, Groups: []string{"billing"}, Producer: "shop", Round: 1,
	}
	env, err := due.Envelope(delayedcheck.DefaultCheckTopic)
	require.NoError(b, err)
	return confirm, env.Message()
}

// perSecond hands messages to a handler and returns how many it took a second, and how long it took for each.
func perSecond(b *testing.B, goroutines int, messages []*message.Message, handle func(*message.Message) error) (rate float64, took calls) {
	b.Helper()
	start := time.Now()
	took = together(b, goroutines, len(messages), func(i int) error { return handle(messages[i-1]) })
	return float64(len(messages)) / time.Since(start).Seconds(), took
}
