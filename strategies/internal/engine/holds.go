package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// holdAfter is how many refusals in a row, without a success between them, hold a topic.
	holdAfter = 3
	// holdsRefresh is how often a process looks for holds that others opened or released.
	holdsRefresh = 5 * time.Second
	// holdBatch is how many waiting envelopes are released, or failed, by one statement.
	holdBatch = 1000
)

// holds keeps destinations that refuse from using up the fleet: what is wrong with a destination is not a message's fault.
// A held topic has one envelope sent per backoff, as a probe; the first success releases the rest.
type holds struct {
	e *Engine

	mu     sync.Mutex
	topics map[string]*topicState
	wake   chan struct{}

	opening chan struct{} // held by who opens holds; a channel, because it is waited for as long as the store takes
}

type topicState struct {
	refusals int // in a row, before the topic is held
	held     bool
	open     bool // hold is to be opened, or extended, in the store
	release  bool // a success was seen
	count    int  // refusals counted by the store
}

func newHolds(e *Engine) *holds {
	return &holds{e: e, topics: make(map[string]*topicState), wake: make(chan struct{}, 1), opening: make(chan struct{}, 1)}
}

// held reports whether attempts of the topic are to wait.
func (h *holds) held(topic string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	state := h.topics[topic]
	return state != nil && state.held && !state.release
}

// note counts an answer for its topic and reports whether the topic is held.
func (h *holds) note(en *entry, c *reliable.Confirm) bool {
	if h.e.holder == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	state := h.topics[en.attempt.Topic]
	switch c.Outcome {
	case reliable.Acked:
		if state == nil {
			return false
		}
		if state.held {
			state.release = true
			signal(h.wake)
		} else {
			delete(h.topics, en.attempt.Topic)
		}
		return false
	case reliable.Nacked, reliable.Returned:
		if state == nil {
			state = &topicState{}
			h.topics[en.attempt.Topic] = state
		}
		state.refusals++
		if !state.held && state.refusals >= holdAfter || state.held && en.probe {
			state.held, state.open, state.release = true, true, false
			signal(h.wake)
		}
		return state.held
	case reliable.Rejected, reliable.Unknown:
	}
	return state != nil && state.held
}

