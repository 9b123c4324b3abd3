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
	// callers is how many goroutines send, one message a call each.
	callers = 64
	// patience bounds what must happen, on a busy machine too.
	patience = time.Minute
	// quiet is how long nothing more may arrive before the rest counts as lost.
	quiet = 15 * time.Second
	// look is the pause between two looks at how much has arrived.
	look = 10 * time.Millisecond
)

// contender is a way to get messages from a database to a broker, set up as its users would.
type contender struct {
	name string
	// open makes its tables in an empty database. What it opens is closed when t ends.
	open func(t testing.TB, d database, to destination) carrier
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
}

// sends is messages that have no business data beside them.
var sends = load{
	call: func(o carrier, topic string, i int) error { return o.send(context.Background(), topic, payload(i)) },
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
	end, arrived := await(o, to, n)
	used.Log(t, c.name, arrived)
	stop()
	result := outcome{rate: float64(arrived) / end.Sub(start).Seconds()}
	result.lost, result.duplicated = compareWithSent(t, to, n)
	return result
}

// callAll calls from many goroutines, each of which waits for its call's return before the next.
func callAll(t testing.TB, o carrier, to destination, l load, n int) {
	t.Helper()
	var next atomic.Int64
	var calling sync.WaitGroup
	for range callers {
		calling.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := l.call(o, to.topic(), i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	calling.Wait()
	require.False(t, t.Failed(), "the load was not taken")
}

// await returns when n messages have arrived, and are recorded where the library keeps books, or when nothing more comes.
func await(o carrier, to destination, n int) (last time.Time, arrived int) {
	for last = time.Now(); time.Since(last) < quiet; time.Sleep(look) {
		there := min(to.count(), n)
		if r, records := o.(recorder); records {
			there = min(there, r.recorded())
		}
		if there > arrived {
			last, arrived = time.Now(), there
		}
		if arrived == n {
			break
		}
	}
	return last, arrived
}

// compareWithSent counts which of the n messages never came, and how many copies there are beyond one of each.
func compareWithSent(t testing.TB, to destination, n int) (lost, duplicated int) {
	t.Helper()
	count := to.count()
	numbers := to.received(count)
	for i := range numbers {
		require.Less(t, i, n, "a message came that nobody sent")
	}
	return n - len(numbers), count - len(numbers)
}
