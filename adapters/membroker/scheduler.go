package membroker

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Scheduler delivers messages of a [Broker] later. They wait in the broker, so they outlive the Scheduler and every Crash;
// what comes due during an outage, or while its topic is undeclared or full, comes once that is over. It is safe for
// concurrent use and needs no Close.
type Scheduler struct {
	b      *Broker
	script func(Scheduled) ScheduleVerdict
}

var _ reliable.Scheduler = (*Scheduler)(nil)

// Scheduled is what a script of a Scheduler decides on.
type Scheduled struct {
	reliable.Envelope
	// After is the delay asked for.
	After time.Duration
	// Number counts what this Broker's scripts of this kind were asked about, from 1.
	Number int
}

// ScheduleVerdict says what becomes of one scheduled message. The zero value is what a healthy broker does.
type ScheduleVerdict struct {
	// Act is what happens. Lie loses the message and tells nobody: the check lost in its delay hop. LoseConfirm keeps it
	// and LoseMessage does not, and for both Schedule is [reliable.ErrUnknown]. Nack, Return, Reject and Refuse are
	// refusals with their own errors. Cut is LoseConfirm and CutBefore is LoseMessage, with
	// [reliable.ErrConnectionLost]; Poison is Reject.
	Act Act
	// Delay is how long Schedule takes to answer; its context may end before that.
	Delay time.Duration
	// Late is by how much the message comes after its time.
	Late time.Duration
	// Extra is how many further copies of it come.
	Extra int
	// Err is what the error of Schedule wraps; nil means a text that fits.
	Err error
}

// SchedulerOption makes a Scheduler misbehave.
type SchedulerOption func(*Scheduler)

// WithScheduleScript has script decide on each message as it is scheduled. It is called by one goroutine at a time and may
// call the broker's controls, but must neither schedule nor publish nor wait. Default: every verdict is the zero one.
func WithScheduleScript(script func(Scheduled) ScheduleVerdict) SchedulerOption {
	return func(s *Scheduler) { s.script = script }
}

// Scheduler returns a scheduler whose messages come on this broker's topics. Any delay is kept exactly.
func (b *Broker) Scheduler(opts ...SchedulerOption) *Scheduler {
	s := &Scheduler{b: b}
	for _, opt := range opts {
		opt(s)
	}
	return s
}

// Schedule implements [reliable.Scheduler]. During an outage, and while the broker is blocked, it waits until ctx ends, or
// fails at once (see [WithFailFast]). Messages are taken one by one: those before the first that is not taken stay taken.
func (s *Scheduler) Schedule(ctx context.Context, after time.Duration, envs ...reliable.Envelope) error {
	if after < 0 {
		return fmt.Errorf("membroker: schedule: %w", reliable.Invalid("after", "is %v, must not be negative", after))
	}
	for i := range envs {
		attempt := reliable.Attempt{Envelope: envs[i]}
		if err := s.b.refusal(&attempt); err != nil {
			return fmt.Errorf("membroker: schedule: %w", err)
		}
	}
	for i := range envs {
		if err := s.one(ctx, after, &envs[i]); err != nil {
			return fmt.Errorf("membroker: schedule: %w", err)
		}
	}
	return nil
}

func (s *Scheduler) one(ctx context.Context, after time.Duration, env *reliable.Envelope) error {
	if err := s.b.awaitServing(ctx); err != nil {
		return err
	}
	verdict := s.ask(after, env)
	outcome, kept, cause := verdict.fate()
	if kept {
		s.b.keep(env, after+verdict.Late, 1+verdict.Extra)
	}
	if verdict.Delay > 0 {
		if err := await(ctx, nil, time.Now().Add(verdict.Delay)); err != nil {
			return errors.Join(reliable.ErrUnknown, err)
		}
	}
	switch {
	case verdict.Act == Refuse:
		return cause
	case outcome != reliable.Acked:
		return &reliable.PublishError{ID: env.ID, Topic: env.Topic, Outcome: outcome, Cause: cause}
	}
	return nil
}

func (s *Scheduler) ask(after time.Duration, env *reliable.Envelope) ScheduleVerdict {
	if s.script == nil {
		return ScheduleVerdict{}
	}
	s.b.scriptTurn.Lock()
	defer s.b.scriptTurn.Unlock()
	s.b.mu.Lock()
	s.b.scheduled++
	question := Scheduled{Envelope: *env, After: after, Number: s.b.scheduled}
	s.b.mu.Unlock()
	return s.script(question)
}

