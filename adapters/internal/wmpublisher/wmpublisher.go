// Package wmpublisher makes a Watermill publisher of a broker adapter's own publisher.
//
// What it promises: Publish returns nil only once the broker has confirmed every message; whatever was refused, returned,
// rejected or left without an answer is in the error as a [*reliable.PublishError], and what was certainly never sent is
// said to be so. All messages of a call are in flight together, so that a call costs one round trip rather than one for
// each message. A message UUID is never in flight twice: who publishes it again waits for the first one's answer.
package wmpublisher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

const (
	defaultConfirmTimeout = 30 * time.Second
	receiveLimit          = 512
)

// Option changes how a Publisher works.
type Option func(*Publisher)

// WithConfirmTimeout bounds one call of Publish, the wait for room in the window and for the confirms together. Default
// 30 s; above 0, which adapters check. Too short makes [reliable.ErrUnknown] of what the broker has taken; longer than the
// adapter's own confirm timeout is right, because then the adapter's verdict comes first.
func WithConfirmTimeout(timeout time.Duration) Option {
	return func(p *Publisher) { p.timeout = timeout }
}

// Publisher implements Watermill's message.Publisher on a pair that it alone uses, since a ConfirmSource has one reader.
// It is safe for concurrent use. One goroutine reads the confirms from the first Publish until Close.
type Publisher struct {
	pub       reliable.Publisher
	src       reliable.ConfirmSource
	closePair func() error
	timeout   time.Duration

	readCtx  context.Context //nolint:containedctx // the reader's life is the publisher's, not a call's
	stopRead context.CancelFunc

	mu      sync.Mutex
	fence   int64
	flights map[reliable.ID]*flight
	reader  chan struct{} // closed when the reader has ended; nil while there is none
	closed  bool

	closing  sync.Once
	closeErr error
}

var _ message.Publisher = (*Publisher)(nil)

// flight is a message that was, or is about to be, handed over. It stays registered until its confirm is there, even if
// nobody waits for that any more.
type flight struct {
	id      reliable.ID
	fence   int64
	confirm reliable.Confirm // valid once done is closed
	done    chan struct{}
}

// New returns the Watermill face of pub and src, which nobody else may use. closePair closes both; it is called by Close,
// once, and must let src come to io.EOF, as the contract of [reliable.ConfirmSource] says. New starts no goroutine.
func New(pub reliable.Publisher, src reliable.ConfirmSource, closePair func() error, opts ...Option) *Publisher {
	p := &Publisher{
		pub: pub, src: src, closePair: closePair, timeout: defaultConfirmTimeout,
		flights: make(map[reliable.ID]*flight),
	}
	p.readCtx, p.stopRead = context.WithCancel(context.Background())
	for _, opt := range opts {
		opt(p)
	}
	return p
}

// Publish sends the messages to topic, in order, and waits until the broker has answered for each. It returns nil if all
// were acked, else the errors joined. It ends early when the context of any of the messages does, or after the confirm
// timeout: then what was handed over is [reliable.ErrUnknown], and the rest was not sent. Metadata that belongs to Waybill,
// as a received message carries it, is written anew; an empty UUID is replaced by a new ID.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	if len(messages) == 0 {
		return nil
	}
	ctx, cancel := p.callContext(messages)
	defer cancel()
	flights, err := p.send(ctx, topic, messages)
	return errors.Join(wait(ctx, topic, flights), err)
}

// Unwrap returns the adapter's publisher, so that its abilities stay reachable.
func (p *Publisher) Unwrap() any { return p.pub }

// Close closes the pair and ends the reader. Calls of Publish that are in progress return with what became of their
// messages. It waits for the reader no longer than the confirm timeout, and is [reliable.ErrDrain] if that passed.
func (p *Publisher) Close() error {
	p.closing.Do(func() {
		p.mu.Lock()
		p.closed = true
		reader := p.reader
		p.mu.Unlock()
		p.closeErr = p.closePair()
		if reader != nil {
			p.closeErr = errors.Join(p.closeErr, p.awaitReader(reader))
		}
		p.stopRead()
	})
	return p.closeErr
}

func (p *Publisher) awaitReader(reader chan struct{}) error {
	timer := time.NewTimer(p.timeout)
	defer timer.Stop()
	select {
	case <-reader:
		return nil
	case <-timer.C:
	}
	p.stopRead()
	return fmt.Errorf("close: confirms did not end within %v: %w", p.timeout, reliable.ErrDrain)
}

