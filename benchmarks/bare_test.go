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

	"github.com/waybillmq/waybill/reliable"
)

const (
	payloadBytes = 256
	window       = 1000
	// bareRows is how many rows the bare loops put into one statement.
	bareRows = 500
)

// barePublish returns P: confirmed publishes per second of a bare client with persistent, mandatory messages that carry an
// id, and a window of unconfirmed ones, on one channel.
func barePublish(b *testing.B, url, queue string, n int) float64 {
	b.Helper()
	conn, err := amqp.Dial(url)
	require.NoError(b, err)
	defer func() { require.NoError(b, conn.Close()) }()
	channel, err := conn.Channel()
	require.NoError(b, err)
	require.NoError(b, channel.Confirm(false))
	_, err = channel.QueuePurge(queue, false)
	require.NoError(b, err)
	returns := channel.NotifyReturn(make(chan amqp.Return, window))

	payload := make([]byte, payloadBytes)
	inFlight := make([]*amqp.DeferredConfirmation, 0, window)
	ctx := context.Background()
	start := time.Now()
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
	require.Empty(b, returns)
	return float64(n) / elapsed.Seconds()
}

// bareStore returns S: rows per second of a loop, on one connection, of one multi-row INSERT and one multi-row UPDATE of
// the status of the same rows, in a table like the store's own without what Waybill needs beside it.
func bareStore(b *testing.B, d database, db *sql.DB, n int) float64 {
	b.Helper()
	ctx := context.Background()
	conn, err := db.Conn(ctx)
	require.NoError(b, err)
	defer func() { require.NoError(b, conn.Close()) }()
	_, err = conn.ExecContext(ctx, "DROP TABLE IF EXISTS bare")
	require.NoError(b, err)
	for _, statement := range bareSchema[d.name] {
		_, err = conn.ExecContext(ctx, statement)
		require.NoError(b, err)
	}

	insert := bareInsert(d, bareRows)
	update := bareUpdate(d, bareRows)
	payload := make([]byte, payloadBytes)
	start := time.Now()
	for done := 0; done < n; done += bareRows {
		args, ids := make([]any, 0, 6*bareRows), make([]any, 0, bareRows)
		due := time.Now().Add(time.Minute).UnixMicro()
		for range bareRows {
			id := string(reliable.NewID())
			args = append(args, id, "orders", 0, due, due, payload)
			ids = append(ids, id)
		}
		_, err := conn.ExecContext(ctx, insert, args...)
		require.NoError(b, err)
		result, err := conn.ExecContext(ctx, update, ids...)
		require.NoError(b, err)
		affected, err := result.RowsAffected()
		require.NoError(b, err)
		require.EqualValues(b, bareRows, affected)
	}
	return float64(n) / time.Since(start).Seconds()
}

var bareSchema = map[string][]string{
	"mariadb": {`CREATE TABLE bare (id VARBINARY(128) NOT NULL PRIMARY KEY, topic VARBINARY(255) NOT NULL, status TINYINT NOT NULL,
		due BIGINT NOT NULL, stored_at BIGINT NOT NULL, payload LONGBLOB NOT NULL, KEY bare_due (status, due)) ENGINE=InnoDB`},
	"postgres": {`CREATE TABLE bare (id text COLLATE "C" PRIMARY KEY, topic text NOT NULL, status smallint NOT NULL,
		due bigint NOT NULL, stored_at bigint NOT NULL, payload bytea NOT NULL) WITH (fillfactor = 80)`,
		`CREATE INDEX bare_due ON bare (status, due)`},
	"sqlite": {`CREATE TABLE bare (id TEXT PRIMARY KEY, topic TEXT NOT NULL, status INTEGER NOT NULL,
		due INTEGER NOT NULL, stored_at INTEGER NOT NULL, payload BLOB NOT NULL) WITHOUT ROWID`,
		`CREATE INDEX bare_due ON bare (status, due)`},
}

func bareInsert(d database, rows int) string {
	var text strings.Builder
	text.WriteString("INSERT INTO bare (id, topic, status, due, stored_at, payload) VALUES ")
	for row := range rows {
		if row > 0 {
			text.WriteString(", ")
		}
		text.WriteString("(")
		for column := range 6 {
			if column > 0 {
				text.WriteString(", ")
			}
			text.WriteString(d.placeholder(row*6 + column + 1))
		}
		text.WriteString(")")
	}
	return text.String()
}

func bareUpdate(d database, rows int) string {
	var text strings.Builder
	text.WriteString("UPDATE bare SET status = 1 WHERE status = 0 AND id IN (")
	for row := range rows {
		if row > 0 {
			text.WriteString(", ")
		}
		text.WriteString(d.placeholder(row + 1))
	}
	text.WriteString(")")
	return text.String()
}
