//go:build services && soak && linux

package benchmarks

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/reliable"
)

// variant is a way to make the same business transactions.
type variant struct {
	name string
	sell func(s shop, b *testing.B, n int) sold
}

var variants = []variant{
	{"alone", shop.alone}, {"tagging", shop.tagging}, {"delayedcheck", shop.delayedcheck}, {"delayedcheck-marker", shop.marked},
}

// BenchmarkSideBySide makes the same business transactions without a message and with one by each strategy: how many a
// second, how long each takes, and how many statements and rows a message costs, as the server counts them. Rates are
// medians of interleaved rounds.
func BenchmarkSideBySide(b *testing.B) {
	for _, d := range []database{mariaDB, postgres} {
		b.Run(d.name, func(b *testing.B) {
			server := newCounted(b, d)
			for _, at := range []struct{ goroutines, n int }{{1, 2_000}, {8, 10_000}, {64, 20_000}, {256, 20_000}} {
				b.Run(fmt.Sprint(at.goroutines), func(b *testing.B) {
					s, n := openShop(b, d, at.goroutines), sized(at.n)
					defer s.to.close()
					rates, last := make([][]float64, len(variants)), make([]sold, len(variants))
					for range rounds {
						for i, v := range variants {
							last[i] = v.sell(s, b, n)
							rates[i] = append(rates[i], last[i].rate)
						}
					}
					costs := server.costs(b, at.goroutines, sized(2_000))
					for i, v := range variants {
						metrics := last[i].metrics()
						metrics["msg/s"] = pairs.Median(rates[i])
						metrics["statements/msg"], metrics["rows/msg"] = costs[i].statements, costs[i].rows
						point(b, v.name, metrics)
					}
				})
			}
		})
	}
}

// alone makes the transactions without messages.
func (s shop) alone(b *testing.B, n int) sold {
	b.Helper()
	s.empty(b)
	return s.sell(b, "alone", n, nil, func(ctx context.Context) error {
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // after Commit it does nothing
		if err := s.place(ctx, tx, func(...reliable.Envelope) error { return nil }); err != nil {
			return err
		}
		return tx.Commit()
	})
}

// marked is delayedcheck with the witness that writes a row.
func (s shop) marked(b *testing.B, n int) sold {
	b.Helper()
	store, is := s.store.(interface {
		MarkerWitness(horizon time.Duration) (reliable.Witness, error)
	})
	require.True(b, is)
	witness, err := store.MarkerWitness(time.Hour)
	require.NoError(b, err)
	return s.checkedBy(b, "delayedcheck with a marker", n, witness)
}
