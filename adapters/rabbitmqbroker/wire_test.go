package rabbitmqbroker

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tcpPair returns both ends of a TCP connection.
func tcpPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	near, err = net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	far, err = listener.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = far.Close() })
	return near, far
}

func TestWire_closeLetsTheLastBytesOut(t *testing.T) {
	near, far := tcpPair(t)
	w := newWire(near)
	for range 1000 {
		_, err := w.Write([]byte("0123456789"))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	got, err := io.ReadAll(far)
	require.NoError(t, err)
	require.Len(t, got, 10_000)
	<-w.gone
	_, err = w.Write([]byte("late"))
	require.ErrorIs(t, err, net.ErrClosed)
}

// stuckWire returns a wire whose peer reads nothing, with more written to it than the sockets take.
func stuckWire(t *testing.T) *wire {
	t.Helper()
	near, far := tcpPair(t)
	require.NoError(t, near.(*net.TCPConn).SetWriteBuffer(4096))
	require.NoError(t, far.(*net.TCPConn).SetReadBuffer(4096))
	w := newWire(near)
	for w.fits() {
		_, err := w.Write(make([]byte, wireBuffer/4))
		require.NoError(t, err)
	}
	return w
}

// fits reports whether the next Write returns at once.
func (w *wire) fits() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.buf) < wireBuffer
}

func TestWire_abortFreesAWriterThatThePeerDoesNotReadFrom(t *testing.T) {
	w := stuckWire(t)
	written := make(chan error, 1)
	go func() {
		for {
			if _, err := w.Write(make([]byte, wireBuffer)); err != nil {
				written <- err
				return
			}
		}
	}()
	w.abort()
	require.ErrorIs(t, <-written, net.ErrClosed)
	<-w.gone
}

func TestWire_closeDoesNotWaitForAPeerThatDoesNotRead(t *testing.T) {
	w := stuckWire(t)
	require.NoError(t, w.Close())
	select {
	case <-w.gone:
	case <-time.After(30 * lastWords):
		require.Fail(t, "the socket stays open")
	}
}

func TestWire_aSocketThatFailedIsLeftToTheReader(t *testing.T) {
	near, far := tcpPair(t)
	w := newWire(near)
	_, err := far.Write([]byte("last words"))
	require.NoError(t, err)
	require.NoError(t, far.(*net.TCPConn).CloseRead())
	require.NoError(t, far.(*net.TCPConn).SetLinger(0))
	buf := make([]byte, 10)
	_, err = io.ReadFull(w, buf)
	require.NoError(t, err)
	require.NoError(t, far.Close()) // a reset
	require.Eventually(t, func() bool {
		_, err := w.Write([]byte("x"))
		require.NoError(t, err)
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.failed
	}, 30*time.Second, time.Millisecond)
	_, err = w.Read(buf)
	require.Error(t, err)
	require.NoError(t, w.Close())
	<-w.gone
}

func TestWire_abortThrowsAwayWhatIsOnItsWay(t *testing.T) {
	for range 200 {
		ours, peer := tcpPair(t)
		w := newWire(ours)
		w.abort()
		_, err := peer.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET, "an end in good order sends the rest first")
		<-w.gone
	}
}
