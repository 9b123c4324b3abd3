package kafkabroker_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/reliable"
)

// The tests in this file and in refusal_test.go use kfake, franz-go's emulator of a cluster, which answers what a healthy
// Kafka seldom does. Those that carry the tag "services" use real Kafka.

// fake starts an emulated cluster with one topic, "orders".
func fake(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(1, "orders")}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	return cluster
}

// busy is how much longer than it should a busy machine may take.
const busy = 5 * time.Second

// quick gives up soon.
func quick() kafkabroker.Option { return kafkabroker.WithConfirmTimeout(time.Second) }

// stored reads a topic until n records with different IDs have come, and returns how often each came and the order of the
// first ones.
func stored(t testing.TB, cluster *kfake.Cluster, topic string, n int) (copies map[reliable.ID]int, order []reliable.ID) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics(topic))
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	copies = make(map[reliable.ID]int)
	for len(copies) < n {
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err(), "%d of %d records", len(copies), n)
		fetches.EachRecord(func(r *kgo.Record) {
			id := reliable.ID(r.Headers[0].Value)
			if copies[id]++; copies[id] == 1 {
				order = append(order, id)
			}
		})
	}
	return copies, order
}

func idsOf(batch []reliable.Attempt) (ids []reliable.ID) {
	for i := range batch {
		ids = append(ids, batch[i].ID)
	}
	return ids
}

func requireOnce(t testing.TB, cluster *kfake.Cluster, batch []reliable.Attempt) {
	t.Helper()
	copies, order := stored(t, cluster, batch[0].Topic, len(batch))
	require.Equal(t, idsOf(batch), order)
	for id, n := range copies {
		require.Equal(t, 1, n, "copies of %s", id)
	}
}

func TestPublish_whatFailedAfterTheAppendIsRepeatedWithoutACopy(t *testing.T) {
	for _, cause := range []*kerr.Error{kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend} {
		t.Run(cause.Message, func(t *testing.T) {
			cluster := fake(t)
			fault := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: cause, Count: 3})
			batch := attempts("orders", 50)
			requireOutcome(t, reliable.Acked, publish(t, open(t, cluster.ListenAddrs()), batch...)...)
			require.Equal(t, 3, fault.Hits(), "the fault met nothing")
			requireOnce(t, cluster, batch)
		})
	}
}

// cutting makes the cluster cut the connections on which the next n produce requests come.
func cutting(cluster *kfake.Cluster, n int64) *atomic.Int64 {
	var left atomic.Int64
	left.Store(n)
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		if left.Add(-1) < 0 {
			return nil, nil, false
		}
		cluster.KeepControl()
		return nil, errors.New("cut"), true
	})
	return &left
}

func TestPublish_aConnectionThatIsCutCostsNoCopy(t *testing.T) {
	cluster := fake(t)
	left := cutting(cluster, 5)
	batch := attempts("orders", 50)
	requireOutcome(t, reliable.Acked, publish(t, open(t, cluster.ListenAddrs()), batch...)...)
	require.Negative(t, left.Load(), "the fault met nothing")
	requireOnce(t, cluster, batch)
}

func TestPublish_withoutALeaderItIsUnknownAndRecovers(t *testing.T) {
	for _, cause := range []*kerr.Error{
		kerr.LeaderNotAvailable, kerr.NotLeaderForPartition, kerr.NotEnoughReplicas, kerr.CoordinatorNotAvailable,
	} {
		t.Run(cause.Message, func(t *testing.T) {
			cluster := fake(t)
			b := open(t, cluster.ListenAddrs(), quick())
			fault := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "orders", Err: cause, Count: -1})
			began := time.Now()
			batch := attempts("orders", 20)
			confirms := publish(t, b, batch...)
			requireOutcome(t, reliable.Unknown, confirms...)
			require.Less(t, time.Since(began), b.MaxConfirmWait()+busy)
			for _, confirm := range confirms {
				require.NotErrorIs(t, confirm.Err, reliable.ErrConnectionLost, "an outage is no reason to suspect the message")
			}
			fault.Remove()
			requireOutcome(t, reliable.Acked, publish(t, b, batch...)...)
			requireOnce(t, cluster, batch)
		})
	}
}

func TestPublish_whatStaysUncertainIsUnknownAndDuplicatesAtMostOnce(t *testing.T) {
	cluster := fake(t)
	b := open(t, cluster.ListenAddrs(), quick())
	fault := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: -1})
	batch := attempts("orders", 20)
	requireOutcome(t, reliable.Unknown, publish(t, b, batch...)...)
	fault.Remove()
	requireOutcome(t, reliable.Acked, publish(t, b, batch...)...)
	copies, order := stored(t, cluster, "orders", len(batch))
	require.Equal(t, idsOf(batch), order)
	for id, n := range copies {
		require.LessOrEqual(t, n, 2, "copies of %s", id)
	}
}

// mute makes the cluster take produce requests and never answer.
func mute(cluster *kfake.Cluster) {
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		return nil, nil, true
	})
}

func TestMaxConfirmWait_isKeptByAClusterThatNeverAnswers(t *testing.T) {
	cluster := fake(t)
	mute(cluster)
	b := open(t, cluster.ListenAddrs(), quick(), kafkabroker.WithCloseTimeout(0))
	began := time.Now()
	requireOutcome(t, reliable.Unknown, publish(t, b, attempts("orders", 10)...)...)
	require.Less(t, time.Since(began), b.MaxConfirmWait()+busy)
	require.GreaterOrEqual(t, time.Since(began), time.Second, "it was given up too early")
}

