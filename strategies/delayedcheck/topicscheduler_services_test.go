//go:build services

package delayedcheck_test

import (
	"database/sql"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/schedulertest"
)

const (
	kafkaPartitions = 4
	// atOnce is how many messages of a partition are on their way into the outbox at a time.
	atOnce = 1000
)

// keptIn opens the store in which the receiving side keeps what is not due.
type keptIn func(t testing.TB) reliable.Store

func inMariaDB(t testing.TB) reliable.Store {
	t.Helper()
	store, err := mysqlstore.New(pooled(t, "mysql", testenv.MariaDB(t)+"?interpolateParams=true"))
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	return store
}

func inPostgres(t testing.TB) reliable.Store {
	t.Helper()
	store, err := postgresstore.New(pooled(t, "pgx", testenv.Postgres(t)))
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	return store
}

// pooled opens a pool that keeps its connections, as a service's does.
func pooled(t testing.TB, driver, address string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, address)
	require.NoError(t, err)
	db.SetMaxIdleConns(20)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db
}

// throughKafka is a scheduler over a topic of Kafka.
func throughKafka(t testing.TB, open keptIn, brokers []string, topic func() string) schedulertest.Subject {
	t.Helper()
	store := open(t)
	broker, err := kafkabroker.New(brokers)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, broker.Close()) })
	outbox := relaying(t, store, broker, broker)
	return schedulertest.Subject{
		Scheduler: topicScheduler(t, broker.Watermill()),
		Topic:     func(testing.TB) string { return topic() },
		Subscribe: func(t testing.TB, topic string) <-chan *message.Message {
			subscriber, err := broker.Subscriber(topic+"-service", kafkabroker.WithConcurrency(atOnce))
			require.NoError(t, err)
			return postponing(t, subscriber, topic, outbox)
		},
		Reopen: func(t testing.TB) reliable.Scheduler { return topicScheduler(t, broker.Watermill()) },
	}
}

func onKafka(open keptIn) func(t testing.TB) schedulertest.Subject {
	return func(t testing.TB) schedulertest.Subject {
		t.Helper()
		place := testenv.Kafka(t)
		var topics atomic.Int64
		return throughKafka(t, open, place.Brokers, func() string {
			return place.Topic(fmt.Sprint("checks-", topics.Add(1)), kafkaPartitions)
		})
	}
}

func TestTopicScheduler_conformsOnKafka(t *testing.T) {
	schedulertest.Run(t, schedulertest.Harness{
		Delay: time.Second, Tolerance: 5 * time.Second, Volume: 800, TooLong: 20 * 365 * 24 * time.Hour,
		Open: onKafka(inMariaDB),
		OpenToCrash: func(t testing.TB) schedulertest.Subject {
			server := testservers.StartKafka(t)
			var topics atomic.Int64
			s := throughKafka(t, inMariaDB, server.Brokers(), func() string {
				name := fmt.Sprint("checks-", topics.Add(1))
				server.CreateTopic(name, kafkaPartitions)
				return name
			})
			s.Crash = func(testing.TB) {
				server.Kill()
				server.Start()
			}
			return s
		},
	})
}
