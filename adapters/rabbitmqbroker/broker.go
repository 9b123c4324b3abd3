package rabbitmqbroker

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"

	"github.com/waybillmq/waybill/reliable"
)

// Broker publishes to RabbitMQ. It is safe for concurrent use; Receive has one caller. It connects in the background when
// it is first used, and stays connected until Close.
type Broker struct {
	settings

	// life ends when Close has waited long enough for what is in flight.
	life    context.Context //nolint:containedctx // the connection's life is the broker's, not a call's
	endLife context.CancelFunc

	mu       sync.Mutex
	inUse    int                // slots of the window: handed over, or about to be, and the confirm not received
	freed    chan struct{}      // closed when slots are freed; nil while nobody waits
	answered []reliable.Confirm // not received yet
	session  *session           // the live one, nil while there is none
	lastErr  error              // why the last attempt to connect failed, or the last session ended; nil while connected
	failures uint64             // attempts to connect that failed so far
	changed  chan struct{}      // closed and replaced when session, lastErr or the session's blocking changes
	idle     chan struct{}      // closed when nothing is in flight; nil while Close does not wait for that
	started  bool
	closed   bool
	counts   Stats

	arrived   chan struct{}  // capacity 1: answered has become non-empty
	connect   chan struct{}  // capacity 1: somebody waits, connect now
	closing   chan struct{}  // closed when Close begins
	ended     chan struct{}  // closed when nothing can be added to answered any more
	lone      lone           // for attempts that go alone
	calls     sync.WaitGroup // of Publish and Ping
	work      sync.WaitGroup // goroutines
	closeOnce sync.Once
}

var (
	_ reliable.Publisher     = (*Broker)(nil)
	_ reliable.ConfirmSource = (*Broker)(nil)
	_ reliable.Bounded       = (*Broker)(nil)
	_ reliable.Limited       = (*Broker)(nil)
	_ reliable.Pinger        = (*Broker)(nil)
)

// New returns a Broker with the topology and marshaler of config, which is what watermill-amqp's constructors take. It does
// no I/O and starts no goroutine; the broker need not be up. Errors are [reliable.ErrInvalid], all of them joined.
func New(config wamqp.Config, opts ...Option) (*Broker, error) {
	s := defaults(config)
	for _, opt := range opts {
		opt(&s)
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("rabbitmqbroker: new: %w", err)
	}
	s.finish()
	return start(s), nil
}

// NewFromURL returns a Broker on which a topic is the name of a durable queue, reached through the default exchange:
// watermill-amqp's NewDurableQueueConfig. The queue is declared before the first message to it. See [New].
func NewFromURL(url string, opts ...Option) (*Broker, error) {
	return New(wamqp.NewDurableQueueConfig(url), opts...)
}

func start(s settings) *Broker {
	b := &Broker{
		settings: s,
		changed:  make(chan struct{}),
		arrived:  make(chan struct{}, 1),
		connect:  make(chan struct{}, 1),
		closing:  make(chan struct{}),
		ended:    make(chan struct{}),
		lone:     lone{slot: make(chan struct{}, 1)},
	}
	b.life, b.endLife = context.WithCancel(context.Background())
	return b
}

// Config returns the config in use, what options changed included: plain watermill-amqp publishers and subscribers made
// with it share this Broker's topology. It holds the URL with its password.
func (b *Broker) Config() wamqp.Config { return b.config }

// MaxConfirmWait is the longer of the confirm and the blocked timeout, and 2 s for a busy machine.
func (b *Broker) MaxConfirmWait() time.Duration {
	return max(b.confirmTimeout, b.blockedTimeout) + confirmMargin
}

// Receive returns confirms, see [reliable.ConfirmSource]. Slots of the window are free again once their confirm was received.
func (b *Broker) Receive(ctx context.Context, limit int) ([]reliable.Confirm, error) {
	if limit < 1 {
		return nil, reliable.Invalid("limit", "is %d, must be at least 1", limit)
	}
	b.start()
	for {
		if confirms := b.take(limit); len(confirms) > 0 {
			return confirms, nil
		}
		select {
		case <-b.arrived:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-b.ended:
			if confirms := b.take(limit); len(confirms) > 0 {
				return confirms, nil
			}
			return nil, io.EOF
		}
	}
}

// take removes up to limit confirms and frees their slots.
func (b *Broker) take(limit int) []reliable.Confirm {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(limit, len(b.answered))
	if n == 0 {
		return nil
	}
	confirms := b.answered[:n:n]
	b.answered = b.answered[n:]
	if len(b.answered) == 0 {
		b.answered = nil
	}
	b.free(n)
	return confirms
}

// deliver makes confirms ready to be received.
func (b *Broker) deliver(confirms []reliable.Confirm) {
	if len(confirms) == 0 {
		return
	}
	b.mu.Lock()
	b.answered = append(b.answered, confirms...)
	b.counts.count(confirms)
	if b.idle != nil && b.inUse == len(b.answered) {
		close(b.idle)
		b.idle = nil
	}
	b.mu.Unlock()
	poke(b.arrived)
}

// acquire waits for room in the window and takes up to want slots of it.
func (b *Broker) acquire(ctx context.Context, want int) (int, error) {
	for {
		b.mu.Lock()
		if n := min(want, b.window-b.inUse); n > 0 {
			b.inUse += n
			b.mu.Unlock()
			return n, nil
		}
		if b.freed == nil {
			b.freed = make(chan struct{})
		}
		freed := b.freed
		b.mu.Unlock()
		select {
		case <-freed:
		case <-b.closing:
			return 0, reliable.ErrClosed
		case <-ctx.Done():
			return 0, fmt.Errorf("the window of %d is full: %w", b.window, ctx.Err())
		}
	}
}

// release gives back slots that were not used.
func (b *Broker) release(n int) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free(n)
}

// free needs mu.
func (b *Broker) free(n int) {
	b.inUse -= n
	if b.freed != nil {
		close(b.freed)
		b.freed = nil
	}
}

// enter counts a call that Close has to wait for, and starts the connection.
func (b *Broker) enter() error {
	b.start()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return reliable.ErrClosed
	}
	b.calls.Add(1)
	return nil
}

// start begins to keep a connection, the first time it is called.
func (b *Broker) start() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.started || b.closed {
		return
	}
	b.started = true
	b.work.Go(b.keepConnected)
}

// Close takes no more attempts, waits for the confirms of those in flight up to the close timeout, and ends the connection.
// What has no confirm by then is Unknown. Confirms that were not received can still be, up to io.EOF. It always returns nil,
// and does nothing the second time.
func (b *Broker) Close() error {
	b.closeOnce.Do(func() {
		b.mu.Lock()
		b.closed = true
		close(b.closing)
		b.mu.Unlock()
		b.calls.Wait()

		patience, cancel := context.WithTimeout(b.life, b.closeTimeout)
		defer cancel()
		b.awaitFlights(patience)
		b.endLife()
		b.work.Wait()
		b.dropLone()
		close(b.ended)
	})
	<-b.ended
	return nil
}

// awaitFlights waits until nothing is in flight. Nothing is handed over any more when it is called.
func (b *Broker) awaitFlights(ctx context.Context) {
	b.mu.Lock()
	if b.inUse == len(b.answered) {
		b.mu.Unlock()
		return
	}
	idle := make(chan struct{})
	b.idle = idle
	b.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// poke leaves a signal in a channel of capacity 1.
func poke(signal chan struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}
