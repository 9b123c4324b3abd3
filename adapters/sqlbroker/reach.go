package sqlbroker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// errNotYet is why there is no connection before the first was tried.
var errNotYet = errors.New("not tried yet")

// await waits for a change: a slot, or a database that can be reached. The caller holds b.mu, which is given up
// meanwhile.
func (b *Broker) await(ctx context.Context) error {
	changed := b.changed
	b.waiting++
	wants := !b.reachable
	if wants {
		b.wanting++
		b.startConnecting()
	}
	b.mu.Unlock()
	var err error
	select {
	case <-changed:
	case <-ctx.Done():
		err = ctx.Err()
	}
	b.mu.Lock()
	if wants {
		b.wanting--
	}
	if err != nil && !b.reachable && !b.closed {
		err = fmt.Errorf("%w, while the database cannot be reached: %w", err, b.lastErr)
	}
	return err
}

// startConnecting makes sure that somebody tries to reach the database; the caller holds b.mu.
func (b *Broker) startConnecting() {
	if !b.trying && !b.closed {
		b.trying = true
		b.work.Go(b.connect)
	}
}

// connect tries to reach the database for as long as somebody waits for it.
func (b *Broker) connect() {
	wait := b.reconnectMin
	for {
		found, err := b.lookWithin(b.confirmTimeout)
		b.mu.Lock()
		if err == nil {
			b.reachable, b.facts, b.same = true, found, undecided
			b.logger.LogAttrs(b.life, slog.LevelInfo, "database of the broker can be reached")
		} else {
			b.lastErr = err
		}
		if err == nil || b.closed || b.wanting == 0 {
			b.trying = false
			b.wake()
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		pause(b.life, wait/2+rand.N(wait/2+1)) //nolint:gosec // jitter needs no secrecy
		wait = min(2*wait, b.reconnectMax)
	}
}

func (b *Broker) lookWithin(timeout time.Duration) (facts, error) {
	ctx, cancel := context.WithTimeout(b.life, timeout)
	defer cancel()
	return b.look(ctx)
}

// look asks the server about itself, on a connection that answers.
func (b *Broker) look(ctx context.Context) (facts, error) {
	var found facts
	conn, err := b.db.Conn(ctx)
	if err != nil {
		return found, b.told(err)
	}
	defer func() { _ = conn.Close() }()
	if found, err = b.dialect.learn(ctx, conn); err != nil {
		discard(conn)
		return found, b.told(err)
	}
	return found, nil
}

// unreachable notes that a connection was lost, so that nothing is handed over until another one answers.
func (b *Broker) unreachable(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastErr = err
	if b.reachable {
		b.reachable = false
		b.logger.LogAttrs(b.life, slog.LevelWarn, "connection of the broker to its database is lost", slog.Any("error", err))
	}
}

// awaitReachable waits until the database can be reached.
func (b *Broker) awaitReachable(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.reachable {
		if b.closed {
			return reliable.ErrClosed
		}
		if err := b.await(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
