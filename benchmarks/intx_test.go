//go:build services

package benchmarks

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// businessTransactions is how many transactions one side of a pair makes for each connection.
const businessTransactions = 1500

// BenchmarkInTx sets a business transaction with one message against the same transaction without it.
func BenchmarkInTx(b *testing.B) {
	for _, d := range []database{mariaDB, postgres} {
		for _, connections := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s-%d", d.name, connections), func(b *testing.B) {
				db, store := d.open(b)
				db.SetMaxOpenConns(connections + 8) // the relay has its own
				_, err := db.Exec("CREATE TABLE business (id VARCHAR(64) PRIMARY KEY)")
				require.NoError(b, err)
				insert := "INSERT INTO business (id) VALUES (" + d.placeholder(1) + ")"
				to := instant(b)
				defer to.close()
				sent := 0
				relaying(b, store, to, func(o *tagging.Outbox) {
					pairs.Compare(b, fmt.Sprintf("intx-%s-%d", d.name, connections), "transactions with one message", "the same without it",
						func(b *testing.B) float64 {
							rate, _ := transactions(b, connections, func(ctx context.Context, id string) error {
								tx, err := db.BeginTx(ctx, nil)
								if err != nil {
									return err
								}
								if _, err := tx.ExecContext(ctx, insert, id); err != nil {
									return err
								}
								return tx.Commit()
							})
							return rate
						},
						func(b *testing.B) float64 {
							payload := make([]byte, payloadBytes)
							sent += total(connections)
							rate, took := transactions(b, connections, func(ctx context.Context, id string) error {
								return tagging.InTx(ctx, o, db, func(tx *sql.Tx, out *tagging.Scope) error {
									if _, err := tx.ExecContext(ctx, insert, id); err != nil {
										return err
									}
									return out.Send(reliable.Envelope{Topic: topic, Payload: payload})
								})
							})
							report(b, took.metrics())
							return rate
						})
				}) // which waits for what is on its way
				nothingLost(b, db, to, sent)
			})
		}
	}
}

// total is how many transactions one side of a pair makes.
func total(connections int) int {
	return sized(max(businessTransactions, businessTransactions*connections/8))
}

// transactions runs work from as many goroutines as there are connections, and returns how often it ran per second and how
// long each took.
func transactions(b *testing.B, connections int, work func(ctx context.Context, id string) error) (rate float64, took calls) {
	b.Helper()
	n, start := total(connections), time.Now()
	took = together(b, connections, n, func(int) error { return work(context.Background(), string(reliable.NewID())) })
	return float64(n) / time.Since(start).Seconds(), took
}
