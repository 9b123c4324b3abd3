//go:build services

package benchmarks

import (
	"testing"

	"github.com/waybillmq/waybill/benchmarks/pairs"
)

// BenchmarkAllocations counts what the hot path allocates, from Publish to the settled confirm, store and broker adapter
// and their drivers included, beside what a bare client allocates to publish and to hear of the confirm.
func BenchmarkAllocations(b *testing.B) {
	for _, d := range []database{mariaDB, postgres} {
		b.Run(d.name, func(b *testing.B) {
			db, store, url := besideRabbitMQ(b, d)
			for b.Loop() {
				bare := allocating(func() { barePublish(b, url, topic, endToEnd) })
				tagging := allocating(func() {
					to := rabbit(b, url)
					defer to.close()
					publishAll(b, d, db, store, to, endToEnd)
				})
				b.ReportMetric(tagging.objects, "allocs/msg")
				b.ReportMetric(tagging.bytes, "B/msg")
				b.ReportMetric(bare.objects, "yardstick-allocs/msg")
				pairs.Report("ratio allocations-%s %.2f (allocations per message of tagging end to end / bare client) %.1f / %.1f, bytes %.0f / %.0f",
					d.name, tagging.objects/bare.objects, tagging.objects, bare.objects, tagging.bytes, bare.bytes)
			}
		})
	}
}

// allocated is what each message allocated.
type allocated struct{ objects, bytes float64 }

// allocating measures body, which moves endToEnd messages: so many that making connections and tables does not show.
func allocating(body func()) allocated {
	used := pairs.StartMeter()
	body()
	bytes, objects := used.Allocated(endToEnd)
	return allocated{objects, bytes}
}
