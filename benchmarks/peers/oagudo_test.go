//go:build services

package peers

import (
	"context"
	"database/sql"
	"strings"
	"testing"
	"time"

	"github.com/oagudo/outbox"
	"github.com/stretchr/testify/require"
)

// oagudo/outbox in three ways.
var (
	// oagudoDefault has no option set.
	oagudoDefault = contender{name: "oagudo by default", open: func(t testing.TB, d database, to destination) carrier {
		return openOagudo(t, d, to, false)
	}, quiet: 30 * time.Second} // of which it sleeps ten
	// oagudoReader has the reader tuned: it publishes one message at a time, so that it never waits between two batches
	// is what there is to gain.
	oagudoReader = contender{name: "oagudo's reader, tuned", open: func(t testing.TB, d database, to destination) carrier {
		return openOagudo(t, d, to, false,
			outbox.WithInterval(time.Millisecond), outbox.WithReadBatchSize(1000), outbox.WithDeleteBatchSize(1000))
	}}
	// oagudoOptimistic publishes right after COMMIT, which the library offers for speed, and leaves to a reader what failed.
	oagudoOptimistic = contender{name: "oagudo, optimistic", open: func(t testing.TB, d database, to destination) carrier {
		return openOagudo(t, d, to, true, outbox.WithReadBatchSize(1000), outbox.WithDeleteBatchSize(1000))
	}}
)

// oagudoTuned is the ways to tune it: which one is faster depends on what the database has to do beside.
var oagudoTuned = []contender{oagudoReader, oagudoOptimistic}

// The tables as the library's documentation has them.
const (
	oagudoPostgres = `
CREATE TABLE IF NOT EXISTS outbox (
    id UUID PRIMARY KEY,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    scheduled_at TIMESTAMP WITH TIME ZONE NOT NULL,
    metadata BYTEA,
    payload BYTEA NOT NULL,
    times_attempted INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS idx_outbox_created_at ON outbox (created_at);
CREATE INDEX IF NOT EXISTS idx_outbox_scheduled_at ON outbox (scheduled_at)`
	oagudoMariaDB = `
CREATE TABLE IF NOT EXISTS outbox (
    id UUID PRIMARY KEY,
    created_at TIMESTAMP(3) NOT NULL,
    scheduled_at TIMESTAMP(3) NOT NULL,
    metadata BLOB,
    payload BLOB NOT NULL,
    times_attempted INT NOT NULL
);
CREATE INDEX idx_outbox_created_at ON outbox (created_at);
CREATE INDEX idx_outbox_scheduled_at ON outbox (scheduled_at)`
)

type oagudo struct {
	database database
	context  *outbox.DBContext
	writer   *outbox.Writer
	options  []outbox.ReaderOption
	// publisher publishes to the queue that the metadata names.
	publisher outbox.MessagePublisher
}

// publishing is the publisher as the library takes it.
type publishing struct{ *confirmed }

func (p publishing) Publish(ctx context.Context, msg *outbox.Message) error {
	return p.publish(ctx, string(msg.Metadata), msg.ID.String(), msg.Payload)
}

func openOagudo(t testing.TB, d database, to destination, optimistic bool, options ...outbox.ReaderOption) carrier {
	t.Helper()
	queue, ok := to.(*quorumQueue)
	require.True(t, ok, "for RabbitMQ only")
	o := &oagudo{database: d, options: options, publisher: publishing{newConfirmed(t, queue.url)}}
	db, table, dialect := (*sql.DB)(nil), oagudoPostgres, outbox.SQLDialectPostgres
	if d.product == mariaDB {
		db, table, dialect = d.open(t, "&parseTime=true"), oagudoMariaDB, outbox.SQLDialectMariaDB
	} else {
		db = d.open(t, "")
	}
	for statement := range strings.SplitSeq(table, ";") {
		_, err := db.Exec(statement)
		require.NoError(t, err)
	}
	o.context = outbox.NewDBContext(db, dialect)
	var writing []outbox.WriterOption
	if optimistic {
		writing = append(writing, outbox.WithOptimisticPublisher(o.publisher))
	}
	o.writer = outbox.NewWriter(o.context, writing...)
	return o
}

func (o *oagudo) relay() (stop func()) {
	reader := outbox.NewReader(o.context, o.publisher, o.options...)
	reader.Start()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = reader.Stop(ctx) // what it did not send in time is seen in the counts
	}
}

func (o *oagudo) send(ctx context.Context, topic string, content []byte) error {
	return o.store(ctx, topic, content, func(context.Context, outbox.TxQueryer) error { return nil })
}

func (o *oagudo) sell(ctx context.Context, sale int, topic string, content []byte) error {
	return o.store(ctx, topic, content, func(ctx context.Context, tx outbox.TxQueryer) error {
		_, err := tx.ExecContext(ctx, o.database.sale(), sale)
		return err
	})
}

func (o *oagudo) store(ctx context.Context, topic string, content []byte, work outbox.TxWorkFunc) error {
	return o.writer.WriteOne(ctx, outbox.NewMessage(content, outbox.WithMetadata([]byte(topic))), work)
}
