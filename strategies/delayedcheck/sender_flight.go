package delayedcheck

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// handBatch is how many messages go to the publisher in one call, receiveBatch how many confirms are taken at once.
	handBatch    = 256
	receiveBatch = 1000
	// reachPause separates tries at a broker that took nothing, or gave no confirms.
	reachPause = 100 * time.Millisecond
)

// flight is one message on its way to the broker: accepted, handed over, answered.
type flight struct {
	attempt  reliable.Attempt
	accepted time.Time
	places   int              // how many are given back with its answer
	check    bool             // somebody waits for it before anything else happens
	confirm  reliable.Confirm // valid once done is closed
	done     chan struct{}
	behind   []*flight // others with the same ID, which is never in flight twice
}

// outgoing takes messages to the broker and their confirms back. It never tries again: whatever has no ack has a check.
type outgoing struct {
	publisher reliable.Publisher
	confirms  reliable.ConfirmSource
	logger    *slog.Logger
	answered  func(f *flight)

	places *places
	queued chan struct{} // holds a token when the queue may have grown

	mu      sync.Mutex
	fence   int64
	queue   []*flight
	flights map[reliable.ID]*flight
	closed  bool
}

func newOutgoing(publisher reliable.Publisher, confirms reliable.ConfirmSource, cfg *senderConfig, answered func(*flight)) *outgoing {
	return &outgoing{
		publisher: publisher, confirms: confirms, logger: cfg.logger, answered: answered,
		places: newPlaces(cfg.window), queued: make(chan struct{}, 1), flights: make(map[reliable.ID]*flight),
	}
}

// accept puts messages into the queue, once there are places for them. An error means that none of them will be sent.
func (o *outgoing) accept(ctx context.Context, envs []reliable.Envelope) ([]*flight, error) {
	return o.put(ctx, envs, false)
}

// check puts checks into the queue, and returns when they are confirmed. left says whether one may have been taken in
// spite of an error.
func (o *outgoing) check(ctx context.Context, checks []reliable.Envelope) (left bool, err error) {
	flights, err := o.put(ctx, checks, true)
	if err != nil {
		return false, err
	}
	var errs []error
	for _, f := range flights {
		if err := f.wait(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return false, nil
	}
	if ctx.Err() != nil {
		errs = append(errs, context.Cause(ctx)) // which says how long that was
	}
	return !o.withdraw(flights), errors.Join(errs...)
}

// withdraw takes back what is still in the queue, and reports whether that was all.
func (o *outgoing) withdraw(flights []*flight) (all bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	all = true
	for _, f := range flights {
		at := slices.Index(o.queue, f)
		if at < 0 {
			all = false
			continue
		}
		o.queue = slices.Concat(o.queue[:at], o.queue[at+1:]) // what was dequeued shares the array
		delete(o.flights, f.attempt.ID)
		o.places.give(f.places)
	}
	return all
}

// put puts messages, or checks, into the queue.
func (o *outgoing) put(ctx context.Context, envs []reliable.Envelope, check bool) ([]*flight, error) {
	taken := o.places.clamp(len(envs))
	if err := o.places.take(ctx, taken); err != nil {
		return nil, err
	}
	now := time.Now()
	flights := make([]*flight, len(envs))
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		o.places.give(taken)
		return nil, reliable.ErrClosed
	}
	for i := range envs {
		o.fence++
		f := &flight{
			attempt:  reliable.Attempt{Envelope: envs[i], Fence: o.fence, Attempts: 1},
			accepted: now, check: check, done: make(chan struct{}),
		}
		if i < taken {
			f.places = 1
		}
		flights[i] = f
		if first := o.flights[envs[i].ID]; first != nil {
			first.behind = append(first.behind, f)
			continue
		}
		o.flights[envs[i].ID] = f
		o.queue = append(o.queue, f)
	}
	o.signal()
	return flights, nil
}

func (o *outgoing) signal() {
	select {
	case o.queued <- struct{}{}:
	default:
	}
}

// dispatch hands over what is queued, in order, until ctx ends.
func (o *outgoing) dispatch(ctx context.Context) {
	var batch []reliable.Attempt
	for ctx.Err() == nil {
		taken := o.dequeue()
		if len(taken) == 0 {
			select {
			case <-o.queued:
				runtime.Gosched() // those who were woken with the first one go out with it
			case <-ctx.Done():
			}
			continue
		}
		batch = batch[:0]
		for _, f := range taken {
			batch = append(batch, f.attempt)
		}
		n, err := o.publisher.Publish(ctx, batch)
		clear(batch)
		if n == len(taken) {
			continue
		}
		o.requeue(taken[n:])
		if n == 0 && ctx.Err() == nil {
			o.logger.DebugContext(ctx, "the broker took no message; they wait, and their checks would have them sent", "error", err)
			pause(ctx, reachPause)
		}
	}
}

func (o *outgoing) dequeue() []*flight {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := min(handBatch, len(o.queue))
	taken := o.queue[:n:n]
	if o.queue = o.queue[n:]; len(o.queue) == 0 {
		o.queue = nil
	}
	return taken
}

func (o *outgoing) requeue(flights []*flight) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = append(slices.Clip(flights), o.queue...)
}

// receive takes confirms to whom they belong, until ctx ends or the publisher is closed, which is the error.
func (o *outgoing) receive(ctx context.Context) error {
	for {
		confirms, err := o.confirms.Receive(ctx, receiveBatch)
		for i := range confirms {
			o.finish(&confirms[i])
		}
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it was stopped
		case errors.Is(err, io.EOF):
			return fmt.Errorf("the publisher was closed: %w", reliable.ErrClosed)
		default:
			o.logger.WarnContext(ctx, "receiving confirms failed, will be tried again", "error", err)
			pause(ctx, reachPause)
		}
	}
}

// finish ends a flight and lets the next one with its ID go.
func (o *outgoing) finish(confirm *reliable.Confirm) {
	o.mu.Lock()
	f := o.flights[confirm.ID]
	if f == nil || f.attempt.Fence != confirm.Fence {
		o.mu.Unlock()
		return
	}
	delete(o.flights, confirm.ID)
	if len(f.behind) > 0 {
		next := f.behind[0]
		next.behind = f.behind[1:]
		o.flights[confirm.ID] = next
		o.queue = append(o.queue, next)
		o.signal()
	}
	o.mu.Unlock()
	f.confirm = *confirm
	o.answered(f)
	close(f.done)
	o.places.give(f.places)
}

// close takes nothing more and leaves nobody waiting; it returns how many messages had no answer, checks aside. Nothing else
// runs by now.
func (o *outgoing) close(cause error) (left int) {
	o.mu.Lock()
	o.closed = true
	var unanswered []reliable.Confirm
	for id, f := range o.flights {
		for _, f := range append([]*flight{f}, f.behind...) {
			unanswered = append(unanswered, reliable.Confirm{ID: id, Fence: f.attempt.Fence, Err: cause})
			if !f.check {
				left++
			}
		}
	}
	o.queue = nil
	o.mu.Unlock()
	for i := range unanswered {
		o.finish(&unanswered[i])
	}
	return left
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
