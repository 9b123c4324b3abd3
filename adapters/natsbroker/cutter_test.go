package natsbroker_test

import (
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
)

// cutter stands between clients and the server: it cuts all connections, or lets no client's write through for a while.
type cutter struct {
	server *embedded.Server

	mu      sync.Mutex
	conns   []net.Conn
	blocked chan struct{} // closed at the end of the block; nil while there is none
}

func (c *cutter) InProcessConn() (net.Conn, error) {
	conn, err := c.server.InProcessConn()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	through := &cuttable{Conn: conn, c: c, closed: make(chan struct{})}
	c.conns = append(c.conns, through)
	return through, nil
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
}

func (c *cutter) block() (unblock func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	blocked := make(chan struct{})
	c.blocked = blocked
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.blocked = nil
		close(blocked)
	}
}

// cuttable is a connection whose writes wait while the cutter blocks.
type cuttable struct {
	net.Conn
	c      *cutter
	once   sync.Once
	closed chan struct{}
}

func (c *cuttable) Write(data []byte) (int, error) {
	c.c.mu.Lock()
	blocked := c.c.blocked
	c.c.mu.Unlock()
	if blocked != nil {
		select {
		case <-blocked:
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	return c.Conn.Write(data)
}

func (c *cuttable) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// silentListener accepts connections and says nothing on them.
type silentListener struct {
	address  string
	accepted chan struct{}
}

func newSilentListener(t *testing.T) *silentListener {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	silent := &silentListener{address: listener.Addr().String(), accepted: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		close(silent.accepted)
		_, _ = conn.Read(make([]byte, 1)) // until the other side has gone
		_ = conn.Close()
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return silent
}
