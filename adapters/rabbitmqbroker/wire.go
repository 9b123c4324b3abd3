package rabbitmqbroker

import (
	"net"
	"sync"
	"time"
)

const (
	// wireBuffer is how many bytes may wait for the socket before a writer does.
	wireBuffer = 256 << 10
	// lastWords is how long an orderly close may take to get the last bytes out.
	lastWords = time.Second
)

// wire is the socket, with a buffer in front of it: while one write is on its way to the broker, the messages after it
// gather and leave together. amqp091 flushes after each message, which would otherwise be one system call each. What is
// written by itself a goroutine of the wire's own takes to the socket; what is written together leaves in its writer's.
type wire struct {
	net.Conn

	gone chan struct{} // closed when the socket is

	mu      sync.Mutex
	space   sync.Cond // the buffer was emptied, or the wire is closed
	buf     []byte
	spare   []byte        // what the next buffer grows in
	held    bool          // more is to come before the buffer leaves
	writing bool          // somebody is taking the buffer to the socket, and will look whether it has filled again
	failed  bool          // a write failed: what comes now is dropped, until the reader finds out why
	closed  bool          // takes nothing more
	filled  chan struct{} // capacity 1
}

func newWire(conn net.Conn) *wire {
	w := &wire{Conn: conn, gone: make(chan struct{}), filled: make(chan struct{}, 1)}
	w.space.L = &w.mu
	go w.empty()
	return w
}

// Write takes p for the socket. It waits only while the buffer is full, which Close and abort end. After the socket failed
// it succeeds all the same: the reader is about to fail as well, after it has read the broker's last words, and these say
// more about the reason than a broken pipe.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.buf) >= wireBuffer && !w.failed && !w.closed {
		w.space.Wait()
	}
	switch {
	case w.closed:
		return 0, net.ErrClosed
	case !w.failed:
		w.buf = append(w.buf, p...)
		if !w.held || len(w.buf) >= wireBuffer/2 {
			poke(w.filled)
		}
	}
	return len(p), nil
}

// together has all that write writes leave at once, and takes it to the socket itself, unless another goroutine is at it
// and sees to the rest. A second goroutine between a message and the socket costs it the time until that one is run, which
// on a busy machine is longer than all else. It belongs to one goroutine at a time.
func (w *wire) together(write func()) {
	w.hold(true)
	write()
	w.hold(false)
	w.flush()
}

func (w *wire) hold(held bool) {
	w.mu.Lock()
	w.held = held
	w.mu.Unlock()
}

// flush takes the buffer to the socket, unless somebody is at it. It reports whether that was the end.
func (w *wire) flush() (last bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.writing {
		return false
	}
	w.writing = true
	for len(w.buf) > 0 && !w.failed {
		out := w.buf
		w.buf = w.spare[:0]
		w.mu.Unlock()
		w.space.Broadcast()
		_, err := w.Conn.Write(out)
		w.mu.Lock()
		w.spare = out
		if w.failed = err != nil; w.failed {
			w.space.Broadcast()
		}
	}
	w.writing = false
	if w.closed {
		poke(w.filled) // whoever closed found somebody at it
	}
	return w.closed
}

// empty takes what gathers to the socket until the wire is closed, then closes the socket.
func (w *wire) empty() {
	defer close(w.gone)
	defer func() { _ = w.Conn.Close() }()
	for range w.filled {
		if w.flush() {
			return
		}
	}
}

// Close lets the last bytes out, for a second at most, and closes the socket. It does not wait for that.
func (w *wire) Close() error {
	if w.close() {
		_ = w.Conn.SetWriteDeadline(time.Now().Add(lastWords))
	}
	return nil
}

// abort closes the socket at once. What the broker has not taken from it yet is thrown away rather than sent later, since
// by then it has been sent again.
func (w *wire) abort() {
	if tcp, ok := w.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // before close: after it, empty closes the socket too, and would have the rest sent
	}
	w.close()
	_ = w.Conn.Close()
}

func (w *wire) close() bool {
	w.mu.Lock()
	first := !w.closed
	w.closed = true
	w.mu.Unlock()
	w.space.Broadcast()
	poke(w.filled)
	return first
}
