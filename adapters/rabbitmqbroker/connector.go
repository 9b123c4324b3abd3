package rabbitmqbroker

import (
	"context"
	"math/rand/v2"
	"time"
)

// connector keeps the one connection of a subscriber, and paces how often a new one is tried.
type connector struct {
	settings *settings

	turn      chan struct{} // capacity 1: held by whoever looks after what follows
	conn      *connection   // nil while there is none
	backoff   time.Duration
	notBefore time.Time
}

func newConnector(s *settings) connector {
	return connector{settings: s, turn: make(chan struct{}, 1), backoff: s.backoffMin}
}

// get returns the connection, or makes it, after the pause that an attempt that failed has left behind.
func (c *connector) get(ctx context.Context) (*connection, error) {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-c.turn }()
	if c.conn != nil && !c.conn.IsClosed() {
		return c.conn, nil
	}
	c.drop()
	if wait := time.Until(c.notBefore); wait > 0 && !pauseFor(ctx, wait) {
		return nil, context.Cause(ctx)
	}
	conn, err := c.settings.dial(ctx, "waybill subscriber")
	if err != nil {
		c.notBefore = time.Now().Add(rand.N(c.backoff) + 1) //nolint:gosec // jitter is no secret
		c.backoff = min(2*c.backoff, c.settings.backoffMax)
		return nil, err
	}
	c.conn, c.backoff, c.notBefore = conn, c.settings.backoffMin, time.Time{}
	return conn, nil
}

// drop needs turn.
func (c *connector) drop() {
	if c.conn != nil {
		c.conn.wire.abort()
		c.conn = nil
	}
}

// close ends the connection in order.
func (c *connector) close() {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	if c.conn != nil {
		c.conn.end()
		c.conn = nil
	}
}

// abort ends the connection at once, and with it every call that waits for the broker.
func (c *connector) abort() {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.drop()
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
