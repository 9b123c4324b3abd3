package rabbitmqbroker

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
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

func TestWire_whatIsWrittenTogetherHasLeftAtOnce(t *testing.T) {
	near, far := tcpPair(t)
	counted := &countedWrites{Conn: near}
	w := newWire(counted)
	want := bytes.Repeat([]byte("0123456789"), 64)
	for range 100 {
		before := counted.n.Load()
		w.together(func() {
			for range 64 {
				_, err := w.Write([]byte("0123456789"))
				require.NoError(t, err)
			}
		})
		require.EqualValues(t, 1, counted.n.Load()-before, "calls of the socket")
		got := make([]byte, len(want))
		_, err := io.ReadFull(far, got)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	require.NoError(t, w.Close())
	<-w.gone
}

type countedWrites struct {
	net.Conn
	n atomic.Int64
}

func (c *countedWrites) Write(p []byte) (int, error) {
	c.n.Add(1)
	return c.Conn.Write(p)
}

// What is written together and by itself keeps its order, and none of it is left behind, also by a close in between.
func TestWire_writersOfBothKindsLoseNothing(t *testing.T) {
	for range 20 {
		near, far := tcpPair(t)
		w := newWire(near)
		var writers sync.WaitGroup
		for kind := range byte(2) {
			writers.Go(func() {
				for n := range byte(100) {
					one := func() {
						_, err := w.Write(bytes.Repeat([]byte{kind, n}, 2000)) // more than half a buffer in all
						assert.NoError(t, err)
					}
					if kind == 0 {
						w.together(func() { one(); one() })
					} else {
						one()
					}
				}
			})
		}
		go func() {
			writers.Wait()
			_ = w.Close()
		}()
		got, err := io.ReadAll(far)
		require.NoError(t, err)
		counts, last, ordered := [2]int{}, [2]byte{}, true
		for i := 0; i+1 < len(got); i += 2 {
			kind, n := got[i], got[i+1]
			ordered = ordered && n >= last[kind]
			last[kind] = n
			counts[kind]++
		}
		require.True(t, ordered, "the order of each writer")
		require.Equal(t, [2]int{400_000, 200_000}, counts)
		<-w.gone
	}
}

// A batch that is larger than the buffer must not wait for room that only its own end would make.
func TestWire_whatIsWrittenTogetherMayBeLargerThanTheBuffer(t *testing.T) {
	near, far := tcpPair(t)
	w := newWire(near)
	go w.together(func() {
		for range 5 {
			_, err := w.Write(make([]byte, wireBuffer))
			assert.NoError(t, err)
		}
	})
	_, err := io.ReadFull(far, make([]byte, 5*wireBuffer))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	<-w.gone
}

func TestWire_abortFreesWhoWritesTogether(t *testing.T) {
	w := stuckWire(t)
	freed := make(chan struct{})
	go func() {
		defer close(freed)
		w.together(func() { _, _ = w.Write([]byte("x")) })
	}()
	w.abort()
	<-freed
	<-w.gone
}
