//go:build services

package peers

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/internal/testenv"
)

// fast is how many messages Waybill moves in one side of a pair; what is slower moves fewer, since rates are compared.
const fast = 40_000

// comparison sets Waybill against a peer.
type comparison struct {
	name    string // of the ratio
	product string // of the database
	to      func(t testing.TB) destination
	// peers are several where one can be set up in several ways: the fastest is what counts.
	peers []contender
	load  load
	// ours and theirs are how many messages each side moves.
	ours, theirs int
}

func onRabbitMQ(t testing.TB) destination { return queueOn(t, testenv.RabbitMQ(t), orders) }

func onKafka(t testing.TB) destination { return emptyTopic(t, testenv.Kafka(t)) }

// move has a contender move n messages from an empty database to an empty queue or topic.
func (c comparison) move(b *testing.B, side contender, n int) outcome {
	b.Helper()
	s := &scope{TB: b}
	defer s.end()
	return drive(s, side, emptyDatabase(s, c.product), c.to(s), c.load, n)
}

// run compares, and reports what either side lost: Waybill may lose nothing, of a peer it is told.
func (c comparison) run(b *testing.B) {
	b.Helper()
	theirs := make([][]outcome, len(c.peers))
	names := make([]string, len(c.peers))
	for i := range c.peers {
		names[i] = c.peers[i].name
	}
	peer := strings.Join(names, " or ")
	pairs.Compare(b, c.name, "Waybill", peer,
		func(b *testing.B) (rate float64) {
			for i, p := range c.peers {
				o := c.move(b, p, c.theirs)
				theirs[i] = append(theirs[i], o)
				rate = max(rate, o.rate)
			}
			return rate
		},
		func(b *testing.B) float64 {
			o := c.move(b, waybill, c.ours)
			require.Zero(b, o.lost, "messages were lost")
			require.Zero(b, o.duplicated, "copies, where nothing had failed")
			return o.rate
		})
	for i, outcomes := range theirs {
		var rates []float64
		var lost, duplicated int
		for _, o := range outcomes {
			rates, lost, duplicated = append(rates, o.rate), lost+o.lost, duplicated+o.duplicated
		}
		pairs.Report("peer %s, %s: %.0f msg/s; of %d messages %d lost, %d copies", c.name, names[i], pairs.Median(rates),
			c.theirs*len(outcomes), lost, duplicated)
	}
}

// BenchmarkForwarder is against Watermill's forwarder, from both databases to both brokers.
func BenchmarkForwarder(b *testing.B) {
	for _, c := range []comparison{
		{"vs-forwarder-mariadb", mariaDB, onRabbitMQ, []contender{watermillForwarder}, sends, fast, 2_000},
		{"vs-forwarder-postgres", postgres, onRabbitMQ, []contender{watermillForwarder}, sends, fast, 3_000},
		{"vs-forwarder-kafka-mariadb", mariaDB, onKafka, []contender{watermillForwarder}, sends, fast, 2_000},
		{"vs-forwarder-kafka-postgres", postgres, onKafka, []contender{watermillForwarder}, sends, fast, 3_000},
	} {
		b.Run(c.name, c.run)
	}
}

// BenchmarkOthers is against what leaves publishing to its user, who publishes with confirms here.
func BenchmarkOthers(b *testing.B) {
	for _, c := range []comparison{
		{"vs-oagudo", postgres, onRabbitMQ, oagudoTuned, sends, fast, 4_000},
		{"vs-river", postgres, onRabbitMQ, []contender{riverJobs}, sends, fast, 10_000},
		{"vs-bare", postgres, onRabbitMQ, []contender{bare}, sends, fast, 20_000},
	} {
		b.Run(c.name, c.run)
	}
}
