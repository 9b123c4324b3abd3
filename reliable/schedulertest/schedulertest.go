// Package schedulertest is the suite by which a [reliable.Scheduler] proves itself: what it accepted reaches its topic at
// least once, unchanged, never early, and on time; and it stays accepted whatever happens to the process and the broker.
//
//	schedulertest.Run(t, schedulertest.Harness{
//		Open:      func(t testing.TB) schedulertest.Subject { ... },
//		Delay:     time.Second,
//		Tolerance: 2 * time.Second,
//	})
package schedulertest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// Harness connects the suite to a scheduler.
type Harness struct {
	// Open returns a scheduler on an empty broker, or an empty part of one.
	Open func(t testing.TB) Subject
	// OpenToCrash returns a scheduler on a broker that nobody else uses, whose Crash is set; nil leaves out what needs it.
	OpenToCrash func(t testing.TB) Subject
	// Delay is the shortest delay that the scheduler keeps exactly; 3 x Delay is kept too.
	Delay time.Duration
	// Tolerance is how late a message may be on a quiet machine: what the scheduler's clock is rounded to, and its pauses
	// between two looks. The suite adds [busy] for a busy one.
	Tolerance time.Duration
	// Volume is how many messages the largest check schedules; default 2,000.
	Volume int
	// TooLong is a delay that the scheduler must refuse; 0 if it keeps any.
	TooLong time.Duration
}

// Subject is a scheduler and its broker.
type Subject struct {
	Scheduler reliable.Scheduler
	// Topic returns the name of a fresh topic that Subscribe can read.
	Topic func(t testing.TB) string
	// Subscribe returns what reaches the topic, to be acked or nacked by the suite; it ends with the test.
	Subscribe func(t testing.TB, topic string) <-chan *message.Message
	// Reopen closes the scheduler and returns another on the same broker, as another process would; nil leaves that out.
	Reopen func(t testing.TB) reliable.Scheduler
	// Crash kills the broker and starts it again; the scheduler and subscribers recover by themselves.
	Crash func(t testing.TB)
}

// busy is how much later than its time a message may come because other work has the machine. It decides about
// punctuality only, never about what came early or not at all.
const busy = 30 * time.Second

// patience is how long the suite waits for what must come.
const patience = 2 * time.Minute

// Run runs every check as a test of its own.
func Run(t *testing.T, h Harness) {
	t.Helper()
	require.NotNil(t, h.Open, "Harness.Open is required")
	require.Positive(t, h.Delay, "Harness.Delay is required")
	if h.Volume == 0 {
		h.Volume = 2000
	}
	for _, c := range checks() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // each waits for most of its time
			c.run(t, h)
		})
	}
}

type check struct {
	name string
	run  func(t testing.TB, h Harness)
}

func checks() []check {
	return []check{
		{"a message comes on time and never early", onTime},
		{"a message comes as it was scheduled", unchanged},
		{"a short delay does not wait behind a long one", notBehindLonger},
		{"a message that is nacked comes again", nackedComesAgain},
		{"what makes no sense is refused", refusals},
		{"nothing to schedule is nothing to do", nothing},
		{"a context that ended schedules nothing silently", endedContext},
		{"what was accepted outlives the scheduler", outlivesScheduler},
		{"what was accepted outlives a crash of the broker", outlivesCrash},
		{"many from many goroutines all come", many},
	}
}

// log is what reached a topic. Everything in it was acked.
type log struct {
	lock    sync.Mutex
	arrived map[reliable.ID][]arrival
	news    chan struct{}
}

type arrival struct {
	envelope reliable.Envelope
	at       time.Time
}

// listen reads topic until the test ends.
func listen(t testing.TB, s Subject, topic string) *log {
	t.Helper()
	l := &log{arrived: map[reliable.ID][]arrival{}, news: make(chan struct{}, 1)}
	messages := s.Subscribe(t, topic)
	go func() {
		for msg := range messages {
			l.add(arrival{reliable.EnvelopeOf(topic, msg), time.Now()})
			msg.Ack()
		}
	}()
	return l
}

func (l *log) add(a arrival) {
	l.lock.Lock()
	l.arrived[a.envelope.ID] = append(l.arrived[a.envelope.ID], a)
	l.lock.Unlock()
	select {
	case l.news <- struct{}{}:
	default:
	}
}

func (l *log) distinct() int {
	l.lock.Lock()
	defer l.lock.Unlock()
	return len(l.arrived)
}

// await waits until want distinct messages have come.
func (l *log) await(t testing.TB, want int, within time.Duration) {
	t.Helper()
	awaitDistinct(t, l.distinct, l.news, want, within)
}

// awaitDistinct looks after each news whether as many have come.
func awaitDistinct(t testing.TB, distinct func() int, news <-chan struct{}, want int, within time.Duration) {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	for distinct() < want {
		select {
		case <-news:
		case <-deadline.C:
			require.FailNow(t, "messages are missing", "%d of %d came within %v", distinct(), want, within)
		}
	}
}

// first is when the message came first, and what it was; ok is false if it did not.
func (l *log) first(id reliable.ID) (a arrival, ok bool) {
	l.lock.Lock()
	defer l.lock.Unlock()
	all := l.arrived[id]
	if len(all) == 0 {
		return arrival{}, false
	}
	return all[0], true
}

// booking is what was scheduled, and the time from which its delay counts.
type booking struct {
	id    reliable.ID
	from  time.Time // before Schedule was called
	until time.Time // after it returned
	delay time.Duration
}

// schedule schedules and demands that it is accepted.
func schedule(t testing.TB, s reliable.Scheduler, delay time.Duration, envs ...reliable.Envelope) []booking {
	t.Helper()
	from := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, s.Schedule(ctx, delay, envs...))
	until := time.Now()
	booked := make([]booking, len(envs))
	for i, env := range envs {
		booked[i] = booking{env.ID, from, until, delay}
	}
	return booked
}

func envelope(topic, payload string) reliable.Envelope {
	return reliable.Envelope{ID: reliable.NewID(), Topic: topic, Payload: []byte(payload)}
}
