package natsbroker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybillmq/waybill/reliable"
)

var (
	_ reliable.Publisher     = (*Broker)(nil)
	_ reliable.ConfirmSource = (*Broker)(nil)
	_ reliable.Bounded       = (*Broker)(nil)
	_ reliable.Limited       = (*Broker)(nil)
	_ reliable.Pinger        = (*Broker)(nil)
)

// chunk is how many attempts are encoded before they are passed on to the connection, so that both go on at once.
const chunk = 64

// slack is what MaxConfirmWait adds to the confirm timeout for giving up a connection on a busy machine.
const slack = time.Second

// Broker publishes to JetStream. It is safe for concurrent use; Receive has one reader at a time.
type Broker struct {
	cfg Config
	settings
	start time.Time // origin of the clock that flights are timed by

	keeper sync.Once       // starts keep at the first use of a connection
	life   context.Context //nolint:containedctx // what keep does ends with Close, not with a call
	end    context.CancelFunc
	kept   chan struct{} // closed when keep has returned

	mu        sync.Mutex
	closed    bool
	session   *session // nil while there is no connection
	lastErr   error    // why there is none
	free      int      // slots of the window
	inFlight  int      // handed over, not confirmed
	lastToken uint64
	confirms  []reliable.Confirm // not yet received
	carried   int                // max_payload of the server last connected to
	changed   chan struct{}      // closed and replaced when a slot or a connection is there, or all is over
	waiting   int                // how many wait for that
	ready     chan struct{}      // a note that confirms are there, or all is over
}

// New returns a broker for the server in cfg. It does no I/O and starts nothing: the connection is made in the
// background when it is first needed, and made again whenever it is lost. Whoever makes a broker closes it.
func New(cfg Config, opts ...Option) (*Broker, error) {
	s := defaults()
	for _, opt := range opts {
		opt(&s)
	}
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("natsbroker: new: %w", err)
	}
	return prepare(cfg, s), nil
}

func prepare(cfg Config, s settings) *Broker {
	b := &Broker{
		cfg:      cfg,
		settings: s,
		start:    time.Now(),
		kept:     make(chan struct{}),
		lastErr:  errNotYet,
		free:     s.window,
		carried:  s.maxPayload,
		changed:  make(chan struct{}),
		ready:    make(chan struct{}, 1),
	}
	b.life, b.end = context.WithCancel(context.Background())
	return b
}

// Publish implements [reliable.Publisher]. It waits while the window is full or there is no connection. An attempt's
// Alone changes nothing: sizes and subjects are checked before they are sent, so no message can take its connection
// down.
func (b *Broker) Publish(ctx context.Context, batch []reliable.Attempt) (int, error) {
	handed := 0
	for handed < len(batch) {
		n, err := b.reserve(ctx, min(chunk, len(batch)-handed))
		if err != nil {
			return handed, err
		}
		fs := make([]flight, n)
		largest := b.Limits().Payload
		for i := range fs {
			b.encode(&fs[i], &batch[handed+i], largest)
		}
		if b.handOver(fs) {
			handed += n
		}
	}
	return handed, nil
}

// reserve takes up to n slots of the window, at least one, once there is a connection to use them on.
func (b *Broker) reserve(ctx context.Context, n int) (int, error) {
	for {
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("natsbroker: publish: %w", err)
		}
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return 0, fmt.Errorf("natsbroker: publish: %w", reliable.ErrClosed)
		}
		if b.session != nil && b.free > 0 {
			n = min(n, b.free)
			b.free -= n
			b.mu.Unlock()
			return n, nil
		}
		changed := b.await()
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, fmt.Errorf("natsbroker: publish: %w", b.whyWaiting(ctx))
		}
	}
}

// await starts the keeper and returns what is closed at the next change; the caller holds b.mu.
func (b *Broker) await() <-chan struct{} {
	b.keeper.Do(func() { go b.keep() })
	b.waiting++
	return b.changed
}

// whyWaiting returns ctx's error with what the caller was waiting for.
func (b *Broker) whyWaiting(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.session == nil && !b.closed {
		return fmt.Errorf("%w, while not connected: %w", ctx.Err(), b.lastErr)
	}
	return ctx.Err()
}

