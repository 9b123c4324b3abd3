package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/waybillmq/waybill/reliable"
)

var (
	errNotYet  = errors.New("no connection was made yet")
	errSilence = errors.New("the connection gave no sign of life within the confirm timeout")
)

// session is one connection and what is in flight on it. It is never reconnected: the client's own reconnection would
// send what it had buffered after the attempts in question were already reported as unknown. Each session has an inbox
// of its own and tokens are never used twice, so an answer meets the attempt that it is for, or none.
type session struct {
	b     *Broker
	nc    *nats.Conn
	wire  *wire
	inbox string // ends with a dot; the token follows

	losing  sync.Once
	lost    chan struct{} // closed when the client gave the connection up
	toWrite chan struct{} // a note that outgoing is not empty
	toWatch chan struct{} // a note that the first flight has taken off
	written atomic.Uint64 // the highest token that the connection took

	// Guarded by b.mu.
	flights  flights
	outgoing []*flight
	heardAt  int64             // when the last answer came, on the broker's clock
	probes   map[string]*probe // running questions for the stream of a subject
	probing  map[uint64]string // their tokens
}

// keep holds a connection until Close: connects, uses the session until it is lost, cleans up, connects again.
func (b *Broker) keep() {
	defer close(b.kept)
	ctx, wait := b.life, b.reconnectMin
	for ctx.Err() == nil {
		s, err := b.connect(ctx)
		if err != nil {
			b.logger.LogAttrs(ctx, slog.LevelWarn, "nats connection failed", slog.Any("error", err))
			b.setSession(nil, err)
			pause(ctx, wait/2+rand.N(wait/2+1)) //nolint:gosec // jitter
			wait = min(2*wait, b.reconnectMax)
			continue
		}
		b.logger.LogAttrs(ctx, slog.LevelInfo, "nats connected", slog.String("server", s.nc.ConnectedUrlRedacted()))
		wait = b.reconnectMin
		cause := s.run(ctx)
		b.logger.LogAttrs(ctx, slog.LevelWarn, "nats connection lost", slog.Any("error", cause))
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (b *Broker) setSession(s *session, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.session, b.lastErr = s, err
	if s != nil {
		if limit := s.nc.MaxPayload(); limit > 0 {
			b.carried = int(limit)
		}
		b.wake()
	}
}

// connect makes a session, with its inbox, that nobody uses yet.
func (b *Broker) connect(ctx context.Context) (*session, error) {
	s := &session{
		b:       b,
		wire:    newWire(ctx),
		lost:    make(chan struct{}),
		toWrite: make(chan struct{}, 1),
		toWatch: make(chan struct{}, 1),
		flights: flights{byToken: make(map[uint64]*flight, b.window)},
		probes:  make(map[string]*probe),
		probing: make(map[uint64]string),
		heardAt: b.clock(),
	}
	nc, err := b.dial(s.wire, func(o *nats.Options) {
		o.AllowReconnect = false
		o.RetryOnFailedConnect = false
		closed, failed := o.ClosedCB, o.AsyncErrorCB
		o.ClosedCB = func(nc *nats.Conn) {
			s.losing.Do(func() { close(s.lost) })
			if closed != nil {
				closed(nc)
			}
		}
		o.AsyncErrorCB = func(nc *nats.Conn, sub *nats.Subscription, err error) {
			s.onError(err)
			if failed != nil {
				failed(nc, sub, err)
			}
		}
	})
	if err != nil {
		s.wire.cut()
		return nil, err
	}
	s.nc = nc
	s.inbox = nc.NewInbox() + "."
	sub, err := nc.Subscribe(s.inbox+"*", s.onReply)
	if err == nil {
		err = sub.SetPendingLimits(-1, -1) // bounded by the window
	}
	if err != nil {
		s.wire.cut()
		nc.Close()
		return nil, fmt.Errorf("subscribe to replies: %w", err)
	}
	return s, nil
}

// run uses the session until it is lost, given up or the broker closed, and accounts for all that was in flight on it.
func (s *session) run(ctx context.Context) error {
	b := s.b
	stopWriting, wrote := make(chan struct{}), make(chan error, 1)
	go func() { wrote <- s.write(stopWriting) }()
	b.setSession(s, nil)

	var cause error
	writing := true
	alarm := time.NewTimer(b.confirmTimeout)
	alarm.Stop()
	for cause == nil {
		select {
		case <-ctx.Done():
			cause = reliable.ErrClosed
		case <-s.lost:
			if cause = s.nc.LastError(); cause == nil {
				cause = nats.ErrConnectionClosed
			}
		case cause = <-wrote:
			writing = false
		case <-s.toWatch:
			alarm.Reset(b.confirmTimeout)
		case <-alarm.C:
			var next time.Duration
			if next, cause = s.expire(); next > 0 {
				alarm.Reset(next)
			}
		}
	}
	alarm.Stop()

	// From here on nothing is handed over to this session. Its socket is closed first, because a blocked write holds the
	// client's lock; only when the writer has returned may payloads go back to their owners.
	b.setSession(nil, cause)
	s.wire.cut()
	s.nc.Close()
	if writing {
		close(stopWriting)
		_ = <-wrote // why it stopped is known: the socket is closed
	}
	b.mu.Lock()
	err := fmt.Errorf("natsbroker: %w: %w", reliable.ErrConnectionLost, cause)
	for f := s.flights.first; f != nil; f = s.flights.first {
		s.settle(f, reliable.Unknown, err)
	}
	b.mu.Unlock()
	return cause
}

// settle ends a flight; the caller holds b.mu. What is in flight no more, or was a probe, is left alone.
func (s *session) settle(f *flight, outcome reliable.Outcome, err error) {
	if s.flights.byToken[f.token] != f {
		return
	}
	s.flights.remove(f)
	s.b.confirm(f, outcome, err)
}

// write passes flights on to the connection, in order. It alone may be held up by a blocked socket.
func (s *session) write(stop <-chan struct{}) error {
	var batch []*flight
	for {
		select {
		case <-s.toWrite:
		case <-stop:
			return nil
		}
		s.b.mu.Lock()
		batch, s.outgoing = s.outgoing, batch[:0]
		s.b.mu.Unlock()
		for i, f := range batch {
			if err := s.nc.PublishMsg(&f.msg); err != nil {
				if !hopeless(err) {
					return err
				}
				s.b.mu.Lock()
				s.settle(f, reliable.Rejected, rejection(err, s.nc.MaxPayload()))
				s.b.mu.Unlock()
			}
			s.written.Store(f.token)
			batch[i] = nil
		}
	}
}

// expire ends what is overdue, and says when to look again. An attempt that the connection did not take in all this
// time, or a connection on which nothing was answered since, is a reason to give the connection up; otherwise it is the
// stream that does not answer, and neighbours on other streams are left alone.
func (s *session) expire() (next time.Duration, giveUp error) {
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock()
	for f := s.flights.first; f != nil; f = s.flights.first {
		if f.overdueAt > now {
			return time.Duration(f.overdueAt - now), nil
		}
		if f.token > s.written.Load() || s.heardAt < f.overdueAt-int64(b.confirmTimeout) {
			return 0, errSilence
		}
		s.settle(f, reliable.Unknown, fmt.Errorf("natsbroker: no answer from a stream within %v", b.confirmTimeout))
	}
	return 0, nil
}

func (s *session) replyTo(token uint64) string {
	var digits [16]byte
	return s.inbox + string(strconv.AppendUint(digits[:0], token, 36))
}

// onReply takes the answer to a publish or to a probe.
func (s *session) onReply(msg *nats.Msg) {
	token, err := strconv.ParseUint(msg.Subject[len(s.inbox):], 36, 64)
	if err != nil {
		return
	}
	answer := read(msg)
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	s.heardAt = b.clock()
	if subject, ok := s.probing[token]; ok {
		s.probed(token, subject, msg)
		return
	}
	f := s.flights.byToken[token]
	if f == nil {
		return // given up before, or no attempt of ours
	}
	if answer.nobody {
		s.probe(f)
		return
	}
	s.settle(f, answer.outcome, answer.err)
}

// onError takes what the server complains about between the lines. A publish that is not permitted has no other answer.
func (s *session) onError(err error) {
	s.b.logger.LogAttrs(context.Background(), slog.LevelWarn, "nats server complains", slog.Any("error", err))
	subject, ok := forbidden(err)
	if !ok {
		return
	}
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	s.heardAt = b.clock()
	if subject == s.b.namesSubject() {
		for token, probed := range s.probing {
			s.unproved(token, probed, fmt.Errorf("natsbroker: no stream answered, and looking for one: %w", err))
		}
		return
	}
	for f := s.flights.first; f != nil; {
		next := f.next
		if f.msg.Subject == subject && f.token <= s.written.Load() {
			s.settle(f, reliable.Returned, fmt.Errorf("natsbroker: %w; grant the user this subject", err))
		}
		f = next
	}
}

// forbidden returns the subject that publishing was refused to.
func forbidden(err error) (subject string, ok bool) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return "", false
	}
	_, rest, ok := strings.Cut(err.Error(), `Publish to "`)
	if !ok {
		return "", false
	}
	subject, _, ok = strings.Cut(rest, `"`)
	return subject, ok
}
