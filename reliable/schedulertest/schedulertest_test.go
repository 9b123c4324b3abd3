package schedulertest

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf is a scheduler and a broker in memory, which can be broken.
type shelf struct {
	ctx    context.Context //nolint:containedctx // the test's
	lock   sync.Mutex
	topics map[string]chan *message.Message
	epoch  int // grows when everything that waits is forgotten
	last   time.Time

	early, late     time.Duration
	drops           int // every how many-th message is lost
	change          func(*message.Message)
	inOrder         bool // a message waits for those scheduled before it
	ignoresNacks    bool
	takesAnything   bool
	ignoresContexts bool
	forgets         bool // when it is closed, or the broker crashes
	count           int
}

func (s *shelf) Schedule(ctx context.Context, after time.Duration, envs ...reliable.Envelope) error {
	if err := ctx.Err(); err != nil && !s.ignoresContexts {
		return err
	}
	if after < 0 && !s.takesAnything || after > time.Minute {
		return reliable.Invalid("after", "is %v", after)
	}
	for i := range envs {
		if envs[i].Topic == "" {
			return reliable.Invalid("Topic", "is empty")
		}
		s.keep(after, envs[i])
	}
	return nil
}

func (s *shelf) keep(after time.Duration, env reliable.Envelope) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.count++
	if s.drops > 0 && s.count%s.drops == 0 {
		return
	}
	due := time.Now().Add(after - s.early + s.late)
	if s.inOrder && due.Before(s.last) {
		due = s.last
	}
	s.last = due
	epoch := s.epoch
	go func() {
		select {
		case <-time.After(time.Until(due)):
		case <-s.ctx.Done():
			return
		}
		s.lock.Lock()
		forgotten := s.epoch != epoch
		s.lock.Unlock()
		if !forgotten {
			s.deliver(env)
		}
	}()
}

func (s *shelf) deliver(env reliable.Envelope) {
	for {
		msg := env.Message()
		if s.change != nil {
			s.change(msg)
		}
		select {
		case s.topic(env.Topic) <- msg:
		case <-s.ctx.Done():
			return
		}
		select {
		case <-msg.Acked():
			return
		case <-msg.Nacked():
			if s.ignoresNacks {
				return
			}
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *shelf) topic(name string) chan *message.Message {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.topics[name] == nil {
		s.topics[name] = make(chan *message.Message)
	}
	return s.topics[name]
}

func (s *shelf) forget() {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.forgets {
		s.epoch++
	}
}

func harness(ctx context.Context, flaw func(*shelf)) Harness {
	subject := func(testing.TB) Subject {
		s := &shelf{ctx: ctx, topics: map[string]chan *message.Message{}}
		flaw(s)
		return Subject{
			Scheduler: s,
			Topic:     func(testing.TB) string { return "checks" },
			Subscribe: func(_ testing.TB, topic string) <-chan *message.Message {
				read := make(chan *message.Message)
				go func() {
					defer close(read)
					for {
						select {
						case msg := <-s.topic(topic):
							select {
							case read <- msg:
							case <-ctx.Done():
								return
							}
						case <-ctx.Done():
							return
						}
					}
				}()
				return read
			},
			Reopen: func(testing.TB) reliable.Scheduler {
				s.forget()
				return s
			},
			Crash: func(testing.TB) { s.forget() },
		}
	}
	return Harness{Open: subject, OpenToCrash: subject, Delay: time.Second, Volume: 800, TooLong: time.Hour}
}

// failures are those of one check of a scheduler with a flaw, in virtual time.
func failures(t *testing.T, name string, flaw func(*shelf)) (found []string) {
	t.Helper()
	virtualtime.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		r := &recorder{TB: t}
		for _, c := range checks() {
			if c.name != name {
				continue
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				c.run(r, harness(ctx, flaw))
			}()
			<-done
			stop()
			synctest.Wait()
			found = r.failures
			return
		}
		stop()
		t.Fatalf("there is no check %q", name)
	})
	return found
}

func TestChecks_passASoundScheduler(t *testing.T) {
	for _, c := range checks() {
		t.Run(c.name, func(t *testing.T) { assert.Empty(t, failures(t, c.name, func(*shelf) {})) })
	}
}

func TestChecks_catchBrokenSchedulers(t *testing.T) {
	for _, flaw := range []struct {
		name, check string
		breaks      func(*shelf)
	}{
		{"delivers at once", "a message comes on time and never early", func(s *shelf) { s.early = time.Hour }},
		{"delivers a moment early", "a message comes on time and never early", func(s *shelf) { s.early = time.Millisecond }},
		{"delivers far too late", "a message comes on time and never early", func(s *shelf) { s.late = time.Minute }},
		{"loses some", "a message comes on time and never early", func(s *shelf) { s.drops = 7 }},
		{"loses few of many", "many from many goroutines all come", func(s *shelf) { s.drops = 500 }},
		{"loses the key", "a message comes as it was scheduled", func(s *shelf) {
			s.change = func(m *message.Message) { delete(m.Metadata, reliable.HeaderKey) }
		}},
		{"loses metadata", "a message comes as it was scheduled", func(s *shelf) {
			s.change = func(m *message.Message) { delete(m.Metadata, "traceparent") }
		}},
		{"changes payloads", "a message comes as it was scheduled", func(s *shelf) {
			s.change = func(m *message.Message) { m.Payload = append(m.Payload, '\n') }
		}},
		{"has a queue for all delays", "a short delay does not wait behind a long one", func(s *shelf) { s.inOrder = true }},
		{"delivers at most once", "a message that is nacked comes again", func(s *shelf) { s.ignoresNacks = true }},
		{"takes a negative delay", "what makes no sense is refused", func(s *shelf) { s.takesAnything = true }},
		{"does not look at contexts", "a context that ended schedules nothing silently", func(s *shelf) { s.ignoresContexts = true }},
		{"keeps what waits in its process", "what was accepted outlives the scheduler", func(s *shelf) { s.forgets = true }},
		{"keeps what waits in memory", "what was accepted outlives a crash of the broker", func(s *shelf) { s.forgets = true }},
	} {
		t.Run(flaw.name, func(t *testing.T) {
			assert.NotEmpty(t, failures(t, flaw.check, flaw.breaks), "the check %q saw nothing", flaw.check)
		})
	}
}

// recorder takes the failures of a check, so that the test can demand them.
type recorder struct {
	testing.TB

	lock     sync.Mutex
	failures []string
}

func (r *recorder) Helper()                  {}
func (r *recorder) Log(...any)               {}
func (r *recorder) Context() context.Context { return r.TB.Context() }

func (r *recorder) Errorf(format string, args ...any) {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) FailNow() {
	r.Errorf("failed")
	runtime.Goexit()
}
