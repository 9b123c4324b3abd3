//go:build services

package peers

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
)

// watermillForwarder is Watermill's forwarder: messages are published, in envelopes, to a topic in the database, and a router
// forwards them to the broker.
var watermillForwarder = contender{name: "forwarder", open: openForwarder}

// forwarderTopic is the topic in the database.
const forwarderTopic = "events_to_forward"

type forwarderOutbox struct {
	t        testing.TB
	database database
	db       *sql.DB
	to       destination
	schema   wsql.SchemaAdapter
	offsets  wsql.OffsetsAdapter
	// plain publishes without a transaction of the caller's.
	plain message.Publisher
}

func openForwarder(t testing.TB, d database, to destination) carrier {
	t.Helper()
	f := &forwarderOutbox{t: t, database: d, db: d.open(t, ""), to: to}
	f.schema, f.offsets = wsql.DefaultMySQLSchema{SubscribeBatchSize: forwarderBatch}, wsql.DefaultMySQLOffsetsAdapter{}
	if d.product == postgres {
		f.schema, f.offsets = wsql.DefaultPostgreSQLSchema{SubscribeBatchSize: forwarderBatch}, wsql.DefaultPostgreSQLOffsetsAdapter{}
	}
	require.NoError(t, f.subscriber().SubscribeInitialize(forwarderTopic))
	f.plain = f.publisher(f.db)
	return f
}

const (
	// forwarderBatch is how many messages watermill-sql reads at a time, which is its default.
	forwarderBatch = 100
	// forwarderPoll is how long it waits when it has found nothing; its default is a second.
	forwarderPoll = 10 * time.Millisecond
)

func (f *forwarderOutbox) subscriber() *wsql.Subscriber {
	f.t.Helper()
	s, err := wsql.NewSubscriber(f.db, wsql.SubscriberConfig{
		ConsumerGroup: "forwarder", PollInterval: forwarderPoll, SchemaAdapter: f.schema, OffsetsAdapter: f.offsets,
		InitializeSchema: true,
	}, watermill.NopLogger{})
	require.NoError(f.t, err)
	return s
}

// publisher publishes to the database in envelopes for the forwarder.
func (f *forwarderOutbox) publisher(to wsql.ContextExecutor) message.Publisher {
	p, err := wsql.NewPublisher(to, wsql.PublisherConfig{SchemaAdapter: f.schema}, watermill.NopLogger{})
	if err != nil {
		panic(err) // the configuration is wrong
	}
	return forwarder.NewPublisher(p, forwarder.PublisherConfig{ForwarderTopic: forwarderTopic})
}

// out publishes to the broker and waits for its confirms.
func (f *forwarderOutbox) out() message.Publisher {
	f.t.Helper()
	switch to := f.to.(type) {
	case *kafkaTopic:
		client := wkafka.DefaultSaramaSyncPublisherConfig()
		client.Producer.RequiredAcks = sarama.WaitForAll
		p, err := wkafka.NewPublisher(wkafka.PublisherConfig{
			Brokers: to.brokers, Marshaler: wkafka.DefaultMarshaler{}, OverwriteSaramaConfig: client,
		}, watermill.NopLogger{})
		require.NoError(f.t, err)
		return p
	case *quorumQueue:
		config := wamqp.NewDurableQueueConfig(to.url)
		config.Queue.Arguments = quorum
		config.Publish.ConfirmDelivery = true
		config.Publish.ChannelPoolSize = 4 // without a pool it opens a channel for each message
		p, err := wamqp.NewPublisher(config, watermill.NopLogger{})
		require.NoError(f.t, err)
		return p
	}
	require.Fail(f.t, "no such broker")
	return nil
}

func (f *forwarderOutbox) relay() (stop func()) {
	f.t.Helper()
	out := f.out()
	relay, err := forwarder.NewForwarder(f.subscriber(), out, watermill.NopLogger{}, forwarder.Config{
		ForwarderTopic: forwarderTopic, CloseTimeout: 10 * time.Second,
	})
	require.NoError(f.t, err)
	ran := make(chan error, 1)
	go func() { ran <- relay.Run(context.Background()) }()
	<-relay.Running()
	return func() {
		// What is left behind by one that does not stop is seen in the counts.
		if err := errors.Join(relay.Close(), <-ran, out.Close()); err != nil {
			f.t.Logf("forwarder: stop: %v", err)
		}
	}
}

func (f *forwarderOutbox) send(_ context.Context, topic string, content []byte) error {
	return again(func() error { return f.plain.Publish(topic, message.NewMessage(watermill.NewUUID(), content)) })
}

func (f *forwarderOutbox) sell(ctx context.Context, sale int, topic string, content []byte) error {
	return again(func() error {
		tx, err := f.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // after COMMIT it does nothing
		if _, err := tx.ExecContext(ctx, f.database.sale(), sale); err != nil {
			return err
		}
		if err := f.publisher(tx).Publish(topic, message.NewMessage(watermill.NewUUID(), content)); err != nil {
			return err
		}
		return tx.Commit()
	})
}

// again repeats what the server broke off in favour of the subscriber, which reads at SERIALIZABLE on MySQL.
func again(work func() error) error {
	for {
		err := work()
		if err == nil {
			return nil
		}
		if text := strings.ToLower(err.Error()); !strings.Contains(text, "deadlock") && !strings.Contains(text, "lock wait") {
			return err
		}
	}
}
