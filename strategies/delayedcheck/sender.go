package delayedcheck

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/waybillmq/waybill/reliable"
)

var (
	// ErrNotChecked means that no check was confirmed for a message, so that the transaction could not commit, or the
	// message was not sent.
	ErrNotChecked = errors.New("check not confirmed")
	// ErrLeftToCheck means that the check of a message is durable, but that the broker has not confirmed the message: if it
	// does not have it, the check has it sent when it comes due. There is nothing to repeat.
	ErrLeftToCheck = errors.New("message not confirmed, left to its check")
	// ErrTooOld means that a transaction was rolled back because its checks had left too long ago; repeat it.
	ErrTooOld = errors.New("too long between check and commit")
)

// Sender sends the messages of business transactions, each with a check. It is safe for concurrent use.
type Sender struct {
	cfg       senderConfig
	scheduler reliable.Scheduler
	hurried   route // checks of transactions that hold locks
	patient   route // all others
	out       *outgoing
	breaker   *breaker
	life      life
	counts    counters
	chores    *chores
}

var _ Resender = (*Sender)(nil)

// NewSender returns a Sender. Publisher and confirms are usually one adapter; scheduler delivers the checks, to whatever
// broker the callback service listens on; it is nil with [WithTopicChecks]. It starts nothing and does no I/O; what is sent
// before [Sender.Run] waits for it. The caller closes what it passed in, after Run has returned. All that is wrong with the
// options is reported together, as errors that are [reliable.ErrInvalid].
func NewSender(
	publisher reliable.Publisher, confirms reliable.ConfirmSource, scheduler reliable.Scheduler, opts ...SenderOption,
) (*Sender, error) {
	if publisher == nil || confirms == nil {
		return nil, fmt.Errorf("delayedcheck: new sender: %w", reliable.Invalid("publisher and confirms", "must not be nil"))
	}
	cfg, err := newSenderConfig(opts, publisher, scheduler)
	if err != nil {
		return nil, err
	}
	s := &Sender{cfg: cfg, scheduler: scheduler, chores: newChores(cfg.remembering, cfg.logger, processName(), storeTimeout)}
	s.out = newOutgoing(publisher, confirms, &cfg, s.answered)
	s.hurried, s.patient = s.routed(cfg.checkTimeout), s.routed(patientTimeout)
	s.breaker = &breaker{after: cfg.breakAfter, pause: cfg.breakFor, changed: s.breakerChanged}
	return s, nil
}

// Run hands messages to the broker and takes its confirms, and deletes what a witness with rows of its own needs no more
// ([WithMarkerRetention]), until ctx ends. Then nothing new begins: it waits for the
// transactions that are under way and for the confirms of what was handed over, for at most the drain timeout. A Sender
// runs once.
//
// It returns nil after a complete drain; an error that is [reliable.ErrDrain] if something was left to its check; one that
// is [reliable.ErrClosed] if the publisher was closed under it, or it ran before.
func (s *Sender) Run(ctx context.Context) error {
	if err := s.life.begin(); err != nil {
		return fmt.Errorf("delayedcheck: run: %w", err)
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var group sync.WaitGroup
	received := make(chan error, 1)
	beside, end := context.WithCancel(ctx)
	defer end()
	if s.cfg.remembering != nil {
		group.Go(func() { s.chores.loop(beside, "retention of markers", purgeEvery, s.forget) })
	}
	group.Go(func() { s.out.dispatch(work) })
	group.Go(func() { received <- s.out.receive(work) })

	var closed error
	select {
	case <-ctx.Done():
		s.drain(ctx)
	case closed = <-received:
		s.life.end()
	}
	end()
	stop()
	group.Wait()
	cause := closed
	if cause == nil {
		cause = reliable.ErrDrain
	}
	left := s.out.close(cause)
	switch {
	case closed != nil:
		return fmt.Errorf("delayedcheck: run: %w", closed)
	case left > 0:
		return fmt.Errorf("delayedcheck: run: %w: %d messages had no confirm after %v; their checks have them sent",
			reliable.ErrDrain, left, s.cfg.drainTimeout)
	}
	return nil
}

// drain waits for the calls that are under way and for the confirms of what they hand over.
func (s *Sender) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.drainTimeout)
	defer cancel()
	select {
	case <-s.life.end():
		_ = s.out.places.take(ctx, s.cfg.window) // all of them are free when nothing is on its way
	case <-ctx.Done():
	}
}

