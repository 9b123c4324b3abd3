package embedded_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/reliable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, dir string, opts ...embedded.Option) *embedded.Server {
	t.Helper()
	server, err := embedded.StartServer(t.Context(), dir, opts...)
	require.NoError(t, err)
	t.Cleanup(server.Stop)
	return server
}

func connect(t *testing.T, url string, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, opts...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return js
}

func TestStartServer_keepsItsDataInTheFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "when needed")
	for _, opts := range [][]embedded.Option{nil, {embedded.WithSyncAlways()}} {
		server, err := embedded.StartServer(t.Context(), dir, opts...)
		require.NoError(t, err)
		js := connect(t, "", server.ClientOption())
		stream, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "orders"})
		require.NoError(t, err)
		before := stream.CachedInfo().State.Msgs
		_, err = js.Publish(t.Context(), "orders", []byte("x"))
		require.NoError(t, err)
		js.Conn().Close()
		server.Stop()
		server.Stop()

		server = start(t, dir, opts...)
		js = connect(t, "", server.ClientOption())
		stream, err = js.Stream(t.Context(), "orders")
		require.NoError(t, err)
		assert.Equal(t, before+1, stream.CachedInfo().State.Msgs)
		js.Conn().Close()
		server.Stop()
	}
}

func TestServer_clientsOfTheProcessFindItAgainAfterARestart(t *testing.T) {
	server := start(t, t.TempDir())
	back := make(chan struct{}, 1)
	js := connect(t, "", server.ClientOption(), nats.ReconnectWait(time.Millisecond), nats.MaxReconnects(-1),
		nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	server.Stop()
	_, err := server.InProcessConn()
	require.Error(t, err)
	require.NoError(t, server.Restart(t.Context()))
	select {
	case <-back:
	case <-time.After(30 * time.Second):
		require.Fail(t, "not connected again")
	}
	_, err = js.AccountInfo(t.Context())
	require.NoError(t, err)
	assert.Empty(t, server.URL())
}

func TestServer_keepsItsAddressOverARestart(t *testing.T) {
	server := start(t, t.TempDir(), embedded.WithListener(0))
	address := server.URL()
	require.Contains(t, address, "127.0.0.1:")
	require.NoError(t, server.Restart(t.Context()))
	assert.Equal(t, address, server.URL())
	_, err := connect(t, address).AccountInfo(t.Context())
	require.NoError(t, err)
}

func TestStartServer_syncsAlwaysOnlyWhenAsked(t *testing.T) {
	for _, always := range []bool{false, true} {
		var got *natsserver.Options
		opts := []embedded.Option{embedded.WithOptions(func(o *natsserver.Options) { got = o })}
		if always {
			opts = append([]embedded.Option{embedded.WithSyncAlways()}, opts...)
		}
		server := start(t, t.TempDir(), opts...)
		assert.Equal(t, always, got.SyncAlways)
		server.Stop()
	}
}

func TestServer_logsWhatTheServerSays(t *testing.T) {
	var text bytes.Buffer
	server := start(t, t.TempDir(), embedded.WithLogger(slog.New(slog.NewTextHandler(&text, nil))))
	server.Stop()
	assert.Contains(t, text.String(), "Starting nats-server")
}

func TestStartServer_failsWithWhatToDo(t *testing.T) {
	_, err := embedded.StartServer(t.Context(), "")
	require.ErrorIs(t, err, reliable.ErrInvalid)

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = embedded.StartServer(t.Context(), file)
	require.ErrorContains(t, err, "JetStream")
	require.NotErrorIs(t, err, context.DeadlineExceeded)

	taken := start(t, t.TempDir(), embedded.WithListener(0))
	address, err := url.Parse(taken.URL())
	require.NoError(t, err)
	port, err := strconv.Atoi(address.Port())
	require.NoError(t, err)
	_, err = embedded.StartServer(t.Context(), t.TempDir(), embedded.WithListener(port))
	require.ErrorContains(t, err, "in use")

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = embedded.StartServer(ended, t.TempDir())
	require.ErrorIs(t, err, context.Canceled)
}
