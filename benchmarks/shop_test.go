//go:build services

package benchmarks

import (
	"context"
	"database/sql"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// shop makes business transactions of one row, many at a time, with a broker beside.
type shop struct {
	d          database
	db         *sql.DB
	store      reliable.Store
	to         checked
	goroutines int
	insert     string
}

// sold is what came of transactions: how many a second, until all their messages were confirmed, how long each took, and
// what it allocated.
type sold struct {
	rate           float64
	calls          calls
	bytes, objects float64
}

// metrics are all but the rate, by their units.
func (s sold) metrics() map[string]float64 {
	metrics := s.calls.metrics()
	metrics["B/msg"], metrics["allocs/msg"] = s.bytes, s.objects
	return metrics
}

// openShop makes a shop beside RabbitMQ.
func openShop(b *testing.B, d database, goroutines int) shop {
	b.Helper()
	return openShopBeside(b, d, goroutines, rabbitWithChecks(b).checked)
}

// openShopBeside makes a shop with as many connections to its database as transactions at a time, and some for the relay.
// SQLite's store knows itself how many it needs.
func openShopBeside(b *testing.B, d database, goroutines int, to checked) shop {
	b.Helper()
	db, store := d.open(b)
	_, err := db.Exec("CREATE TABLE business (id VARCHAR(64) PRIMARY KEY)")
	require.NoError(b, err)
	if d.name != sqlite.name {
		db.SetMaxOpenConns(goroutines + 8)
		db.SetMaxIdleConns(goroutines + 8)
		connect(b, db, goroutines+8)
	}
	return shop{d, db, store, to, goroutines, "INSERT INTO business (id) VALUES (" + d.placeholder(1) + ")"}
}

// connect has a pool make its connections, which takes a server longer than a transaction.
func connect(b *testing.B, db *sql.DB, connections int) {
	b.Helper()
	open := make([]*sql.Conn, connections)
	for i := range open {
		var err error
		open[i], err = db.Conn(context.Background())
		require.NoError(b, err)
	}
	for _, conn := range open {
		require.NoError(b, conn.Close())
	}
}

// empty makes everything as if it were new.
func (s shop) empty(b *testing.B) {
	b.Helper()
	for _, table := range []string{"waybill_outbox", "business", "waybill_marker"} {
		emptyOf(b, s.d, s.db, table)
	}
	s.to.empty(b)
}

// sell makes n transactions and waits until done is closed, nil for not at all.
func (s shop) sell(b *testing.B, what string, n int, done <-chan struct{}, transaction func(ctx context.Context) error) sold {
	b.Helper()
	ctx, used := context.Background(), pairs.StartMeter()
	took := together(b, s.goroutines, n, func(int) error { return transaction(ctx) })
	if done != nil {
		await(b, done)
	}
	elapsed := used.Elapsed()
	used.Log(b, what, n)
	bytes, objects := used.Allocated(n)
	return sold{float64(n) / elapsed.Seconds(), took, bytes, objects}
}

// place is the business's part of a transaction.
func (s shop) place(ctx context.Context, tx *sql.Tx, send func(...reliable.Envelope) error) error {
	id := reliable.NewID()
	if _, err := tx.ExecContext(ctx, s.insert, string(id)); err != nil {
		return err
	}
	return send(reliable.Envelope{ID: id, Topic: s.to.topic, Payload: make([]byte, payloadBytes)})
}

// tagging makes them with a message each, until the outbox has recorded the last confirm.
func (s shop) tagging(b *testing.B, n int) (result sold) {
	b.Helper()
	s.empty(b)
	hooks, done := countSettled(n)
	relaying(b, s.store, s.to.broker, func(o *tagging.Outbox) {
		result = s.sell(b, "tagging", n, done, func(ctx context.Context) error {
			return tagging.InTx(ctx, o, s.db, func(tx *sql.Tx, out *tagging.Scope) error { return s.place(ctx, tx, out.Send) })
		})
	}, tagging.WithHooks(hooks))
	nothingLost(b, s.db, s.to.broker, n)
	s.allSold(b, n)
	return result
}

// delayedcheck makes them with a message each, until the broker has confirmed the last one. The witness writes nothing.
func (s shop) delayedcheck(b *testing.B, n int) sold {
	b.Helper()
	return s.checkedBy(b, "delayedcheck", n, witnessOf(b, s.d, s.db))
}

func (s shop) checkedBy(b *testing.B, what string, n int, witness reliable.Witness) (result sold) {
	b.Helper()
	s.empty(b)
	transactor, ok := reliable.Ability[reliable.Transactor](s.store)
	require.True(b, ok)
	var acked atomic.Int64
	done := make(chan struct{})
	hooks := delayedcheck.SenderHooks{Answered: func(_ *reliable.Envelope, confirm *reliable.Confirm, _ time.Duration) {
		if confirm.Outcome == reliable.Acked && acked.Add(1) == int64(n) {
			close(done)
		}
	}}
	s.to.sending(b, func(sender *delayedcheck.Sender) {
		result = s.sell(b, what, n, done, func(ctx context.Context) error {
			return delayedcheck.InTx(ctx, sender, s.db, func(tx *sql.Tx, out *delayedcheck.Scope) error { return s.place(ctx, tx, out.Send) })
		})
	}, delayedcheck.WithTransactions(transactor), delayedcheck.WithWitness(witness), delayedcheck.WithSenderHooks(hooks))
	s.to.nothingLost(b, n)
	s.allSold(b, n)
	return result
}

// allSold fails b unless the business has n rows.
func (s shop) allSold(b *testing.B, n int) {
	b.Helper()
	var rows int
	require.NoError(b, s.db.QueryRow("SELECT COUNT(*) FROM business").Scan(&rows))
	require.Equal(b, n, rows)
}

// witnessOf is the witness that writes nothing.
func witnessOf(b *testing.B, d database, db *sql.DB) reliable.Witness {
	b.Helper()
	var witness reliable.Witness
	var err error
	if d.name == postgres.name {
		witness, err = postgresstore.NewWitness(db)
	} else {
		witness, err = mysqlstore.NewRowWitness(db, mysqlstore.WitnessRow{
			Table: "business", Column: "id",
			Promise: mysqlstore.RowPromise{
				TransactionInserts: true, KeyIsUnique: true, NeverDeletedInTime: true, SameWritableNode: true, IDDerivesFromRow: true,
			},
		})
	}
	require.NoError(b, err)
	return witness
}