// encode fills f from an attempt. The payload is shared until the confirm.
func (b *Broker) encode(f *flight, a *reliable.Attempt, largest int) {
	f.id, f.fence = a.ID, a.Fence
	if len(a.Payload) > largest {
		f.refused = reliable.Invalid("Payload", "has %d bytes, the server's max_payload leaves room for %d: "+
			"send a reference, or raise max_payload", len(a.Payload), largest)
		return
	}
	topic := a.Topic
	var due, stream string
	if b.delaying {
		due, stream, topic = parseDetour(topic)
	}
	subject, err := b.subjectOf(topic)
	if err != nil {
		f.refused = err
		return
	}
	f.msg.Subject, f.msg.Data = subject, a.Payload
	f.msg.Header = header(&a.Envelope, subject, b.dedup)
	if b.delaying {
		scheduled(&f.msg, due, stream)
	}
}

// handOver gives flights to the session; false if there is none any more, and nothing was handed over.
func (b *Broker) handOver(fs []flight) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.session
	if s == nil {
		b.free += len(fs)
		return false
	}
	overdueAt := b.clock() + int64(b.confirmTimeout)
	idle := s.flights.first == nil
	b.inFlight += len(fs)
	for i := range fs {
		f := &fs[i]
		if f.refused != nil {
			b.confirm(f, reliable.Rejected, f.refused)
			continue
		}
		b.lastToken++
		f.token, f.overdueAt = b.lastToken, overdueAt
		f.msg.Reply = s.replyTo(f.token)
		s.flights.add(f)
		s.outgoing = append(s.outgoing, f)
	}
	if len(s.outgoing) > 0 {
		signal(s.toWrite)
	}
	if idle && s.flights.first != nil {
		signal(s.toWatch)
	}
	return true
}

func (b *Broker) clock() int64 { return int64(time.Since(b.start)) }

// MaxConfirmWait implements [reliable.Bounded]: the confirm timeout and a second for giving up the connection.
func (b *Broker) MaxConfirmWait() time.Duration { return b.confirmTimeout + slack }

// Limits implements [reliable.Limited]. The payload's is the server's max_payload, as far as it is known (see
// [WithMaxPayload]), less 4 KiB for headers: one with more metadata than that may be rejected below the limit.
// JetStream takes 64 KiB of headers.
func (b *Broker) Limits() reliable.Limits {
	b.mu.Lock()
	defer b.mu.Unlock()
	return reliable.Limits{Payload: max(b.carried-headroom, 1), Metadata: 48 << 10, MetadataPairs: 256, Topic: maxSubject}
}

// Check returns the [*reliable.InvalidError] for what this broker would reject of env: sizes, and a topic that is no
// subject. It does no I/O.
func (b *Broker) Check(env *reliable.Envelope) error {
	if err := b.Limits().Check(env); err != nil {
		return err
	}
	_, err := b.subjectOf(env.Topic)
	return err
}

// Ping returns nil once the server answers and has JetStream, and says what is wrong otherwise. It connects, and waits
// for that until ctx ends.
func (b *Broker) Ping(ctx context.Context) error {
	err := b.withStream(ctx, func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.AccountInfo(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("natsbroker: ping: %w", err)
	}
	return nil
}

// withStream calls f with JetStream on the connection, once there is one. It returns when ctx ends even if f does not:
// nats.go waits for a blocked socket without looking at a context.
func (b *Broker) withStream(ctx context.Context, f func(context.Context, jetstream.JetStream) error) error {
	s, err := b.connected(ctx)
	if err != nil {
		return err
	}
	js, err := b.jetStream(s.nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, b.confirmTimeout)
	result := make(chan error, 1)
	go func() {
		defer cancel()
		result <- f(ctx, js)
	}()
	select {
	case err = <-result:
		return err
	case <-ctx.Done():
		select {
		case err = <-result:
			return err
		default:
			return ctx.Err()
		}
	}
}

// connected waits for a session.
func (b *Broker) connected(ctx context.Context) (*session, error) {
	for {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return nil, reliable.ErrClosed
		}
		if s := b.session; s != nil {
			b.mu.Unlock()
			return s, nil
		}
		changed := b.await()
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, b.whyWaiting(ctx)
		}
	}
}

// Close gives the connection up at once and frees what the broker holds. Attempts still in flight are unknown; whoever
// wants their answers receives all confirms first. What was not received yet can be received still, and then io.EOF.
// Subscribers live on. Closing again does nothing.
func (b *Broker) Close() error {
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		b.end()
		b.wake()
	}
	b.mu.Unlock()
	b.keeper.Do(func() { close(b.kept) })
	<-b.kept
	signal(b.ready)
	return nil
}
