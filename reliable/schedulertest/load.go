package schedulertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// Load is what [Sustain] and [Pending] ask of a scheduler.
type Load struct {
	// Rate is how many messages a second are scheduled, for the length of For.
	Rate int
	For  time.Duration
	// Delay is that of each message.
	Delay time.Duration
	// Late is how late 99 of 100 may be at most.
	Late time.Duration
}

// Sustain schedules at a steady rate while due messages are delivered, and demands that all come, none early, and 99 of
// 100 on time. It logs how late they were.
func Sustain(t testing.TB, h Harness, load Load) {
	t.Helper()
	s := h.Open(t)
	topic := s.Topic(t)
	wanted := load.Rate * int(load.For/time.Second)
	c := clockIn(t, s, topic, wanted)
	const batch, workers = 100, 16
	batches := make(chan struct{}, workers)
	var (
		group  sync.WaitGroup
		lock   sync.Mutex
		booked = make([]appointment, 0, wanted)
		behind atomic.Int64
	)
	for range workers {
		group.Go(func() {
			for range batches {
				envs := make([]reliable.Envelope, batch)
				for i := range envs {
					envs[i] = envelope(topic, "sustained")
				}
				mine := schedule(t, s.Scheduler, load.Delay, envs...)
				lock.Lock()
				booked = c.note(booked, mine)
				lock.Unlock()
			}
		})
	}
	// The clock, not the scheduler, says when the next batch is due; one that finds all workers busy is behind.
	tick := time.NewTicker(time.Second * batch / time.Duration(load.Rate))
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), load.For)
	defer cancel()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
			select {
			case batches <- struct{}{}:
			default:
				behind.Add(1)
			}
		case <-ctx.Done():
		}
	}
	close(batches)
	group.Wait()
	c.await(t, len(booked), load.Delay+2*patience)
	late := c.lateness(t, booked, load.Delay)
	t.Logf("scheduled %d of %d asked for (%d batches found all workers busy); late: p50 %v, p99 %v, most %v", len(booked),
		wanted, behind.Load(), quantile(late, 0.5), quantile(late, 0.99), quantile(late, 1))
	require.GreaterOrEqual(t, len(booked), wanted*9/10, "the rate was not kept")
	require.LessOrEqual(t, quantile(late, 0.99), load.Late, "99 of 100 are to be on time")
}

// Pending schedules total messages for one moment and demands that all come within the tolerance of load.Late after the
// last of them is due, none early.
func Pending(t testing.TB, h Harness, total int, load Load) {
	t.Helper()
	s := h.Open(t)
	topic := s.Topic(t)
	c := clockIn(t, s, topic, total)
	const batch = 500
	booked := make([]appointment, 0, total)
	began := time.Now()
	for len(booked) < total {
		envs := make([]reliable.Envelope, min(batch, total-len(booked)))
		for i := range envs {
			envs[i] = envelope(topic, fmt.Sprint(i))
		}
		booked = c.note(booked, schedule(t, s.Scheduler, load.Delay, envs...))
	}
	require.Less(t, time.Since(began), load.Delay, "the first were due before the last was scheduled: ask for a longer delay")
	c.await(t, total, load.Delay+load.Late+patience)
	late := c.lateness(t, booked, load.Delay)
	t.Logf("%d pending at once; late: p50 %v, p99 %v, most %v", total, quantile(late, 0.5), quantile(late, 0.99), quantile(late, 1))
	require.LessOrEqual(t, quantile(late, 1), load.Late)
}

// uuid is the text of an ID that envelope makes. Nothing that a load remembers of its hundreds of thousands of messages has
// pointers: with what it is measured it shares a process, and else most of the processor would be the garbage collector's.
type uuid [36]byte

func uuidOf(text string) (id uuid) {
	copy(id[:], text) // what is no such ID is one that was not scheduled
	return id
}

// appointment is a [booking], in times since the load began.
type appointment struct {
	id          uuid
	from, until time.Duration
}

// punchClock is when messages came first, in times since the load began. Everything in it was acked.
type punchClock struct {
	began time.Time
	lock  sync.Mutex
	came  map[uuid]time.Duration
	news  chan struct{}
}

// clockIn reads topic until the test ends. It has room for as many messages as are wanted.
func clockIn(t testing.TB, s Subject, topic string, wanted int) *punchClock {
	t.Helper()
	c := &punchClock{began: time.Now(), came: make(map[uuid]time.Duration, wanted), news: make(chan struct{}, 1)}
	messages := s.Subscribe(t, topic)
	go func() {
		for msg := range messages {
			c.add(uuidOf(msg.UUID))
			msg.Ack()
		}
	}()
	return c
}

func (c *punchClock) add(id uuid) {
	at := time.Since(c.began)
	c.lock.Lock()
	if _, again := c.came[id]; !again {
		c.came[id] = at
	}
	c.lock.Unlock()
	select {
	case c.news <- struct{}{}:
	default:
	}
}

func (c *punchClock) distinct() int {
	c.lock.Lock()
	defer c.lock.Unlock()
	return len(c.came)
}

// await waits until want distinct messages have come.
func (c *punchClock) await(t testing.TB, want int, within time.Duration) {
	t.Helper()
	awaitDistinct(t, c.distinct, c.news, want, within)
}

// note adds what was scheduled to what was before.
func (c *punchClock) note(booked []appointment, more []booking) []appointment {
	for _, b := range more {
		booked = append(booked, appointment{uuidOf(string(b.id)), b.from.Sub(c.began), b.until.Sub(c.began)})
	}
	return booked
}

// lateness is how late each message came, in ascending order; one that came early, or not at all, fails the test.
func (c *punchClock) lateness(t testing.TB, booked []appointment, delay time.Duration) []time.Duration {
	t.Helper()
	c.lock.Lock()
	defer c.lock.Unlock()
	late := make([]time.Duration, 0, len(booked))
	for _, b := range booked {
		came, ok := c.came[b.id]
		require.True(t, ok, "%s never came", b.id[:])
		require.GreaterOrEqual(t, came-b.from, delay, "%s came early", b.id[:])
		late = append(late, max(came-b.until-delay, 0))
	}
	slices.Sort(late)
	return late
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)].Round(time.Millisecond)
}
