//go:build services

package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// toKafka makes connections to brokers.
func toKafka(brokers []string, options ...kafkabroker.Option) func(testing.TB) connection {
	return func(t testing.TB) connection {
		t.Helper()
		broker, err := kafkabroker.New(brokers, append([]kafkabroker.Option{
			kafkabroker.WithLogger(quiet(t)), kafkabroker.WithConfirmTimeout(2 * time.Second),
		}, options...)...)
		require.NoError(t, err)
		return broker
	}
}

// throughProxy sends all connections through a proxy, whatever address a broker names.
func throughProxy(proxy *faultproxy.Proxy) kafkabroker.Option {
	return kafkabroker.WithDialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, proxy.Addr())
	})
}

// fromKafka reads a topic from its beginning to its end with a bare client, and returns the message ids in the order in
// which each partition has them.
func fromKafka(t testing.TB, brokers []string, topic string, partitions int) (ids []string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic))
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	left := recordsOn(ctx, t, client, topic, partitions)
	for left > 0 {
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err(), "%d records are still to come", left)
		fetches.EachRecord(func(record *kgo.Record) {
			ids = append(ids, string(record.Headers[0].Value)) // the adapter writes the id first
			left--
		})
	}
	return ids
}

// recordsOn asks how many records a topic has.
func recordsOn(ctx context.Context, t testing.TB, client *kgo.Client, topic string, partitions int) (n int64) {
	t.Helper()
	request := kmsg.NewPtrListOffsetsRequest()
	asked := kmsg.NewListOffsetsRequestTopic()
	asked.Topic = topic
	for partition := range partitions {
		end := kmsg.NewListOffsetsRequestTopicPartition()
		end.Partition, end.Timestamp = int32(partition), -1
		asked.Partitions = append(asked.Partitions, end)
	}
	request.Topics = append(request.Topics, asked)
	response, err := request.RequestWith(ctx, client)
	require.NoError(t, err)
	for _, answered := range response.Topics {
		for _, partition := range answered.Partitions {
			require.NoError(t, kerr.ErrorForCode(partition.ErrorCode))
			n += partition.Offset
		}
	}
	return n
}

func receiptsOf(ids []string) map[string]int {
	receipts := make(map[string]int)
	for _, id := range ids {
		receipts[id]++
	}
	return receipts
}

// kafkaFault breaks a real Kafka under load, and heals it before it returns.
type kafkaFault struct {
	name     string
	database func(testing.TB) database
	// What lasts longer than the confirm timeout leaves unknown outcomes; shorter faults the client outlasts by itself.
	unknown bool
	breakIt func(kafka *testservers.Kafka, proxy *faultproxy.Proxy)
}

func kafkaKilled(kafka *testservers.Kafka, _ *faultproxy.Proxy) {
	kafka.Kill()
	time.Sleep(5 * time.Second) // however fast it would start
	kafka.Start()
}

var kafkaFaults = []kafkaFault{
	{"killed, on MariaDB", mariaDB, true, kafkaKilled},
	{"killed, on PostgreSQL", postgres, true, kafkaKilled},
	{"restarted", mariaDB, false, func(kafka *testservers.Kafka, _ *faultproxy.Proxy) {
		kafka.Stop()
		kafka.Start()
	}},
	{"paused", postgres, true, func(kafka *testservers.Kafka, _ *faultproxy.Proxy) {
		kafka.Pause()
		time.Sleep(outage)
		kafka.Resume()
	}},
	{"cut before the answer", mariaDB, false, func(_ *testservers.Kafka, proxy *faultproxy.Proxy) {
		for range 5 {
			proxy.DropDownstream(true)
			time.Sleep(200 * time.Millisecond)
			proxy.CutAll()
			proxy.DropDownstream(false)
			time.Sleep(200 * time.Millisecond)
		}
	}},
	// What the client sends again after the silence is recognised by the node: most of it, or all, has its verdict then.
	{"silent for long", postgres, false, func(_ *testservers.Kafka, proxy *faultproxy.Proxy) {
		proxy.DropDownstream(true)
		time.Sleep(5 * time.Second)
		proxy.CutAll()
		proxy.DropDownstream(false)
	}},
}

// One node serves all faults, one after the other: several at a time are too much for a small machine.
func TestKafkaFault_losesNothingFailsNothingAndHealsByItself(t *testing.T) {
	t.Parallel()
	kafka := testservers.StartKafka(t)
	for i, fault := range kafkaFaults {
		t.Run(fault.name, func(t *testing.T) {
			const partitions = 3
			topic := fmt.Sprint(queue, "-", i)
			kafka.CreateTopic(topic, partitions)
			proxy := faultproxy.New(t, kafka.Addr())
			r := newRig(t, rigConfig{
				database: fault.database(t), topic: topic, connect: toKafka(kafka.Brokers(), throughProxy(proxy)),
			})
			r.survives(func() { fault.breakIt(kafka, proxy) })
			if fault.unknown {
				assert.NotZero(t, r.seen.outcome(reliable.Unknown), "the fault must have met messages in flight")
			}
			r.audit(receiptsOf(fromKafka(t, kafka.Brokers(), topic, partitions)))
		})
	}
}

// On kfake, franz-go's emulator: a healthy node of one does not lose its leadership.
func TestKafkaFault_withoutALeaderNothingIsLostAndNothingFails(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, queue))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	r := newRig(t, rigConfig{database: postgres(t), connect: toKafka(cluster.ListenAddrs())})
	r.survives(func() {
		fault := cluster.Fault(
			kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: queue, Err: kerr.NotLeaderForPartition, Count: -1},
			kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: queue, Err: kerr.LeaderNotAvailable, Count: -1},
		)
		time.Sleep(5 * time.Second)
		fault.Remove()
	})
	assert.NotZero(t, r.seen.outcome(reliable.Unknown), "the fault must have met messages in flight")
	r.audit(receiptsOf(fromKafka(t, cluster.ListenAddrs(), queue, 3)))
}

