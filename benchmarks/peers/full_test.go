//go:build services && soak

package peers

import (
	"context"
	"testing"

	"github.com/waybillmq/waybill/benchmarks/pairs"
)

// sales is business transactions, each with one message; backlog is the same, and the relay starts when all are stored.
var (
	sales = load{
		call: func(o carrier, topic string, i int) error { return o.sell(context.Background(), i, topic, payload(i)) },
	}
	backlog = load{call: sales.call, stored: true}
)

// BenchmarkSales is bound by the database's transactions, more than by anybody's relay.
func BenchmarkSales(b *testing.B) {
	for _, c := range []comparison{
		{"sales-vs-forwarder-mariadb", mariaDB, onRabbitMQ, watermillForwarder, sales, fast, 4_000},
		{"sales-vs-forwarder-postgres", postgres, onRabbitMQ, watermillForwarder, sales, fast, 6_000},
		{"sales-vs-oagudo-mariadb", mariaDB, onRabbitMQ, oagudoReader, sales, fast, 6_000},
		{"sales-vs-oagudo-postgres", postgres, onRabbitMQ, oagudoReader, sales, fast, 6_000},
		{"sales-vs-oagudo-optimistic", postgres, onRabbitMQ, oagudoOptimistic, sales, fast, 10_000},
		{"sales-vs-river", postgres, onRabbitMQ, riverJobs, sales, fast, 10_000},
		{"sales-vs-bare", postgres, onRabbitMQ, bare, sales, fast, 20_000},
	} {
		b.Run(c.name, c.run)
	}
}

// BenchmarkBacklog is the relays alone.
func BenchmarkBacklog(b *testing.B) {
	for _, c := range []comparison{
		{"backlog-vs-forwarder-mariadb", mariaDB, onRabbitMQ, watermillForwarder, backlog, fast, 4_000},
		{"backlog-vs-forwarder-postgres", postgres, onRabbitMQ, watermillForwarder, backlog, fast, 6_000},
		{"backlog-vs-oagudo-mariadb", mariaDB, onRabbitMQ, oagudoReader, backlog, fast, 6_000},
		{"backlog-vs-oagudo-postgres", postgres, onRabbitMQ, oagudoReader, backlog, fast, 6_000},
		{"backlog-vs-river", postgres, onRabbitMQ, riverJobs, backlog, fast, 10_000},
	} {
		b.Run(c.name, c.run)
	}
}

// BenchmarkDefault says how fast oagudo/outbox is with nothing set: a batch of 100 every ten seconds.
func BenchmarkDefault(b *testing.B) {
	const few = 300
	for b.Loop() {
		s := &scope{TB: b}
		o := drive(s, oagudoDefault, emptyDatabase(s, postgres), onRabbitMQ(s), sends, few)
		s.end()
		b.ReportMetric(o.rate, "msg/s")
		pairs.Report("rate oagudo-default %.0f (%d messages, lost %d)", o.rate, few, o.lost)
	}
}
