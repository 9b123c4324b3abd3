//go:build services && soak && linux

package benchmarks

import (
	"fmt"
	"testing"

	"github.com/waybillmq/waybill/internal/testenv"
)

// combined is how many business transactions a combination makes, 64 at a time.
const combined = 4_000

// combinedBrokers are all brokers. Each function returns one with nothing in it, and with a topic or queues for checks.
func combinedBrokers(b *testing.B) map[string]func(b *testing.B) checked {
	b.Helper()
	places, server := testenv.Kafka(b), startNATS(b)
	tables := func(d database) func(b *testing.B) checked {
		db, _ := d.open(b)
		return func(b *testing.B) checked {
			b.Helper()
			checks, waiting := emptyTable(b, d, db)
			return checksOnTopic(sqlTables(b, d, db), checks, waiting)
		}
	}
	return map[string]func(b *testing.B) checked{
		"rabbitmq": func(b *testing.B) checked { b.Helper(); return rabbitWithChecks(b).checked },
		"kafka":    func(b *testing.B) checked { b.Helper(); return kafkaWithChecks(b, places) },
		"nats": func(b *testing.B) checked {
			b.Helper()
			checks, waiting, end := emptyStream(b, server)
			to := onNATS(b, server)
			closeBroker := to.close
			to.close = func() { closeBroker(); end() }
			return checksOnTopic(to, checks, waiting)
		},
		"sql-mariadb":  tables(mariaDB),
		"sql-postgres": tables(postgres),
	}
}

// BenchmarkCombinations makes the same business transactions, each with a message, by every combination of strategy, store
// and broker: medians of the rates, the rest of the last round. delayedcheck's witness writes nothing, but on SQLite, which
// has only the one that writes a marker.
func BenchmarkCombinations(b *testing.B) {
	brokers, n := combinedBrokers(b), sized(combined)
	for _, d := range []database{mariaDB, postgres, sqlite} {
		for _, name := range []string{"rabbitmq", "kafka", "nats", "sql-mariadb", "sql-postgres"} {
			for _, v := range []variant{{"tagging", shop.tagging}, {"delayedcheck", witnessed(d)}} {
				b.Run(fmt.Sprintf("%s/%s/%s", v.name, d.name, name), func(b *testing.B) {
					var last sold
					rate := median(rounds, func() float64 {
						s := openShopBeside(b, d, publishers, brokers[name](b))
						defer s.to.close()
						last = v.sell(s, b, n)
						return last.rate
					})
					b.ReportMetric(0, "ns/op") // leaves it out
					b.ReportMetric(rate, "msg/s")
					report(b, last.metrics())
				})
			}
		}
	}
}

// witnessed is delayedcheck with the witness that costs least in a database.
func witnessed(d database) func(s shop, b *testing.B, n int) sold {
	if d.name == sqlite.name {
		return shop.marked
	}
	return shop.delayedcheck
}
