//go:build services && soak

package peers

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/benchmarks/pairs"
)

// BenchmarkCallers has each library send from different numbers of goroutines, of which the comparisons have the last.
func BenchmarkCallers(b *testing.B) {
	const rounds = 3
	for _, c := range []struct {
		from, via string
		to        func(t testing.TB) destination
		sides     []contender
	}{
		{mariaDB, "rabbitmq", onRabbitMQ, []contender{waybill, watermillForwarder}},
		{postgres, "rabbitmq", onRabbitMQ, []contender{waybill, watermillForwarder, oagudoReader, oagudoOptimistic, riverJobs, bare}},
		{mariaDB, "kafka", onKafka, []contender{waybill, watermillForwarder}},
		{postgres, "kafka", onKafka, []contender{waybill, watermillForwarder}},
	} {
		for _, side := range c.sides {
			n := 3_000
			if side.name == waybill.name || side.name == bare.name {
				n = fast
			}
			for _, callers := range []int{16, 64, calling} {
				b.Run(fmt.Sprintf("%s-%s/%s/%d", c.via, c.from, side.name, callers), func(b *testing.B) {
					var rates []float64
					var lost int
					at := comparison{product: c.from, to: c.to, load: load{call: sends.call, callers: callers}}
					for b.Loop() {
						for range rounds {
							o := at.move(b, side, n)
							rates, lost = append(rates, o.rate), lost+o.lost
						}
					}
					require.False(b, side.name == waybill.name && lost > 0, "messages were lost")
					b.ReportMetric(0, "ns/op") // leaves it out
					b.ReportMetric(pairs.Median(rates), "msg/s")
					b.ReportMetric(float64(lost)/rounds, "lost/run")
				})
			}
		}
	}
}