func TestKafkaRefusal_aMissingTopicHoldsUpNoOtherAndEndsOnceTheTopicIsThere(t *testing.T) {
	t.Parallel()
	place := testenv.Kafka(t)
	present, missing := place.Topic(queue, 2), place.Name(refusedTopic)
	r := newRig(t, rigConfig{database: mariaDB(t), connect: toKafka(place.Brokers, kafkabroker.WithConfirmTimeout(unhurried)), outbox: leisurely})
	refused := publishAll(t, r, missing, "refused", 1000)
	healthy := publishAll(t, r, present, "healthy", 1000)
	require.Eventually(t, func() bool { return r.hasAll(reliable.Confirmed, healthy) }, patience, 50*time.Millisecond)
	require.Eventually(t, func() bool { return r.seen.outcome(reliable.Returned) > 4 }, patience, 50*time.Millisecond)
	assert.Zero(t, r.count(reliable.Confirmed, refused))

	place.Topic(refusedTopic, 2)
	r.eventuallySettled()
	assert.True(t, r.hasAll(reliable.Confirmed, refused))
	assert.Zero(t, r.seen.outcome(reliable.Unknown), "nothing was out of reach")
	assert.Len(t, receiptsOf(fromKafka(t, place.Brokers, missing, 2)), len(refused))
	assert.Len(t, fromKafka(t, place.Brokers, present, 2), len(healthy), "the healthy ones arrive once each")
}

func TestKafkaRefusal_ofAMissingTopicFailsItsMessagesOnlyAfterTheBudget(t *testing.T) {
	t.Parallel()
	place := testenv.Kafka(t)
	r := newRig(t, rigConfig{database: postgres(t), connect: toKafka(place.Brokers), outbox: brief})
	stored := time.Now()
	refused := publishAll(t, r, place.Name(refusedTopic), "refused", 500)
	var first time.Time
	require.Eventually(t, func() bool {
		looked, failed := time.Now(), r.count(reliable.Failed, refused)
		if failed > 0 && first.IsZero() {
			first = looked
		}
		return failed == len(refused)
	}, patience, 20*time.Millisecond)
	assert.GreaterOrEqual(t, first.Sub(stored), budget, "nothing may fail before the budget is used up")
}

func TestKafkaPoison_aRecordThatIsTooLargeIsFoundAndItsNeighboursArrive(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			const limit = 64 << 10 // of the topic; the adapter believes in more
			place := testenv.Kafka(t)
			topic := place.Name(queue)
			require.NoError(t, testenv.CreateKafkaTopic(place.Brokers, topic, 1, [2]string{"max.message.bytes", fmt.Sprint(limit)}))
			r := newRig(t, rigConfig{database: makeDatabase(t), connect: toKafka(place.Brokers, kafkabroker.WithConfirmTimeout(unhurried)), outbox: leisurely})
			envs := make([]reliable.Envelope, 400)
			for i := range envs {
				envs[i] = reliable.Envelope{ID: reliable.ID(fmt.Sprintf("m-%d", i)), Topic: topic, Payload: []byte("x")}
			}
			envs[200].Payload = incompressible(limit)
			_, err := r.store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envs...)
			require.NoError(t, err)
			r.eventuallySettled()
			assert.Equal(t, map[string]bool{"m-200": true}, r.withStatus(reliable.Failed))
			assert.Contains(t, r.lastReason("m-200"), "MESSAGE_TOO_LARGE")
			assert.NotZero(t, r.seen.outcome(reliable.Unknown), "the poison must have met neighbours in its batch")
			assert.Len(t, fromKafka(t, place.Brokers, topic, 1), 399, "what was refused with it was not written, so there are no copies")
		})
	}
}

func incompressible(bytes int) []byte {
	payload := make([]byte, bytes)
	_, _ = rand.NewChaCha8([32]byte{}).Read(payload) // never fails
	return payload
}

func TestKafkaOrder_ofEachKeyHoldsThroughARestartOfTheBroker(t *testing.T) {
	t.Parallel()
	kafka := testservers.StartKafka(t)
	for kind, makeDatabase := range databases {
		t.Run(kind, func(t *testing.T) {
			const keys, perKey, partitions = 8, 60, 3
			topic := queue + "-" + kind
			kafka.CreateTopic(topic, partitions)
			rigs := fleet(t, 2, rigConfig{
				database: makeDatabase(t), topic: topic, connect: toKafka(kafka.Brokers()),
				outbox: append([]tagging.Option{tagging.WithPollInterval(50 * time.Millisecond)}, endless...),
			})
			watcher := rigs[0]
			watcher.createOrders()
			var senders sync.WaitGroup
			for key := range keys {
				sender := rigs[key%len(rigs)]
				senders.Go(func() {
					for n := range perKey {
						env := keyed(key, n)
						env.Topic = topic
						assert.NoError(t, sender.place(context.Background(), string(env.ID), func(e *reliable.Envelope) { *e = env }))
						time.Sleep(30 * time.Millisecond)
					}
				})
			}
			acked := func() int { return rigs[0].seen.outcome(reliable.Acked) + rigs[1].seen.outcome(reliable.Acked) }
			require.Eventually(t, func() bool { return acked() > 2*keys }, patience, time.Millisecond)
			kafkaKilled(kafka, nil)
			senders.Wait()
			watcher.eventuallySettled()
			ids := fromKafka(t, kafka.Brokers(), topic, partitions)
			assertOrder(t, ids, keys, perKey)
			t.Logf("%d messages, %d deliveries", keys*perKey, len(ids))
		})
	}
}
