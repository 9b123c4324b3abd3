package rabbitmqbroker_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/reliable"
)

const nobody = "amqp://user:top-secret@127.0.0.1:1/vhost"

func TestNew_reportsEverythingThatIsWrongTogether(t *testing.T) {
	config := wamqp.NewDurableQueueConfig(nobody)
	config.Publish.Transactional = true
	config.Publish.Immediate = true
	config.Marshaler = nil
	config.Exchange.GenerateName = nil
	config.Publish.GenerateRoutingKey = nil
	config.Queue.GenerateName = nil
	config.QueueBind.GenerateRoutingKey = nil
	config.TopologyBuilder = nil
	config.Connection.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13}
	config.Connection.AmqpConfig = &amqp.Config{
		Recovery: &amqp.Recovery{}, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13},
	}
	_, err := rabbitmqbroker.New(config,
		rabbitmqbroker.WithWindow(0), rabbitmqbroker.WithConfirmTimeout(time.Millisecond),
		rabbitmqbroker.WithBlockedTimeout(0), rabbitmqbroker.WithCloseTimeout(-1), rabbitmqbroker.WithMaxMessageBytes(0),
		rabbitmqbroker.WithReconnectBackoff(2, 1), rabbitmqbroker.WithLogger(nil), rabbitmqbroker.WithDeclaredQueues())
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, field := range []string{
		"Publish.Transactional", "Publish.Immediate", "Marshaler", "Exchange.GenerateName", "Publish.GenerateRoutingKey",
		"Queue.GenerateName", "QueueBind.GenerateRoutingKey", "TopologyBuilder", "Connection.TLSConfig",
		"Connection.AmqpConfig.Recovery", "WithWindow", "WithConfirmTimeout", "WithBlockedTimeout", "WithCloseTimeout",
		"WithMaxMessageBytes", "WithReconnectBackoff", "WithLogger",
	} {
		assert.ErrorContains(t, err, "invalid "+field)
	}
}

func TestNew_neverRepeatsThePassword(t *testing.T) {
	for _, url := range []string{
		"amqp://user:top-secret@host:port/", "http://user:top-secret@host/", "amqp://user:top-secret@ho st/",
		"amqp://user:top-secret%zz@host/", "",
	} {
		_, err := rabbitmqbroker.NewFromURL(url)
		require.ErrorIs(t, err, reliable.ErrInvalid, url)
		require.NotContains(t, err.Error(), "top-secret")
	}
}

func TestNew_connectsToNobody(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		if conn, err := listener.Accept(); err == nil {
			_ = conn.Close()
			assert.Fail(t, "New has connected")
		}
	}()
	b, err := rabbitmqbroker.NewFromURL("amqp://" + listener.Addr().String())
	require.NoError(t, err)
	require.Equal(t, rabbitmqbroker.Stats{}, b.Stats())
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
	require.NoError(t, listener.Close())
	<-accepted

	_, err = b.Publish(t.Context(), []reliable.Attempt{{}})
	require.ErrorIs(t, err, reliable.ErrClosed)
	_, err = b.Receive(t.Context(), 1)
	require.ErrorIs(t, err, io.EOF)
	require.ErrorIs(t, b.Ping(t.Context()), reliable.ErrClosed)
}

func TestNew_leavesTheCallersConfigAlone(t *testing.T) {
	config := wamqp.NewDurableQueueConfig(nobody)
	config.Queue.Arguments = amqp.Table{"x-expires": 1000}
	b, err := rabbitmqbroker.New(config, rabbitmqbroker.WithQuorumQueues())
	require.NoError(t, err)
	require.Equal(t, amqp.Table{"x-expires": 1000}, config.Queue.Arguments)
	require.Equal(t, amqp.Table{"x-expires": 1000, "x-queue-type": "quorum"}, b.Config().Queue.Arguments)
}

func TestBounds_saysWhatALeaseMustExceed(t *testing.T) {
	for _, test := range []struct {
		opts []rabbitmqbroker.Option
		want time.Duration
	}{
		{nil, 22 * time.Second},
		{[]rabbitmqbroker.Option{
			rabbitmqbroker.WithConfirmTimeout(time.Second), rabbitmqbroker.WithBlockedTimeout(time.Second),
		}, 3 * time.Second},
	} {
		b, err := rabbitmqbroker.NewFromURL(nobody, test.opts...)
		require.NoError(t, err)
		require.Equal(t, test.want, b.MaxConfirmWait())
	}
}

func TestPing_saysThatNobodyListens(t *testing.T) {
	b, err := rabbitmqbroker.NewFromURL(nobody, rabbitmqbroker.WithReconnectBackoff(time.Hour, time.Hour),
		rabbitmqbroker.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close()) }()
	for range 3 { // each asks anew, whatever the backoff
		err = b.Ping(t.Context())
		var problem *rabbitmqbroker.ConnectError
		require.ErrorAs(t, err, &problem)
		require.Equal(t, rabbitmqbroker.Unreachable, problem.Problem)
		require.Equal(t, "127.0.0.1:1", problem.Address)
		require.NotContains(t, err.Error(), "top-secret")
	}
}

func TestPublish_withoutABrokerGivesUpWithItsContextAndSaysWhy(t *testing.T) {
	b, err := rabbitmqbroker.NewFromURL(nobody, rabbitmqbroker.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	n, err := b.Publish(ctx, []reliable.Attempt{{Envelope: reliable.Envelope{ID: "a", Topic: "orders"}}})
	require.Zero(t, n)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	var problem *rabbitmqbroker.ConnectError
	require.ErrorAs(t, err, &problem)
}

func TestConnect_toAServerThatNeverAnswersEndsWithClose(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, and nobody reads
	require.NoError(t, err)
	defer listener.Close()
	b, err := rabbitmqbroker.NewFromURL("amqp://user:top-secret@" + listener.Addr().String())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, b.Ping(ctx), context.DeadlineExceeded)
	began := time.Now()
	require.NoError(t, b.Close())
	require.Less(t, time.Since(began), 5*time.Second)
}
