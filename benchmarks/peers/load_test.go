//go:build services

package peers

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/benchmarks/pairs"
)

const (
	// transacting is how many goroutines make business transactions, and calling how many send what needs none, one message a
	// call each.
	transacting, calling = 64, 256
	// patience bounds what must happen, on a busy machine too.
	patience = time.Minute
	// quiet is how long nothing more may arrive before the rest counts as lost.
	quiet = 5 * time.Second
	// look is the pause between two looks at how much has arrived.
	look = 10 * time.Millisecond
)

// contender is a way to get messages from a database to a broker, set up as its users would.
type contender struct {
	name string
	// open makes its tables in an empty database. What it opens is closed when t ends.
	open func(t testing.TB, d database, to destination) carrier
	// quiet is how long nothing more may arrive before the rest counts as lost, at least the quiet of all.
	quiet time.Duration
}

// carrier is a contender between a database and a destination.
type carrier interface {
	// send stores a message for a queue or topic, for which there is nothing else to store, and returns once that is
	// committed.
	send(ctx context.Context, topic string, content []byte) error
	// sell is the same in one transaction with the row of a sale.
	sell(ctx context.Context, sale int, topic string, content []byte) error
	// relay starts to move what is stored, until it is stopped; a second one is a second process to the library.
	relay() (stop func())
}

// recorder is a carrier that says of how many messages its own books have it that they were sent.
type recorder interface{ recorded() int }

// load is what every contender is driven by.
type load struct {
	// call hands message i for a topic to the library.
	call func(o carrier, topic string, i int) error
	// stored says that everything is stored before the relay starts; the time is that of the relay alone.
	stored bool
	// callers is how many goroutines call.
	callers int
}

// sends is messages that have no business data beside them.
var sends = load{
	call:    func(o carrier, topic string, i int) error { return o.send(context.Background(), topic, payload(i)) },
	callers: calling,
}

// outcome is what became of a load.
type outcome struct {
	rate             float64 // messages per second from the first call, or the relay's start, until all were there
	lost, duplicated int
}

// drive has a contender move n messages.
func drive(t testing.TB, c contender, d database, to destination, l load, n int) outcome {
	t.Helper()
	s := &scope{TB: t}
	defer s.end()
	o := c.open(s, d, to)
	stop := func() {}
	if !l.stored {
		stop = o.relay()
	}
	start, used := time.Now(), pairs.StartMeter()
	callAll(t, o, to, l, n)
	if l.stored {
		start, used = time.Now(), pairs.StartMeter()
		stop = o.relay()
	}
	quiet := max(quiet, c.quiet)
	end, arrived := await(n, quiet, func() int {
		if r, records := o.(recorder); records {
			return min(to.count(), r.recorded())
		}
		return to.count()
	})
	used.Log(t, c.name, arrived)
	counts := collect(s, to)
	await(arrived, quiet, counts.messages)
	stop()
	return outcome{float64(arrived) / end.Sub(start).Seconds(), n - counts.messages(), counts.copies()}
}

// callAll calls from many goroutines, each of which waits for its call's return before the next.
func callAll(t testing.TB, o carrier, to destination, l load, n int) {
	t.Helper()
	var next atomic.Int64
	var refused atomic.Bool
	var done sync.WaitGroup
	for range l.callers {
		done.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := l.call(o, to.topic(), i); err != nil {
					t.Error(err)
					refused.Store(true)
					return
				}
			}
		})
	}
	done.Wait()
	require.False(t, refused.Load(), "the load was not taken")
}

// await returns when there are n, or when there have been no more for a while.
func await(n int, quiet time.Duration, count func() int) (last time.Time, there int) {
	for last = time.Now(); there < n && time.Since(last) < quiet; time.Sleep(look) {
		if now := min(count(), n); now > there {
			last, there = time.Now(), now
		}
	}
	return last, there
}

// tally is how often each message came.
type tally struct {
	mu     sync.Mutex
	counts map[int]int
	total  int
}

// collect takes what arrives at a destination until t ends.
func collect(t testing.TB, to destination) *tally {
	t.Helper()
	seen := &tally{counts: map[int]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- to.consume(ctx, func(content []byte) {
			i, err := number(content)
			if err != nil {
				t.Error(err)
				return
			}
			seen.mu.Lock()
			defer seen.mu.Unlock()
			seen.counts[i]++
			seen.total++
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return seen
}

// messages is how many different ones came.
func (c *tally) messages() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.counts)
}

// copies is how many came beyond the first of each.
func (c *tally) copies() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total - len(c.counts)
}