// fate is what Schedule answers, and whether the message was kept.
func (v *ScheduleVerdict) fate() (outcome reliable.Outcome, kept bool, cause error) {
	because := func(text error) error {
		if v.Err != nil {
			return v.Err
		}
		return text
	}
	switch v.Act {
	case Nack:
		return reliable.Nacked, false, because(errScripted)
	case Return:
		return reliable.Returned, false, because(errScripted)
	case Reject, Poison:
		return reliable.Rejected, false, because(errScripted)
	case Refuse:
		return reliable.Nacked, false, because(ErrRefused)
	case LoseConfirm:
		return reliable.Unknown, true, because(errNoAnswer)
	case LoseMessage:
		return reliable.Unknown, false, because(errNoAnswer)
	case Cut:
		return reliable.Unknown, true, lostBecause(v.Err)
	case CutBefore:
		return reliable.Unknown, false, lostBecause(v.Err)
	case Lie:
		return reliable.Acked, false, nil
	case Serve:
	}
	return reliable.Acked, true, nil
}

// awaitServing waits until the broker is neither down nor blocked.
func (b *Broker) awaitServing(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		b.mu.Lock()
		b.advance()
		closed, down, blocked := b.closed, b.down, b.blocked
		changed := b.serving.wait()
		b.mu.Unlock()
		switch {
		case closed:
			return reliable.ErrClosed
		case !down && !blocked:
			return nil
		case down && b.failFast:
			return ErrDown
		}
		if err := await(ctx, changed, time.Time{}); err != nil {
			if down {
				return fmt.Errorf("%w: %w", ErrDown, err)
			}
			return err
		}
	}
}

// keep puts a message where it waits for its time.
func (b *Broker) keep(env *reliable.Envelope, after time.Duration, copies int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.advance()
	b.keptCount++
	kept := &shelved{envelope: *env, copies: copies, due: now.Add(after), seq: b.keptCount}
	kept.envelope.Payload, kept.envelope.Metadata = slices.Clone(env.Payload), maps.Clone(env.Metadata)
	heap.Push(&b.shelf, kept)
	b.advance() // it may be due already
	if t := b.topics[env.Topic]; t != nil {
		t.arrived.open() // whoever waits has a new time to look again
	}
}

// retryDue is how long what is due waits for its topic before the broker looks at it again.
const retryDue = time.Second

// deliver lets what is due come into its topic, now that this is its time.
func (b *Broker) deliver(now time.Time) {
	for len(b.shelf) > 0 && !b.shelf[0].due.After(now) {
		kept := b.shelf[0]
		t := b.topic(kept.envelope.Topic)
		if b.down || b.blocked || t == nil || !t.declared || t.full {
			kept.due = now.Add(retryDue)
			heap.Fix(&b.shelf, 0)
			continue
		}
		heap.Pop(&b.shelf)
		b.counts.Stored += kept.copies
		if b.discard {
			continue
		}
		for range kept.copies {
			t.log = append(t.log, Delivery{Envelope: kept.envelope, At: kept.due})
		}
		t.arrived.open()
	}
}

// Waiting returns what was scheduled and is not due yet, or has found no place in its topic, in the order of the times at
// which it is looked at next. Payloads are shared between calls.
func (b *Broker) Waiting() []reliable.Envelope {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance()
	sorted := slices.SortedFunc(slices.Values(b.shelf), func(x, y *shelved) int {
		if order := x.due.Compare(y.due); order != 0 {
			return order
		}
		return x.seq - y.seq
	})
	envs := make([]reliable.Envelope, len(sorted))
	for i, kept := range sorted {
		envs[i] = kept.envelope
	}
	return envs
}

// shelved is a message that waits for its time.
type shelved struct {
	envelope reliable.Envelope
	copies   int
	due      time.Time
	seq      int // orders what is due at the same time
}

// shelf holds messages by their time.
type shelf []*shelved

func (s *shelf) Len() int { return len(*s) }

func (s *shelf) Less(i, j int) bool {
	x, y := (*s)[i], (*s)[j]
	if x.due.Equal(y.due) {
		return x.seq < y.seq
	}
	return x.due.Before(y.due)
}

func (s *shelf) Swap(i, j int) { (*s)[i], (*s)[j] = (*s)[j], (*s)[i] }

// Push implements heap.Interface.
func (s *shelf) Push(x any) { *s = append(*s, x.(*shelved)) }

// Pop implements heap.Interface.
func (s *shelf) Pop() any {
	last := len(*s) - 1
	kept := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	return kept
}
