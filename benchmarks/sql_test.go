//go:build services

package benchmarks

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/benchmarks/pairs"
)

// forwarded is how many messages the forwarder moves, which takes a message at a time.
const forwarded = 2_000

func (d database) sqlKind() sqlbroker.Dialect {
	if d.name == postgres.name {
		return sqlbroker.Postgres
	}
	return sqlbroker.MySQL
}

// emptyTable makes the tables of a topic and returns its name and a function that counts its messages.
func emptyTable(b *testing.B, d database, db *sql.DB) (name string, count func() int) {
	b.Helper()
	name = fmt.Sprint(topic, time.Now().UnixNano())
	s, err := sqlbroker.New(d.sqlKind(), db)
	require.NoError(b, err)
	require.NoError(b, s.Declare(context.Background(), name))
	require.NoError(b, s.Close())
	return name, func() (n int) {
		require.NoError(b, db.QueryRow("SELECT COUNT(*) FROM watermill_"+name).Scan(&n))
		return n
	}
}

// sqlTables is a broker in the database of db.
func sqlTables(b *testing.B, d database, db *sql.DB) broker {
	b.Helper()
	name, count := emptyTable(b, d, db)
	s, err := sqlbroker.New(d.sqlKind(), db, sqlbroker.WithWindow(window))
	require.NoError(b, err)
	require.NoError(b, s.Ping(context.Background()))
	return broker{name, s, s, count, func() { require.NoError(b, s.Close()) }}
}

// forward returns the rate at which messages get from one database to another by Watermill's forwarder, from its
// publisher's being called by as many goroutines as ours is, one message a call, until all have arrived.
func forward(b *testing.B, d database, from, to *sql.DB, n int) float64 {
	b.Helper()
	logger := watermill.NopLogger{}
	schema, offsets, err := sqlbroker.Adapters(d.sqlKind(), 100) // as many as watermill-sql reads by default
	require.NoError(b, err)
	source, _ := emptyTable(b, d, from)
	target, arrived := emptyTable(b, d, to)

	subscriber, err := wsql.NewSubscriber(from, wsql.SubscriberConfig{
		ConsumerGroup: "forwarder", PollInterval: 10 * time.Millisecond, SchemaAdapter: schema, OffsetsAdapter: offsets,
	}, logger)
	require.NoError(b, err)
	out, err := wsql.NewPublisher(to, wsql.PublisherConfig{SchemaAdapter: schema}, logger)
	require.NoError(b, err)
	f, err := forwarder.NewForwarder(subscriber, out, logger, forwarder.Config{ForwarderTopic: source})
	require.NoError(b, err)
	ran := make(chan error, 1)
	go func() { ran <- f.Run(context.Background()) }()
	<-f.Running()

	plain, err := wsql.NewPublisher(from, wsql.PublisherConfig{SchemaAdapter: schema}, logger)
	require.NoError(b, err)
	publisher := forwarder.NewPublisher(plain, forwarder.PublisherConfig{ForwarderTopic: source})
	payload := make([]byte, payloadBytes)
	start, used := time.Now(), pairs.StartMeter()
	var calling sync.WaitGroup
	for g := range publishers {
		calling.Go(func() {
			for i := g; i < n; i += publishers {
				if !publishPlain(b, publisher, target, message.NewMessage(fmt.Sprintf("f%d", i), payload)) {
					return
				}
			}
		})
	}
	calling.Wait()
	// On MySQL a subscriber of watermill-sql never comes back for a message that committed after one with a higher offset.
	const quiet = 5 * time.Second
	there, last := 0, time.Now()
	for there < n && time.Since(last) < quiet {
		if now := arrived(); now > there {
			there, last = now, time.Now()
		}
		time.Sleep(2 * time.Millisecond)
	}
	elapsed := last.Sub(start)
	used.Log(b, "forwarder", there)
	if there < n {
		b.Logf("the forwarder left %d of %d messages behind", n-there, n)
	}
	require.NoError(b, f.Close())
	require.NoError(b, <-ran)
	return float64(there) / elapsed.Seconds()
}

// publishPlain publishes a message, again when the server broke the statement off in favour of the subscriber's.
func publishPlain(b *testing.B, publisher message.Publisher, topic string, msg *message.Message) bool {
	for {
		err := publisher.Publish(topic, msg)
		if err == nil {
			return true
		}
		if text := strings.ToLower(err.Error()); !strings.Contains(text, "deadlock") && !strings.Contains(text, "lock wait") {
			b.Error(err)
			return false
		}
	}
}

// Both sides move messages from one database to another one of the same server.
func BenchmarkSQLForwarder(b *testing.B) {
	for _, d := range []database{mariaDB, postgres} {
		b.Run(d.name, func(b *testing.B) {
			db, store := d.open(b)
			other, _ := d.open(b)
			pairs.Compare(b, "sql-vs-forwarder-"+d.name, "tagging end to end through sqlbroker", "Watermill's forwarder",
				func(b *testing.B) float64 { return forward(b, d, db, other, forwarded) },
				func(b *testing.B) float64 {
					to := sqlTables(b, d, other)
					defer to.close()
					return publishAll(b, d, db, store, to, endToEnd)
				})
		})
	}
}

// Within one database the hand-over is a transaction of the store, and settles as it goes.
func BenchmarkSQLHandOver(b *testing.B) {
	for _, d := range []database{mariaDB, postgres} {
		b.Run(d.name, func(b *testing.B) {
			db, store := d.open(b)
			other, _ := d.open(b)
			pairs.Compare(b, "sql-handover-"+d.name, "tagging in one database", "tagging between two",
				func(b *testing.B) float64 {
					to := sqlTables(b, d, other)
					defer to.close()
					return publishAll(b, d, db, store, to, endToEnd)
				},
				func(b *testing.B) float64 {
					to := sqlTables(b, d, db)
					defer to.close()
					return publishAll(b, d, db, store, to, endToEnd)
				})
		})
	}
}
