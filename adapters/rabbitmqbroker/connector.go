package rabbitmqbroker

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// connector keeps the connection on which a subscriber begins its subscriptions, and paces how often a new one is tried.
type connector struct {
	settings *settings

	turn      chan struct{} // capacity 1: held by whoever makes a connection
	backoff   time.Duration
	notBefore time.Time

	mu   sync.Mutex
	conn *connection // nil while there is none
	// feeds counts, for each connection, what consumes over it. One that was retired is kept for as long as it has any.
	feeds map[*connection]int
}

func newConnector(s *settings) connector {
	return connector{settings: s, turn: make(chan struct{}, 1), backoff: s.backoffMin, feeds: make(map[*connection]int)}
}

// get returns the connection, or makes it, after the pause that an attempt that failed has left behind.
func (c *connector) get(ctx context.Context) (*connection, error) {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-c.turn }()
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn != nil && !conn.IsClosed() {
		return conn, nil
	}
	if wait := time.Until(c.notBefore); wait > 0 && !pauseFor(ctx, wait) {
		return nil, context.Cause(ctx)
	}
	conn, err := c.settings.dial(ctx, "waybill subscriber")
	if err != nil {
		c.notBefore = time.Now().Add(rand.N(c.backoff) + 1) //nolint:gosec // jitter is no secret
		c.backoff = min(2*c.backoff, c.settings.backoffMax)
		return nil, err
	}
	c.backoff, c.notBefore = c.settings.backoffMin, time.Time{}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil { // it is closed
		c.conn.wire.abort()
	}
	c.conn = conn
	return conn, nil
}

// retire has the next subscription begin on another connection. What consumes over this one goes on; without such it ends
// at once, and with it every call that waits for the broker.
func (c *connector) retire(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn.retired = true
	if c.conn == conn {
		c.conn = nil
	}
	if c.feeds[conn] == 0 {
		conn.wire.abort()
	}
}

func (c *connector) wasRetired(conn *connection) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return conn.retired
}

// join counts a feed of a connection.
func (c *connector) join(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.feeds[conn]++
}

// leave ends a connection that was retired with its last feed.
func (c *connector) leave(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.feeds[conn]--; c.feeds[conn] > 0 {
		return
	}
	delete(c.feeds, conn)
	if conn.retired {
		conn.wire.abort()
	}
}

// close ends the connection in order. There are no feeds any more.
func (c *connector) close() {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.mu.Lock()
	conn := c.conn
	c.conn = nil
	c.mu.Unlock()
	if conn != nil {
		conn.end()
	}
}

// abort ends all connections at once, and with them every call that waits for the broker.
func (c *connector) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.wire.abort()
		c.conn = nil
	}
	for conn := range c.feeds {
		conn.wire.abort()
	}
}

// pauseFor reports whether d passed before ctx ended.
func pauseFor(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