// callContext ends with the first of the messages' contexts, and after the confirm timeout.
func (p *Publisher) callContext(messages []*message.Message) (context.Context, context.CancelFunc) {
	first := messages[0].Context()
	ctx, cancel := context.WithTimeoutCause(first, p.timeout, &timeoutError{after: p.timeout})
	var stops []func() bool
	for _, msg := range messages[1:] {
		if other := msg.Context(); other != first && other.Done() != nil {
			stops = append(stops, context.AfterFunc(other, cancel))
		}
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}

// send hands the messages over and returns the flights of those that were; the error is about the others.
func (p *Publisher) send(ctx context.Context, topic string, messages []*message.Message) ([]*flight, error) {
	sent := make([]*flight, 0, len(messages))
	unsent := func(cause error) error {
		return fmt.Errorf("publish to topic %q: %d of %d messages not sent, the first of them %q: %w",
			topic, len(messages)-len(sent), len(messages), messages[len(sent)].UUID, cause)
	}
	for len(sent) < len(messages) {
		batch, flights, busy, err := p.register(topic, messages[len(sent):])
		switch {
		case err != nil:
			return sent, unsent(err)
		case len(batch) == 0:
			select {
			case <-busy.done:
			case <-ctx.Done():
				return sent, unsent(fmt.Errorf("its id is still in flight: %w", context.Cause(ctx)))
			}
			continue
		}
		n, err := p.pub.Publish(ctx, batch)
		p.withdraw(flights[n:])
		sent = append(sent, flights[:n]...)
		if err == nil && n < len(batch) {
			err = fmt.Errorf("the publisher handed over %d of %d without an error", n, len(batch))
		}
		if err != nil && len(sent) < len(messages) {
			return sent, unsent(err)
		}
	}
	return sent, nil
}

// register takes the longest prefix of messages whose ids are not in flight, and the flight in the way of the next one.
func (p *Publisher) register(topic string, messages []*message.Message) (
	batch []reliable.Attempt, flights []*flight, busy *flight, err error,
) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, nil, reliable.ErrClosed
	}
	if p.reader == nil {
		p.reader = make(chan struct{})
		go p.read(p.reader)
	}
	batch = make([]reliable.Attempt, 0, len(messages))
	flights = make([]*flight, 0, len(messages))
	for _, msg := range messages {
		env := reliable.EnvelopeOf(topic, msg)
		if env.ID == "" {
			env.ID = reliable.NewID()
		}
		if busy = p.flights[env.ID]; busy != nil {
			break
		}
		p.fence++
		next := &flight{id: env.ID, fence: p.fence, done: make(chan struct{})}
		p.flights[env.ID] = next
		flights = append(flights, next)
		batch = append(batch, reliable.Attempt{Envelope: env, Fence: p.fence, Attempts: 1})
	}
	return batch, flights, busy, nil
}

// withdraw forgets flights that were not handed over.
func (p *Publisher) withdraw(flights []*flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range flights {
		p.finish(f.id, reliable.Confirm{ID: f.id, Fence: f.fence})
	}
}

// read takes confirms to whom they belong until the source ends.
func (p *Publisher) read(ended chan struct{}) {
	defer close(ended)
	for {
		confirms, err := p.src.Receive(p.readCtx, receiveLimit)
		p.mu.Lock()
		for _, confirm := range confirms {
			p.finish(confirm.ID, confirm)
		}
		if err != nil {
			p.end(err)
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
	}
}

// end leaves nobody waiting for a confirm that cannot come any more; the next Publish starts another reader.
func (p *Publisher) end(cause error) {
	if errors.Is(cause, io.EOF) {
		cause = reliable.ErrClosed
	}
	for id, f := range p.flights {
		p.finish(id, reliable.Confirm{ID: id, Fence: f.fence, Err: fmt.Errorf("reading confirms ended: %w", cause)})
	}
	p.reader = nil
}

func (p *Publisher) finish(id reliable.ID, confirm reliable.Confirm) {
	f := p.flights[id]
	if f == nil || f.fence != confirm.Fence {
		return
	}
	delete(p.flights, id)
	f.confirm = confirm
	close(f.done)
}

// wait collects the verdicts of the flights until ctx ends.
func wait(ctx context.Context, topic string, flights []*flight) error {
	var errs []error
	for _, f := range flights {
		confirm := reliable.Confirm{ID: f.id}
		select {
		case <-f.done:
			confirm = f.confirm
		default:
			select {
			case <-f.done:
				confirm = f.confirm
			case <-ctx.Done():
				confirm.Err = context.Cause(ctx)
			}
		}
		if confirm.Outcome != reliable.Acked {
			errs = append(errs, &reliable.PublishError{
				ID: f.id, Topic: topic, Outcome: confirm.Outcome, Cause: confirm.Err,
			})
		}
	}
	return errors.Join(errs...)
}

// timeoutError is what a call ends with that ran into the confirm timeout; it is context.DeadlineExceeded.
type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string { return fmt.Sprintf("no confirm within %v", e.after) }

func (e *timeoutError) Unwrap() error { return context.DeadlineExceeded }