// loop does what note asked for, probes, and follows the holds of other processes.
func (h *holds) loop(ctx context.Context) {
	if h.e.holder == nil {
		return
	}
	refreshed := time.Time{}
	for ctx.Err() == nil {
		if time.Since(refreshed) >= holdsRefresh || h.any() {
			refreshed = time.Now()
			if err := h.pass(ctx); err != nil && ctx.Err() == nil {
				h.e.cfg.Logger.WarnContext(ctx, "looking after held topics failed, will be tried again", "error", err)
			}
		}
		timer := time.NewTimer(h.e.cfg.PollInterval)
		select {
		case <-timer.C:
		case <-h.wake:
			pause(ctx, minClaimPause)
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// any reports whether a topic is held as far as this process knows.
func (h *holds) any() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, state := range h.topics {
		if state.held {
			return true
		}
	}
	return false
}

// pass carries out what was asked, takes over the holds of other processes, and sends the probes that are due.
func (h *holds) pass(ctx context.Context) error {
	if h.e.holder == nil {
		return nil
	}
	errs := []error{h.carryOut(ctx)}
	current, err := h.e.holder.Holds(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	h.follow(current)
	for _, hold := range current {
		if h.usedUp(hold) {
			errs = append(errs, h.failTogether(ctx, hold))
		}
		if hold.NextProbe <= 0 {
			errs = append(errs, h.probe(ctx, hold.Topic))
		}
	}
	return errors.Join(errs...)
}

// carryOut opens and releases holds as the answers asked.
func (h *holds) carryOut(ctx context.Context) error {
	var errs []error
	for _, topic := range h.asked(func(state *topicState) bool { return state.release }) {
		h.e.suspect.acquit(topic, false) // it was the destination, and that is mended
		errs = append(errs, h.release(ctx, topic))
	}
	return errors.Join(append(errs, h.openAll(ctx))...)
}

// openAll opens, and extends, the holds that answers asked for. Envelopes are parked only after it: behind a hold that is
// not there yet they would not wait.
func (h *holds) openAll(ctx context.Context) error {
	select {
	case h.opening <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-h.opening }()
	var errs []error
	for _, topic := range h.asked(func(state *topicState) bool { return state.open && !state.release }) {
		errs = append(errs, h.open(ctx, topic))
	}
	return errors.Join(errs...)
}

func (h *holds) asked(what func(state *topicState) bool) (topics []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for topic, state := range h.topics {
		if what(state) {
			topics = append(topics, topic)
		}
	}
	return topics
}

// follow makes this process's picture that of the store.
func (h *holds) follow(current []reliable.Hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	stored := make(map[string]bool, len(current))
	for _, hold := range current {
		stored[hold.Topic] = true
		state := h.topics[hold.Topic]
		if state == nil {
			state = &topicState{}
			h.topics[hold.Topic] = state
		}
		state.held, state.count = true, hold.Refusals
	}
	for topic, state := range h.topics {
		if state.held && !state.open && !stored[topic] {
			delete(h.topics, topic) // released by another process
		}
	}
}

func (h *holds) open(ctx context.Context, topic string) error {
	h.mu.Lock()
	count := 0
	if state := h.topics[topic]; state != nil {
		count, state.open = state.count, false
	}
	h.mu.Unlock()
	hold, err := h.e.holder.Hold(ctx, topic, h.e.cfg.Policy.Retry.Delay(count+1))
	h.mu.Lock()
	if state := h.topics[topic]; state != nil {
		state.open, state.count = state.open || err != nil, max(state.count, hold.Refusals)
	}
	h.mu.Unlock()
	if err != nil {
		return err
	}
	if hold.Refusals == 1 {
		h.e.cfg.Logger.WarnContext(ctx, "topic is held: its destination refuses", "topic", topic)
		h.e.suspect.acquit(topic, true)
	}
	if h.e.cfg.Hooks.Held != nil {
		h.e.cfg.Hooks.Held(hold)
	}
	return nil // if it has used up the failure budget now, the next pass sees to it
}

// release lets everything that waits behind a topic go.
func (h *holds) release(ctx context.Context, topic string) error {
	for left := true; left; {
		var err error
		if left, err = h.e.holder.Unhold(ctx, topic, holdBatch); err != nil {
			return err
		}
		h.e.Kick()
	}
	h.released(ctx, topic)
	return nil
}

func (h *holds) released(ctx context.Context, topic string) {
	h.mu.Lock()
	delete(h.topics, topic)
	h.mu.Unlock()
	h.e.cfg.Logger.InfoContext(ctx, "topic is released: its destination accepts again", "topic", topic)
	if h.e.cfg.Hooks.Released != nil {
		h.e.cfg.Hooks.Released(topic)
	}
}

// usedUp reports whether a destination used up the failure budget.
func (h *holds) usedUp(hold reliable.Hold) bool {
	p := h.e.cfg.Policy
	return hold.Refusals >= p.MaxFailures && hold.HeldFor >= p.MinFailing
}

// failTogether fails what has waited behind a destination for as long as the budget allows.
func (h *holds) failTogether(ctx context.Context, hold reliable.Hold) error {
	req := reliable.FailHeldRequest{
		Waited: h.e.cfg.Policy.MinFailing, Reason: "the destination used up the failure budget", Limit: holdBatch,
		Release: h.e.cfg.Policy.ReleaseFailed,
	}
	for ctx.Err() == nil {
		n, err := h.e.holder.FailHeld(ctx, hold.Topic, req)
		if err != nil {
			return err
		}
		if n > 0 && req.Release {
			h.e.Kick() // followers may have become due
		}
		if n > 0 && h.e.cfg.Hooks.FailedTogether != nil {
			h.e.cfg.Hooks.FailedTogether(hold.Topic, n)
		}
		if n < holdBatch {
			return nil
		}
	}
	return ctx.Err()
}

// probe claims one envelope of a held topic and sends it.
func (h *holds) probe(ctx context.Context, topic string) error {
	if !h.e.window.tryReserveProbe() {
		return nil
	}
	leasedAt := time.Now()
	attempts, err := h.e.holder.Probe(ctx, topic, reliable.ClaimRequest{Worker: h.e.cfg.Worker, Max: 1, Lease: h.e.cfg.Lease})
	if err != nil {
		h.e.window.unreserve(1, 0)
		return err
	}
	h.e.settler.claimed(len(attempts))
	h.e.admit(attempts, leasedAt, true, 1, 0)
	if len(attempts) > 0 {
		return nil
	}
	// Another process was faster, or nothing waits that could ask.
	current, err := h.e.holder.Holds(ctx)
	if err != nil {
		return err
	}
	for _, hold := range current {
		if hold.Topic == topic && hold.NextProbe <= 0 {
			return h.dissolve(ctx, topic)
		}
	}
	return nil
}

// dissolve ends a hold behind which nothing waits: the next message asks. That no probe was found can also mean that
// another process is claiming one at this moment; then one more envelope goes, and the hold stays.
func (h *holds) dissolve(ctx context.Context, topic string) error {
	left, err := h.e.holder.Unhold(ctx, topic, 1)
	if err != nil {
		return err
	}
	h.e.Kick()
	if !left {
		h.released(ctx, topic)
	}
	return nil
}

// timedHolder bounds each call: a database that hangs must not stop the loop for good.
type timedHolder struct {
	reliable.Holder
	timeout time.Duration
}

func (t timedHolder) Hold(ctx context.Context, topic string, delay time.Duration) (reliable.Hold, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return t.Holder.Hold(ctx, topic, delay)
}

func (t timedHolder) Holds(ctx context.Context) ([]reliable.Hold, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return t.Holder.Holds(ctx)
}

func (t timedHolder) Probe(ctx context.Context, topic string, req reliable.ClaimRequest) ([]reliable.Attempt, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return t.Holder.Probe(ctx, topic, req)
}

func (t timedHolder) Unhold(ctx context.Context, topic string, limit int) (left bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return t.Holder.Unhold(ctx, topic, limit)
}

func (t timedHolder) FailHeld(ctx context.Context, topic string, req reliable.FailHeldRequest) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return t.Holder.FailHeld(ctx, topic, req)
}