// answered is told of the broker's answer to a message. Who waits for a check is told by that itself.
func (s *Sender) answered(f *flight) {
	if f.check {
		return
	}
	env, confirm := &f.attempt.Envelope, &f.confirm
	if confirm.Outcome == reliable.Acked {
		s.counts.acked.Add(1)
	} else {
		s.counts.unconfirmed.Add(1)
		s.cfg.logger.Debug("message not confirmed, left to its check",
			"id", env.ID, "topic", env.Topic, "outcome", confirm.Outcome.String(), "error", confirm.Err)
	}
	if s.cfg.hooks.Answered != nil {
		s.cfg.hooks.Answered(env, confirm, since(f.accepted))
	}
}

func (s *Sender) breakerChanged(open bool) {
	if open {
		s.counts.breakerOpened.Add(1)
		s.cfg.logger.Warn("checks are not confirmed; transactions do not wait for them for a while", "pause", s.cfg.breakFor)
	} else {
		s.cfg.logger.Info("checks are confirmed again")
	}
	if s.cfg.hooks.BreakerChanged != nil {
		s.cfg.hooks.BreakerChanged(open)
	}
}

// prepare returns copies of envs with IDs and captured metadata, after checking each.
func (s *Sender) prepare(ctx context.Context, envs []reliable.Envelope) ([]reliable.Envelope, error) {
	prepared := make([]reliable.Envelope, len(envs))
	for i := range envs {
		prepared[i] = envs[i]
		env := &prepared[i]
		if env.ID == "" {
			env.ID = reliable.NewID()
		}
		if s.cfg.capture != nil {
			captured := maps.Clone(s.cfg.capture(ctx))
			maps.Copy(captured, env.Metadata)
			env.Metadata = captured
		}
		if err := s.acceptable(env); err != nil {
			return nil, fmt.Errorf("message %d of %d: %w", i+1, len(envs), err)
		}
	}
	return prepared, nil
}

func (s *Sender) acceptable(env *reliable.Envelope) error {
	if err := s.cfg.limits.Check(env); err != nil {
		return err
	}
	switch {
	case len(s.cfg.groupsOf(env.Topic)) == 0:
		return reliable.Invalid("Topic", "%q has no consumer groups whose confirms a check could wait for; "+
			"name them by WithTopicGroups or WithGroups", env.Topic)
	case env.Delay != 0 || env.Deadline != 0:
		return reliable.Invalid("Delay and Deadline", "are kept by an outbox only; use tagging for such a message")
	}
	return nil
}

// life says whether a Sender takes calls, and waits for those that are under way.
type life struct {
	mu       sync.Mutex
	running  bool
	over     bool
	calls    int
	finished chan struct{} // closed when it is over and the last call has left
}

func (l *life) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running {
		return fmt.Errorf("it ran before; make another Sender: %w", reliable.ErrClosed)
	}
	l.running, l.finished = true, make(chan struct{})
	return nil
}

// enter begins a call, which ends with leave.
func (l *life) enter() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return fmt.Errorf("Run has ended: %w", reliable.ErrClosed)
	}
	l.calls++
	return nil
}

func (l *life) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls--; l.calls == 0 && l.over {
		close(l.finished)
	}
}

func (l *life) end() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	if l.calls == 0 {
		close(l.finished)
	}
	return l.finished
}
