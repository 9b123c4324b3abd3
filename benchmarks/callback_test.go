//go:build services

package benchmarks

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// callbackMessages is how many confirms, or checks, one side of a pair handles, and how many messages the other sends.
const callbackMessages = 6_000

// BenchmarkCallback sets what the callback service takes, from 64 goroutines which have one message each, as a router's
// handlers have, against what a sender sends in the same minute: a message with a check makes one confirm and one check.
func BenchmarkCallback(b *testing.B) {
	c := rabbitWithChecks(b)
	defer c.close()
	n := sized(callbackMessages)
	sent := func(b *testing.B) float64 {
		c.empty(b)
		return c.publish(b, n)
	}
	const yardstick = "messages sent over RabbitMQ, each with its check"
	for _, d := range []database{mariaDB, postgres, sqlite} {
		b.Run(d.name, func(b *testing.B) {
			_, ledger := d.open(b)
			service, err := delayedcheck.NewService(ledger, nobody{}, nil)
			require.NoError(b, err)
			b.Run("confirms", func(b *testing.B) {
				pairs.Compare(b, "callback-confirms-"+d.name, "processed confirms stored", yardstick, sent, func(b *testing.B) float64 {
					confirms, _ := confirmsAndChecks(b, n)
					return handled(b, confirms, service.Processed)
				})
			})
			b.Run("checks", func(b *testing.B) {
				pairs.Compare(b, "callback-checks-"+d.name, "checks of confirmed messages answered", yardstick, sent, func(b *testing.B) float64 {
					confirms, checks := confirmsAndChecks(b, n)
					handled(b, confirms, service.Processed)
					return handled(b, checks, service.Checks)
				})
			})
			require.Zero(b, service.Stats().Requests, "a check was answered that was not confirmed")
		})
	}
}

func confirmsAndChecks(b *testing.B, n int) (confirms, checks []*message.Message) {
	b.Helper()
	confirms, checks = make([]*message.Message, n), make([]*message.Message, n)
	for i := range n {
		confirms[i], checks[i] = confirmAndCheck(b, reliable.NewID())
	}
	return confirms, checks
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

// handled hands messages to a handler, reports how long it took for each, and returns how many it took a second.
func handled(b *testing.B, messages []*message.Message, handle func(*message.Message) error) float64 {
	b.Helper()
	start := time.Now()
	took := together(b, publishers, len(messages), func(i int) error { return handle(messages[i-1]) })
	elapsed := time.Since(start)
	report(b, took.metrics())
	return float64(len(messages)) / elapsed.Seconds()
}
