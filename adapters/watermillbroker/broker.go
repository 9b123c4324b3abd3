package watermillbroker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/internal/wmpublisher"
	"github.com/waybillmq/waybill/reliable"
)

// Broker sends through a Watermill publisher. It is safe for concurrent use, with one reader of its confirms. Each call of
// the publisher has a goroutine, which ends with the call.
type Broker struct {
	settings
	pub message.Publisher

	life context.Context //nolint:containedctx // calls outlive the Publish that began them; Close ends it
	end  context.CancelFunc

	mu       sync.Mutex
	taken    int // handed over, and the confirm not received
	running  int // calls that have not returned, those that timed out included
	live     map[*call]struct{}
	lanes    map[lane]*call // calls that have not returned, by what they must not overtake
	alone    *call          // the call that must have no company, while it is live
	ready    []reliable.Confirm
	readable gate
	writable gate
	closed   bool

	closing  sync.Once
	closeErr error
}

var (
	_ reliable.Publisher     = (*Broker)(nil)
	_ reliable.ConfirmSource = (*Broker)(nil)
	_ reliable.Bounded       = (*Broker)(nil)
	_ reliable.Limited       = (*Broker)(nil)
	_ reliable.Wrapper       = (*Broker)(nil)
)

// New returns a broker that sends through pub, which must be safe for concurrent use, as message.Publisher says, and which
// its owner closes after the Broker. Errors are [reliable.InvalidError]s, joined.
func New(pub message.Publisher, opts ...Option) (*Broker, error) {
	s := defaults()
	for _, opt := range opts {
		opt(&s)
	}
	var missing error
	if pub == nil {
		missing = reliable.Invalid("publisher", "is nil")
	}
	if err := errors.Join(missing, s.check()); err != nil {
		return nil, fmt.Errorf("watermillbroker: new: %w", err)
	}
	return newBroker(pub, s), nil
}

func newBroker(pub message.Publisher, s settings) *Broker {
	b := &Broker{settings: s, pub: pub, live: make(map[*call]struct{}), lanes: make(map[lane]*call)}
	b.life, b.end = context.WithCancel(context.Background())
	return b
}

// Watermill returns a Watermill publisher that tells outcomes apart as far as this package can: its errors are
// [*reliable.PublishError]s. It has a window and calls of its own; closing it does not close the wrapped publisher.
func (b *Broker) Watermill() message.Publisher {
	own := newBroker(b.pub, b.settings)
	return wmpublisher.New(own, own, own.Close, wmpublisher.WithConfirmTimeout(b.timeout+time.Second))
}

// MaxConfirmWait is the timeout of a call.
func (b *Broker) MaxConfirmWait() time.Duration { return b.timeout }

// Limits are those of [WithLimits].
func (b *Broker) Limits() reliable.Limits { return b.limits }

// Unwrap returns the Watermill publisher.
func (b *Broker) Unwrap() any { return b.pub }

// Publish begins a call for each attempt, see [reliable.Publisher]. It waits while the window is full, while all calls are
// taken, and while a call runs that the attempt must not overtake.
func (b *Broker) Publish(ctx context.Context, batch []reliable.Attempt) (int, error) {
	for i := range batch {
		if err := b.handOver(ctx, &batch[i]); err != nil {
			return i, fmt.Errorf("watermillbroker: publish: %w", err)
		}
	}
	return len(batch), nil
}

func (b *Broker) handOver(ctx context.Context, a *reliable.Attempt) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return reliable.ErrClosed
		}
		obstacle := b.begin(a)
		if obstacle == "" {
			b.mu.Unlock()
			return nil
		}
		changed := b.writable.wait()
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", obstacle, ctx.Err())
		}
	}
}

// begin hands one attempt over, or says what it has to wait for.
func (b *Broker) begin(a *reliable.Attempt) (obstacle string) {
	at := laneOf(a)
	before := b.lanes[at]
	switch {
	case b.taken >= b.window:
		return fmt.Sprintf("window of %d is full", b.window)
	case before != nil && before.answered:
		b.taken++
		b.confirm(a.ID, a.Fence, reliable.Unknown, errStillRunning)
		return ""
	}
	if b.limits != (reliable.Limits{}) {
		if err := b.limits.Check(&a.Envelope); err != nil {
			b.taken++
			b.confirm(a.ID, a.Fence, reliable.Rejected, err)
			return ""
		}
	}
	switch {
	case before != nil:
		return "an earlier call for the same id or key still runs"
	case b.running >= b.concurrency:
		return fmt.Sprintf("%d calls of the publisher still run", b.running)
	case b.alone != nil, a.Alone && len(b.live) > 0:
		return "an attempt alone waits for company to go, or has none"
	}
	b.taken++
	b.start(a, at)
	return ""
}

// Receive returns confirms, see [reliable.ConfirmSource].
func (b *Broker) Receive(ctx context.Context, limit int) ([]reliable.Confirm, error) {
	if limit < 1 {
		return nil, reliable.Invalid("limit", "is %d, must be at least 1", limit)
	}
	for {
		b.mu.Lock()
		if n := min(limit, len(b.ready)); n > 0 {
			confirms := append([]reliable.Confirm(nil), b.ready[:n]...)
			b.ready = append(b.ready[:0], b.ready[n:]...)
			b.taken -= n
			b.writable.open()
			b.mu.Unlock()
			return confirms, nil
		}
		if b.closed && len(b.live) == 0 {
			b.mu.Unlock()
			return nil, io.EOF
		}
		changed := b.readable.wait()
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("watermillbroker: receive: %w", ctx.Err())
		}
	}
}

// Close takes no more attempts and waits for the calls that run, up to the close timeout; what is then still open is
// Unknown, and the error is [reliable.ErrDrain]. The wrapped publisher stays open.
func (b *Broker) Close() error {
	b.closing.Do(func() {
		b.mu.Lock()
		b.closed = true
		b.readable.open()
		b.writable.open()
		b.mu.Unlock()
		if cut := b.drain(); cut > 0 {
			b.closeErr = fmt.Errorf("watermillbroker: close: %d calls of the publisher did not return within %v: %w",
				cut, b.closeTimeout, reliable.ErrDrain)
		}
		b.end()
	})
	return b.closeErr
}

// drain waits for live calls and returns how many had to be given up.
func (b *Broker) drain() int {
	timer := time.NewTimer(b.closeTimeout)
	defer timer.Stop()
	for {
		b.mu.Lock()
		if len(b.live) == 0 {
			b.mu.Unlock()
			return 0
		}
		changed := b.writable.wait()
		b.mu.Unlock()
		select {
		case <-changed:
		case <-timer.C:
			return b.giveUp()
		}
	}
}

func (b *Broker) giveUp() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	cut := len(b.live)
	for c := range b.live {
		b.answer(c, reliable.Unknown, errCutOff)
	}
	return cut
}
