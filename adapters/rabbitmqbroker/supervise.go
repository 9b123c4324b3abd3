package rabbitmqbroker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/waybillmq/waybill/reliable"
)

// steady is how long a session that confirmed nothing must have lasted to be taken for a sign of health.
const steady = time.Second

// keepConnected keeps a session until the broker's life ends.
func (b *Broker) keepConnected() {
	backoff, connecting := b.backoffMin, trouble{}
	for b.life.Err() == nil {
		l, conn, err := b.openLink(b.life)
		if b.life.Err() != nil && err != nil {
			return
		}
		if err != nil {
			b.disconnected(err, true)
			if what := connecting.failed(err); what != nil {
				b.logger.Warn("rabbitmqbroker: cannot connect, will go on trying", what...)
			}
			b.pause(backoff)
			backoff = min(2*backoff, b.backoffMax)
			continue
		}
		s := b.newSession(l, conn, false)
		began := time.Now()
		b.connected(s)
		b.logger.Info("rabbitmqbroker: connected", connecting.over()...)
		err = s.run(b.life)
		b.disconnected(err, false)
		if b.life.Err() != nil {
			return
		}
		b.logger.Warn("rabbitmqbroker: connection lost, connecting again", "error", err)
		if s.acked || time.Since(began) >= steady || closedChannelOnly(err) {
			backoff = b.backoffMin
			continue
		}
		// A broker that lets us in and throws us out at once must not be hammered.
		b.pause(backoff)
		backoff = min(2*backoff, b.backoffMax)
	}
}

// closedChannelOnly reports whether the broker closed the channel for what was published on it, and is fine itself.
func closedChannelOnly(err error) bool {
	var reason *amqp.Error
	return errors.As(err, &reason) && reason.Server && reason.Recover
}

// pause waits for a random part of at most bound, until somebody needs the connection or the broker's life ends.
func (b *Broker) pause(bound time.Duration) {
	timer := time.NewTimer(rand.N(bound) + 1) //nolint:gosec // jitter is no secret
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-b.connect:
	case <-b.life.Done():
	}
}

func (b *Broker) newSession(l link, conn *connection, alone bool) *session {
	topology := newTopology(conn.Connection, &b.settings, b.work.Go)
	config := sessionConfig{
		confirmTimeout: b.confirmTimeout, blockedTimeout: b.blockedTimeout,
		mandatory: b.mandatory, alone: alone,
		deliver: b.deliver, onBlocking: func(amqp.Blocking) {}, onReturn: topology.forget,
	}
	if !alone {
		config.onBlocking = b.blocking
	}
	s := newSession(l, config)
	s.topology = topology
	return s
}

func (b *Broker) connected(s *session) {
	b.mu.Lock()
	b.session, b.lastErr = s, nil
	b.counts.Sessions++
	b.announce()
	b.mu.Unlock()
	if b.hooks.Connected != nil {
		b.hooks.Connected()
	}
}

func (b *Broker) disconnected(cause error, failed bool) {
	b.mu.Lock()
	b.session, b.lastErr = nil, cause
	if failed {
		b.failures++
	}
	b.announce()
	b.mu.Unlock()
	if !failed && b.hooks.Disconnected != nil {
		b.hooks.Disconnected(cause)
	}
}

func (b *Broker) blocking(state amqp.Blocking) {
	b.mu.Lock()
	if state.Active {
		b.counts.Blocks++
	}
	b.announce()
	b.mu.Unlock()
	if state.Active {
		b.logger.Warn("rabbitmqbroker: the broker blocks publishing", "reason", state.Reason)
	} else {
		b.logger.Info("rabbitmqbroker: the broker unblocked publishing")
	}
	if b.hooks.Blocking != nil {
		b.hooks.Blocking(state.Active, state.Reason)
	}
}

// announce tells all that wait for a change. It needs mu.
func (b *Broker) announce() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// usable waits for a session on which the broker reads.
func (b *Broker) usable(ctx context.Context) (*session, error) {
	for {
		b.mu.Lock()
		s, reason, changed := b.session, b.lastErr, b.changed
		b.mu.Unlock()
		if s != nil && !s.blockedNow() {
			return s, nil
		}
		if s != nil {
			reason = errBlocked
		}
		select {
		case <-changed:
		case <-b.closing:
			return nil, reliable.ErrClosed
		case <-ctx.Done():
			return nil, because(ctx.Err(), reason)
		}
	}
}

// because joins why a call gave up with why the broker could not be used, if that is known.
func because(gaveUp, reason error) error {
	if reason == nil {
		return gaveUp
	}
	return fmt.Errorf("%w: %w", gaveUp, reason)
}

// Ping reports whether the broker can be used: nil after a round trip on the connection; a [*ConnectError] if no
// connection can be made, which it tries at once, whatever the backoff says; ctx's error if there was no answer;
// [reliable.ErrClosed] after Close.
func (b *Broker) Ping(ctx context.Context) error {
	if err := b.enter(); err != nil {
		return fmt.Errorf("rabbitmqbroker: ping: %w", err)
	}
	defer b.calls.Done()
	if err := b.ping(ctx); err != nil {
		return fmt.Errorf("rabbitmqbroker: ping: %w", err)
	}
	return nil
}

func (b *Broker) ping(ctx context.Context) error {
	b.mu.Lock()
	before := b.failures
	b.mu.Unlock()
	for {
		b.mu.Lock()
		s, reason, failed, changed := b.session, b.lastErr, b.failures > before, b.changed
		b.mu.Unlock()
		switch {
		case s != nil:
			return b.roundTrip(ctx, s)
		case failed:
			return reason
		}
		poke(b.connect)
		select {
		case <-changed:
		case <-b.closing:
			return reliable.ErrClosed
		case <-ctx.Done():
			return because(ctx.Err(), reason)
		}
	}
}

// roundTrip opens and closes a channel.
func (b *Broker) roundTrip(ctx context.Context, s *session) error {
	answer := make(chan error, 1)
	b.work.Go(func() {
		ch, err := s.topology.conn.Channel()
		if err == nil {
			err = ch.Close()
		}
		answer <- err
	})
	select {
	case err := <-answer:
		return err
	case <-b.closing:
		return reliable.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}
