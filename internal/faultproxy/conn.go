package faultproxy

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
)

// conn is a client's connection and the one made to the server on its behalf.
type conn struct {
	client *net.TCPConn
	ctx    context.Context // ends when the connection is cut
	cancel context.CancelFunc
	doomed atomic.Uint32 // an Action: what the server's next bytes meet

	mu     sync.Mutex
	server *net.TCPConn // nil until connect
}

func newConn(client *net.TCPConn) *conn {
	c := &conn{client: client}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// connect reaches the server, unless it is down or the connection is cut meanwhile; the client is then reset.
func (c *conn) connect(address string) bool {
	var dialer net.Dialer
	server, err := dialer.DialContext(c.ctx, "tcp", address)
	if err != nil {
		c.cut()
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server = server.(*net.TCPConn)
	if c.ctx.Err() != nil { // cut has run, and found no server
		reset(c.server)
		return false
	}
	return true
}

// doom remembers an action that decides about the server's answer.
func (c *conn) doom(action Action) {
	if action != Forward {
		c.doomed.Store(uint32(action))
	}
}

func (c *conn) fate() Action { return Action(c.doomed.Load()) }

// write says whether all of chunk was taken; if not, the connection is cut.
func (c *conn) write(to *net.TCPConn, chunk []byte) bool {
	if _, err := to.Write(chunk); err != nil {
		c.cut()
		return false
	}
	return true
}

// cut resets both sides, and wakes whoever is reading, writing or waiting for them. It may be called again.
func (c *conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel()
	reset(c.client)
	if c.server != nil {
		reset(c.server)
	}
}

// close ends both sides in good order, after the last byte.
func (c *conn) close() {
	_ = c.client.Close()
	_ = c.server.Close()
	c.cancel()
}

// reset closes a side so that its peer sees a reset and not the end of a stream: what a crash looks like.
func reset(side *net.TCPConn) {
	_ = side.SetLinger(0) // fails only on a side that is closed already
	_ = side.Close()
}
