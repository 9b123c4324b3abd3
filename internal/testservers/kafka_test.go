//go:build services && linux

package testservers_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/waybillmq/waybill/internal/testservers"
)

func TestKafka_livesThroughFaults(t *testing.T) {
	t.Parallel()
	server := testservers.StartKafka(t, "message.max.bytes=1000000")
	server.CreateTopic("things", 1)
	client := kafkaClient(t, server.Addr())
	produce := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return client.ProduceSync(ctx, &kgo.Record{Topic: "things", Value: []byte("kept")}).FirstErr()
	}
	offset := func() int64 {
		t.Helper()
		record, err := client.ProduceSync(t.Context(), &kgo.Record{Topic: "things"}).First()
		require.NoError(t, err)
		return record.Offset
	}

	require.NoError(t, produce())
	server.Kill()
	requireRefused(t, server.Server)
	server.Start()
	require.EqualValues(t, 1, offset(), "an acknowledged record is lost")

	server.Pause()
	produced := make(chan error, 1)
	go func() { produced <- produce() }()
	select {
	case err := <-produced:
		t.Fatalf("a paused broker answered: %v", err)
	case <-time.After(glance):
	}
	server.Resume()
	require.NoError(t, await(t, produced))

	server.Stop()
	requireRefused(t, server.Server)
	server.Start()
	require.EqualValues(t, 3, offset())

	login := kafkaClient(t, server.LoginAddr(), kgo.SASL(scram.Auth{User: "waybill", Pass: "waybill"}.AsSha256Mechanism()))
	require.NoError(t, login.Ping(t.Context()))
	stranger := kafkaClient(t, server.LoginAddr(), kgo.SASL(scram.Auth{User: "waybill", Pass: "wrong"}.AsSha256Mechanism()))
	require.Error(t, stranger.Ping(t.Context()))
}

func kafkaClient(t *testing.T, address string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(address))...)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}
