//go:build services && soak

package peers

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/waybillmq/waybill/benchmarks/pairs"
)

// sales is business transactions, each with one message; backlog is the same, and the relay starts when all are stored.
var (
	sales = load{
		call:    func(o carrier, topic string, i int) error { return o.sell(context.Background(), i, topic, payload(i)) },
		callers: transacting,
	}
	backlog = load{call: sales.call, stored: true, callers: transacting}
)

// BenchmarkSales is bound by the database's transactions, more than by anybody's relay.
func BenchmarkSales(b *testing.B) {
	for _, c := range []comparison{
		{"sales-vs-forwarder-mariadb", mariaDB, onRabbitMQ, []contender{watermillForwarder}, sales, fast, 3_000},
		{"sales-vs-forwarder-postgres", postgres, onRabbitMQ, []contender{watermillForwarder}, sales, fast, 6_000},
		{"sales-vs-oagudo-mariadb", mariaDB, onRabbitMQ, oagudoTuned, sales, fast, 6_000},
		{"sales-vs-oagudo-postgres", postgres, onRabbitMQ, oagudoTuned, sales, fast, 6_000},
		{"sales-vs-river", postgres, onRabbitMQ, []contender{riverJobs}, sales, fast, 10_000},
		{"sales-vs-bare", postgres, onRabbitMQ, []contender{bare}, sales, fast, 20_000},
	} {
		b.Run(c.name, c.run)
	}
}

// BenchmarkBacklog is the relays alone.
func BenchmarkBacklog(b *testing.B) {
	for _, c := range []comparison{
		{"backlog-vs-forwarder-mariadb", mariaDB, onRabbitMQ, []contender{watermillForwarder}, backlog, fast, 3_000},
		{"backlog-vs-forwarder-postgres", postgres, onRabbitMQ, []contender{watermillForwarder}, backlog, fast, 6_000},
		{"backlog-vs-oagudo-mariadb", mariaDB, onRabbitMQ, []contender{oagudoReader}, backlog, fast, 6_000},
		{"backlog-vs-oagudo-postgres", postgres, onRabbitMQ, []contender{oagudoReader}, backlog, fast, 6_000},
		{"backlog-vs-river", postgres, onRabbitMQ, []contender{riverJobs}, backlog, fast, 10_000},
	} {
		b.Run(c.name, c.run)
	}
}

// TestSoakPeersCarryEverything proves that each peer is set up as it should be: with nothing going wrong nothing is lost.
// Of the forwarder this holds on PostgreSQL only.
func TestSoakPeersCarryEverything(t *testing.T) {
	for _, c := range []struct {
		peer    contender
		product string
		to      func(testing.TB) destination
	}{
		{watermillForwarder, postgres, onRabbitMQ}, {watermillForwarder, postgres, onKafka},
		{oagudoReader, mariaDB, onRabbitMQ}, {oagudoOptimistic, mariaDB, onRabbitMQ},
		{oagudoReader, postgres, onRabbitMQ}, {oagudoOptimistic, postgres, onRabbitMQ},
		{riverJobs, postgres, onRabbitMQ}, {bare, postgres, onRabbitMQ},
	} {
		c.peer.quiet = patience
		for _, l := range []load{sends, sales} {
			d := emptyDatabase(t, c.product)
			o := drive(t, c.peer, d, c.to(t), l, few)
			assert.Zero(t, o.lost, "%s from %s", c.peer.name, c.product)
			if query, keeps := kept[c.peer.name]; keeps {
				assert.Zero(t, ask(t, d, query), "%s from %s has messages left", c.peer.name, c.product)
			}
		}
	}
}

// BenchmarkDefault says how fast oagudo/outbox is with nothing set: a batch of 100 every ten seconds.
func BenchmarkDefault(b *testing.B) {
	for b.Loop() {
		s := &scope{TB: b}
		o := drive(s, oagudoDefault, emptyDatabase(s, postgres), onRabbitMQ(s), sends, few)
		s.end()
		b.ReportMetric(o.rate, "msg/s")
		pairs.Report("rate oagudo-default %.0f (%d messages, lost %d)", o.rate, few, o.lost)
	}
}
