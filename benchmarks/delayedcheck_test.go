//go:build services

package benchmarks

import (
	"fmt"
	"testing"

	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/internal/testenv"
)

const (
	// checkedMessages is how many messages one side of a pair moves, each with its check; checkedRecords the same on Kafka.
	checkedMessages = 20_000
	checkedRecords  = 60_000
	// checkedSales is how many business transactions one side makes.
	checkedSales = 6_000
)

func BenchmarkDelayedCheckRabbitMQ(b *testing.B) {
	c, n := rabbitWithChecks(b), sized(checkedMessages)
	defer c.close()
	pairs.Compare(b, "delayedcheck-rabbitmq", "check confirmed, then message confirmed", "a bare client doing the same",
		func(b *testing.B) float64 { return bareRabbit(b, c, n) },
		func(b *testing.B) float64 {
			c.empty(b)
			return c.publish(b, n)
		})
}

func BenchmarkDelayedCheckKafka(b *testing.B) {
	place, n := testenv.Kafka(b), sized(checkedRecords)
	side := func(measure func(c checked) float64) func(b *testing.B) float64 {
		return func(b *testing.B) float64 {
			c := kafkaWithChecks(b, place)
			defer c.close()
			return measure(c)
		}
	}
	pairs.Compare(b, "delayedcheck-kafka", "check confirmed, then message confirmed", "a bare client doing the same",
		side(func(c checked) float64 { return bareKafkaChecked(b, c, place, n) }),
		side(func(c checked) float64 { return c.publish(b, n) }))
}

// BenchmarkDelayedCheckVsTagging sets a business transaction of one row and one message against the same one of tagging.
// Both count from the first transaction until the broker has confirmed the last message; tagging, until it has recorded that.
func BenchmarkDelayedCheckVsTagging(b *testing.B) {
	for _, d := range []database{mariaDB, postgres} {
		for _, goroutines := range []int{64, 256} {
			b.Run(fmt.Sprintf("%s-%d", d.name, goroutines), func(b *testing.B) {
				s := openShop(b, d, goroutines)
				defer s.to.close()
				n := sized(checkedSales)
				pairs.Compare(b, fmt.Sprintf("delayedcheck-vs-tagging-%s-%d", d.name, goroutines), "transactions with one message", "tagging's",
					func(b *testing.B) float64 { return s.tagging(b, n).rate },
					func(b *testing.B) float64 {
						sold := s.delayedcheck(b, n)
						report(b, sold.metrics())
						return sold.rate
					})
			})
		}
	}
}
