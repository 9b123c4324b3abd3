package faultproxy_test

import (
	"bytes"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/internal/faultproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 20 * time.Second       // for what must happen
	glance   = 100 * time.Millisecond // for what must not
)

func TestForward_bothWaysAndToTheEndOfTheStream(t *testing.T) {
	server := startServer(t)
	client, peer := server.connect(t, faultproxy.New(t, server.addr()))

	question := bytes.Repeat([]byte("question"), 100_000) // many chunks
	go func() {
		_, _ = client.Write(question)
		_ = client.CloseWrite()
	}()
	heard, err := readToEnd(peer)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(question, heard))

	answer := bytes.Repeat([]byte("answer"), 100_000)
	go func() {
		_, _ = peer.Write(answer)
		_ = peer.Close()
	}()
	heard, err = readToEnd(client)
	require.NoError(t, err, "the server closed in good order")
	assert.True(t, bytes.Equal(answer, heard))
}

func TestForward_passesOnAReset(t *testing.T) {
	server := startServer(t)
	client, peer := server.connect(t, faultproxy.New(t, server.addr()))
	require.NoError(t, peer.SetLinger(0))
	require.NoError(t, peer.Close())
	requireReset(t, client)
}

func TestCutAll_resetsOpenConnectionsAndServesNewOnes(t *testing.T) {
	server := startServer(t)
	proxy := faultproxy.New(t, server.addr())
	firstClient, firstPeer := server.connect(t, proxy)
	secondClient, secondPeer := server.connect(t, proxy)
	assert.Equal(t, 2, proxy.Connections())

	proxy.CutAll()
	for _, side := range []*net.TCPConn{firstClient, firstPeer, secondClient, secondPeer} {
		requireReset(t, side)
	}
	assert.Eventually(t, func() bool { return proxy.Connections() == 0 }, patience, time.Millisecond)

	client, peer := server.connect(t, proxy)
	requirePasses(t, client, peer)
}

func TestRefuse_resetsNewConnectionsAndKeepsOpenOnes(t *testing.T) {
	server := startServer(t)
	proxy := faultproxy.New(t, server.addr())
	client, peer := server.connect(t, proxy)

	proxy.Refuse(true)
	requireRefused(t, proxy)
	requirePasses(t, client, peer)
	requirePasses(t, peer, client)

	proxy.Refuse(false)
	client, peer = server.connect(t, proxy)
	requirePasses(t, client, peer)
}

func TestNew_resetsClientsWhileTheServerIsDown(t *testing.T) {
	server := startServer(t)
	proxy := faultproxy.New(t, server.addr())
	require.NoError(t, server.listener.Close())
	requireRefused(t, proxy)
}

func TestStall_holdsOneDirectionAndLosesNothing(t *testing.T) {
	for _, c := range []struct {
		name               string
		stalled            faultproxy.Direction
		upstream, downward bool // what still passes
	}{
		{"upstream", faultproxy.Upstream, false, true},
		{"downstream", faultproxy.Downstream, true, false},
		{"both", faultproxy.Both, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := startServer(t)
			proxy := faultproxy.New(t, server.addr())
			client, peer := server.connect(t, proxy)

			proxy.Stall(c.stalled, true)
			write(t, client, "up")
			write(t, peer, "down")
			if c.upstream {
				requireHears(t, peer, "up")
			} else {
				requireSilence(t, peer)
			}
			if c.downward {
				requireHears(t, client, "down")
			} else {
				requireSilence(t, client)
			}

			proxy.Stall(c.stalled, false)
			if !c.upstream {
				requireHears(t, peer, "up")
			}
			if !c.downward {
				requireHears(t, client, "down")
			}
		})
	}
}

func TestStall_blocksAWriterOnceTheBuffersAreFull(t *testing.T) {
	server := startServer(t)
	proxy := faultproxy.New(t, server.addr())
	client, _ := server.connect(t, proxy)

	proxy.Stall(faultproxy.Upstream, true)
	require.NoError(t, client.SetWriteBuffer(64<<10))
	require.NoError(t, client.SetWriteDeadline(time.Now().Add(10*glance)))
	_, err := client.Write(make([]byte, 64<<20))
	assert.ErrorContains(t, err, "timeout")
}

func TestCutAll_reachesAStalledConnection(t *testing.T) {
	server := startServer(t)
	proxy := faultproxy.New(t, server.addr())
	client, peer := server.connect(t, proxy)
	proxy.Stall(faultproxy.Both, true)
	write(t, client, "held")
	proxy.CutAll()
	requireReset(t, client)
	requireReset(t, peer)
}

func TestDropDownstream_carriesRequestsOutAndLosesTheAnswers(t *testing.T) {
	server := startServer(t)
	proxy := faultproxy.New(t, server.addr())
	client, peer := server.connect(t, proxy)

	proxy.DropDownstream(true)
	write(t, peer, "lost")
	requirePasses(t, client, peer)
	requireSilence(t, client)
}

func TestOnClientBytes_cutBeforeKeepsTheBytesFromTheServer(t *testing.T) {
	server := startServer(t)
	proxy := faultproxy.New(t, server.addr())
	client, peer := server.connect(t, proxy)
	proxy.OnClientBytes(when("COMMIT", faultproxy.CutBefore))

	requirePasses(t, client, peer)
	write(t, client, "COMMIT")
	requireReset(t, client)
	requireReset(t, peer)
}