func TestClose_leavesNothingWithoutAConfirm(t *testing.T) {
	cluster := fake(t)
	mute(cluster)
	b := open(t, cluster.ListenAddrs(), kafkabroker.WithCloseTimeout(10*time.Millisecond))
	batch := attempts("orders", 10)
	batch = append(batch, attempts("nowhere", 10)...)
	alone := attempts("orders", 1)
	alone[0].Alone = true
	batch = append(batch, alone...)
	n, err := b.Publish(t.Context(), batch)
	require.NoError(t, err)
	require.Equal(t, len(batch), n)
	require.NoError(t, b.Close())
	for _, confirm := range confirmsOf(t, b, batch) {
		require.NotEqual(t, reliable.Acked, confirm.Outcome)
	}
	_, err = b.Receive(t.Context(), 1)
	require.ErrorContains(t, err, "EOF")
}

func TestPublish_toNobodyHandsNothingOver(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	nobody := listener.Addr().String()
	require.NoError(t, listener.Close())
	b := open(t, []string{nobody})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	n, err := b.Publish(ctx, attempts("orders", 3))
	require.Zero(t, n, "what was handed over may have been sent")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "connection refused", "the reason is missing")
	require.Error(t, b.Ping(t.Context()))
	require.NoError(t, b.Close())
	require.ErrorIs(t, b.Ping(t.Context()), reliable.ErrClosed)
	_, err = b.Publish(t.Context(), attempts("orders", 1))
	require.ErrorIs(t, err, reliable.ErrClosed)
}

// The key decides the partition, and leaders that move take no key out of its order.
func TestPublish_keepsTheOrderOfKeysWhileLeadersMove(t *testing.T) {
	const partitions, keys, perKey = 4, 8, 50
	cluster := fake(t, kfake.NumBrokers(3), kfake.SeedTopics(partitions, "moving"))
	b := open(t, cluster.ListenAddrs())
	moved := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		var err error
		defer func() { moved <- err }()
		for i := 0; err == nil; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				err = cluster.MoveTopicPartition("moving", int32(i%partitions), int32(i%3))
			}
		}
	}()
	batch := attempts("moving", keys*perKey)
	for i := range batch {
		batch[i].Key = string(rune('a' + i%keys))
	}
	for chunk := range perKey {
		requireOutcome(t, reliable.Acked, publish(t, b, batch[chunk*keys:(chunk+1)*keys]...)...)
	}
	close(stop)
	require.NoError(t, <-moved)

	_, order := stored(t, cluster, "moving", len(batch))
	place := make(map[reliable.ID]int)
	for i, id := range order {
		place[id] = i
	}
	for i := keys; i < len(batch); i++ {
		require.Less(t, place[batch[i-keys].ID], place[batch[i].ID], "key %s", batch[i].Key)
	}
}

func TestWithTLS_encryptsAndVerifies(t *testing.T) {
	certificate, pool := certify(t)
	cluster := fake(t, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}))
	b := open(t, cluster.ListenAddrs(), kafkabroker.WithTLS(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}))
	requireOutcome(t, reliable.Acked, publish(t, b, attempts("orders", 3)...)...)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	distrustful := open(t, cluster.ListenAddrs(), kafkabroker.WithTLS(&tls.Config{MinVersion: tls.VersionTLS12}))
	var unknown *tls.CertificateVerificationError
	require.ErrorAs(t, distrustful.Ping(ctx), &unknown)
}

func certify(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestHooks_hearOfConnections(t *testing.T) {
	cluster := fake(t)
	var connected, disconnected atomic.Int64
	b := open(t, cluster.ListenAddrs(), kafkabroker.WithHooks(kafkabroker.Hooks{
		Connected:    func(string) { connected.Add(1) },
		Disconnected: func(string) { disconnected.Add(1) },
	}))
	require.NoError(t, b.Ping(t.Context()))
	assert.Positive(t, connected.Load())
	require.NoError(t, b.Close())
	require.Eventually(t, func() bool { return disconnected.Load() == connected.Load() }, patience, 10*time.Millisecond)
}

// franz-go keeps such an answer for as long as it lives.
func TestPublish_recoversWhenTheClusterGaveNoProducerID(t *testing.T) {
	for _, cause := range []*kerr.Error{kerr.UnknownServerError, kerr.ClusterAuthorizationFailed} {
		t.Run(cause.Message, func(t *testing.T) {
			cluster := fake(t)
			b := open(t, cluster.ListenAddrs())
			fault := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, TopLevel: true, Err: cause, Count: -1})
			for range 3 {
				confirms := publish(t, b, attempts("orders", 5)...)
				require.ErrorIs(t, confirms[0].Err, cause)
				if cause == kerr.ClusterAuthorizationFailed {
					requireOutcome(t, reliable.Returned, confirms...)
				} else {
					requireOutcome(t, reliable.Unknown, confirms...)
				}
			}
			fault.Remove()
			batch := attempts("orders", 5)
			requireOutcome(t, reliable.Acked, publish(t, b, batch...)...)
			requireOnce(t, cluster, batch)
		})
	}
}
