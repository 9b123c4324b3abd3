//go:build services

package benchmarks

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/benchmarks/pairs"
	"github.com/waybillmq/waybill/reliable"
)

const (
	payloadBytes = 256
	window       = 1000
	// bareInserts and bareUpdates are how many rows the bare loops put into one statement: as many messages as the
	// publishers of the other side can have on the way to the store, and a full batch of outcomes.
	bareInserts = publishers
	bareUpdates = 960
)

// barePublish returns P: confirmed publishes per second of a bare client with persistent, mandatory messages that carry an
// id, and a window of unconfirmed ones, on one channel.
func barePublish(b *testing.B, url, queue string, n int) float64 {
	b.Helper()
	channel, hangUp := confirming(b, url)
	defer hangUp()
	_, err := channel.QueuePurge(queue, false)
	require.NoError(b, err)
	returns := channel.NotifyReturn(make(chan amqp.Return, window))

	payload := make([]byte, payloadBytes)
	inFlight := make([]*amqp.DeferredConfirmation, 0, window)
	ctx := context.Background()
	start, used := time.Now(), pairs.StartMeter()
	for i := range n {
		if len(inFlight) == cap(inFlight) {
			require.True(b, inFlight[0].Wait())
			inFlight = append(inFlight[:0], inFlight[1:]...)
		}
		confirmation, err := channel.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false, amqp.Publishing{
			MessageId: fmt.Sprintf("bare-%032d", i), DeliveryMode: amqp.Persistent, Body: payload,
		})
		require.NoError(b, err)
		inFlight = append(inFlight, confirmation)
	}
	for _, confirmation := range inFlight {
		require.True(b, confirmation.Wait())
	}
	elapsed := time.Since(start)
	used.Log(b, "P", n)
	require.Empty(b, returns)
	return float64(n) / elapsed.Seconds()
}

// confirming opens a channel in confirm mode on a connection of its own.
func confirming(b *testing.B, url string) (channel *amqp.Channel, hangUp func()) {
	b.Helper()
	conn, err := amqp.Dial(url)
	require.NoError(b, err)
	channel, err = conn.Channel()
	require.NoError(b, err)
	require.NoError(b, channel.Confirm(false))
	return channel, func() { require.NoError(b, conn.Close()) }
}

// bareColumns are the columns of the stores' own tables, which have the same names everywhere.
var bareColumns = []string{
	"id", "topic", "okey", "metadata", "payload", "size", "stored_at", "due", "fence", "attempts", "flags", "deadline", "worker",
}

// bareStore returns S: rows per second of a loop, on one connection, of one multi-row INSERT and one multi-row UPDATE of
// the status of the same rows, with the same columns and indexes as the store's.
func bareStore(b *testing.B, d database, db *sql.DB, n int) float64 {
	b.Helper()
	ctx := context.Background()
	conn, err := db.Conn(ctx)
	require.NoError(b, err)
	defer func() { require.NoError(b, conn.Close()) }()
	empty(b, d, db)

	insert, update := bareInsert(d, bareInserts), bareUpdate(d, bareUpdates)
	payload, worker := make([]byte, payloadBytes), "a-host/12345/0123456789ab"
	args, ids := make([]any, 0, len(bareColumns)*bareInserts), make([]any, 0, bareUpdates)
	start, used, done := time.Now(), pairs.StartMeter(), 0
	for done < n {
		args = args[:0]
		now := time.Now().UnixMicro()
		for range bareInserts {
			id := string(reliable.NewID())
			args = append(args, id, topic, "", []byte{}, payload, payloadBytes, now, now+60_000_000, 1, 1, 1, 0, worker)
			ids = append(ids, id)
		}
		_, err := conn.ExecContext(ctx, insert, args...)
		require.NoError(b, err)
		if len(ids) == bareUpdates {
			result, err := conn.ExecContext(ctx, update, ids...)
			require.NoError(b, err)
			affected, err := result.RowsAffected()
			require.NoError(b, err)
			require.EqualValues(b, bareUpdates, affected)
			ids, done = ids[:0], done+bareUpdates
		}
	}
	rate := float64(done) / time.Since(start).Seconds()
	used.Log(b, "S", done)
	return rate
}

// empty makes the outbox as if it were new, so that neither side of a pair pays for the rows of the other.
func empty(b *testing.B, d database, db *sql.DB) {
	b.Helper()
	emptyOf(b, d, db, "waybill_outbox")
}

// emptyOf empties a table.
func emptyOf(b *testing.B, d database, db *sql.DB, table string) {
	b.Helper()
	statement := "TRUNCATE TABLE "
	if d.name == sqlite.name {
		statement = "DELETE FROM "
	}
	_, err := db.Exec(statement + table)
	require.NoError(b, err)
}

func bareInsert(d database, rows int) string {
	columns := len(bareColumns)
	var text strings.Builder
	text.WriteString("INSERT INTO waybill_outbox (" + strings.Join(bareColumns, ", ") + ") VALUES ")
	for row := range rows {
		if row > 0 {
			text.WriteString(", ")
		}
		text.WriteString("(" + placeholders(d, row*columns, columns) + ")")
	}
	return text.String()
}

func bareUpdate(d database, rows int) string {
	return "UPDATE waybill_outbox SET status = 1 WHERE status = 0 AND id IN (" + placeholders(d, 0, rows) + ")"
}

// placeholders returns count parameters after the first skip.
func placeholders(d database, skip, count int) string {
	list := make([]string, count)
	for i := range list {
		list[i] = d.placeholder(skip + i + 1)
	}
	return strings.Join(list, ", ")
}