func TestOnClientBytes_cutAfterLeavesTheServerWithTheBytesAndAnEnd(t *testing.T) {
	server := startServer(t)
	proxy := faultproxy.New(t, server.addr())
	client, peer := server.connect(t, proxy)
	proxy.OnClientBytes(when("COMMIT", faultproxy.CutAfter))

	write(t, client, "COMMIT")
	requireReset(t, client)
	heard, err := readToEnd(peer)
	require.NoError(t, err)
	assert.Equal(t, "COMMIT", string(heard))
	write(t, peer, "an answer that nobody reads does not break the server")
	require.NoError(t, peer.Close())
	assert.Eventually(t, func() bool { return proxy.Connections() == 0 }, patience, time.Millisecond)
}

func TestOnClientBytes_loseAnswerCutsOnlyOnceTheServerHasAnswered(t *testing.T) {
	server := startServer(t)
	proxy := faultproxy.New(t, server.addr())
	client, peer := server.connect(t, proxy)
	proxy.OnClientBytes(when("COMMIT", faultproxy.LoseAnswer))

	write(t, client, "COMMIT")
	requireHears(t, peer, "COMMIT")
	requireSilence(t, client) // and no cut yet
	write(t, peer, "committed")
	requireReset(t, client)
}

func TestOnClientBytes_hookSeesAllThatEveryClientSendsAndCanBeTakenAway(t *testing.T) {
	server := startServer(t)
	proxy := faultproxy.New(t, server.addr())
	var seen atomic.Int64
	proxy.OnClientBytes(func(chunk []byte) faultproxy.Action {
		seen.Add(int64(len(chunk)))
		return faultproxy.Forward
	})
	firstClient, firstPeer := server.connect(t, proxy)
	secondClient, secondPeer := server.connect(t, proxy)
	write(t, firstClient, "12345")
	requireHears(t, firstPeer, "12345")
	write(t, secondClient, "123")
	requireHears(t, secondPeer, "123")
	assert.EqualValues(t, 8, seen.Load())

	proxy.OnClientBytes(nil)
	requirePasses(t, firstClient, firstPeer)
	assert.EqualValues(t, 8, seen.Load())
}

func TestSetLatency_delaysEachWay(t *testing.T) {
	server := startServer(t)
	proxy := faultproxy.New(t, server.addr())
	client, peer := server.connect(t, proxy)
	proxy.SetLatency(glance)
	start := time.Now()
	requirePasses(t, client, peer)
	requirePasses(t, peer, client)
	assert.GreaterOrEqual(t, time.Since(start), 2*glance)
}

func TestClose_cutsEverythingAndMayBeRepeated(t *testing.T) {
	server := startServer(t)
	proxy := faultproxy.New(t, server.addr())
	client, _ := server.connect(t, proxy)
	proxy.Stall(faultproxy.Both, true)
	write(t, client, "held")

	proxy.Close()
	proxy.Close()
	requireReset(t, client)
	_, err := net.Dial("tcp", proxy.Addr())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	assert.Zero(t, proxy.Connections())
}

// server is what the proxy stands before: it hands the test its side of each connection.
type server struct{ listener *net.TCPListener }

func startServer(t *testing.T) server {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	return server{listener}
}

func (s server) addr() string { return s.listener.Addr().String() }

// connect makes a connection through the proxy and returns both of its ends, once the proxy serves it.
func (s server) connect(t *testing.T, proxy *faultproxy.Proxy) (client, peer *net.TCPConn) {
	t.Helper()
	client = dial(t, proxy)
	require.NoError(t, s.listener.SetDeadline(time.Now().Add(patience)))
	peer, err := s.listener.AcceptTCP()
	require.NoError(t, err)
	t.Cleanup(func() { _ = peer.Close() })
	requirePasses(t, peer, client)
	return client, peer
}

func dial(t *testing.T, proxy *faultproxy.Proxy) *net.TCPConn {
	t.Helper()
	client, err := net.Dial("tcp", proxy.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client.(*net.TCPConn)
}

// requireRefused wants a reset, which may come so soon that connecting fails with it.
func requireRefused(t *testing.T, proxy *faultproxy.Proxy) {
	t.Helper()
	client, err := net.Dial("tcp", proxy.Addr())
	if err == nil {
		defer client.Close()
		requireReset(t, client.(*net.TCPConn))
		return
	}
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

func when(word string, action faultproxy.Action) func([]byte) faultproxy.Action {
	return func(chunk []byte) faultproxy.Action {
		if bytes.Contains(chunk, []byte(word)) {
			return action
		}
		return faultproxy.Forward
	}
}

func write(t *testing.T, side *net.TCPConn, words string) {
	t.Helper()
	_, err := side.Write([]byte(words))
	require.NoError(t, err)
}

func requireHears(t *testing.T, side *net.TCPConn, words string) {
	t.Helper()
	require.NoError(t, side.SetReadDeadline(time.Now().Add(patience)))
	heard := make([]byte, len(words))
	_, err := io.ReadFull(side, heard)
	require.NoError(t, err)
	require.Equal(t, words, string(heard))
}

func readToEnd(side *net.TCPConn) ([]byte, error) {
	if err := side.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	return io.ReadAll(side)
}

func requirePasses(t *testing.T, from, to *net.TCPConn) {
	t.Helper()
	write(t, from, "hello")
	requireHears(t, to, "hello")
}

func requireSilence(t *testing.T, side *net.TCPConn) {
	t.Helper()
	require.NoError(t, side.SetReadDeadline(time.Now().Add(glance)))
	n, err := side.Read(make([]byte, 1))
	require.Zero(t, n)
	require.ErrorContains(t, err, "timeout")
}

func requireReset(t *testing.T, side *net.TCPConn) {
	t.Helper()
	require.NoError(t, side.SetReadDeadline(time.Now().Add(patience)))
	_, err := side.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
}
