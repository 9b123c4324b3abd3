package brokertest

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

var confirmChecks = []entry{
	{name: "each attempt has exactly one confirm", run: func(tr *trial) {
		s := tr.open(Options{})
		s.send(attempts(tr.Topic(tr.T), 100)...)
	}},
	{name: "an empty batch does nothing", run: func(tr *trial) {
		s := tr.open(Options{})
		for _, batch := range [][]reliable.Attempt{nil, {}} {
			if n, err := s.offerWithin(tr.Context(), tr.Patience, batch); n != 0 || err != nil {
				fail(tr, "Publish of nothing: n = %d, error %v", n, err)
			}
		}
	}},
	{name: "a confirm carries its attempt's fence", run: confirmCarriesFence},
	{name: "many attempts through a small window from many goroutines", run: manyAttempts},
	{name: "a batch larger than the window is handed over as confirms are read", run: func(tr *trial) {
		s := tr.open(Options{Window: 10})
		s.send(attempts(tr.Topic(tr.T), 95)...)
	}},
	{name: "what is acked can be consumed", run: ackedCanBeConsumed},
	{name: "two connections do not see each other's confirms", run: func(tr *trial) {
		one, two := tr.open(Options{}), tr.open(Options{})
		topic := tr.Topic(tr.T)
		first, second := attempts(topic, 50), attempts(topic, 50)
		one.publish(first...)
		two.publish(second...)
		one.expect(first, reliable.Acked)
		two.expect(second, reliable.Acked)
	}},
	{name: "an attempt alone works among others", run: func(tr *trial) {
		s := tr.open(Options{})
		batch := attempts(tr.Topic(tr.T), 20)
		for i := range batch {
			batch[i].Alone = i%5 == 0
		}
		s.send(batch...)
		tr.arrive(batch)
	}},
}

func confirmCarriesFence(tr *trial) {
	s := tr.open(Options{})
	again := attempt(tr.Topic(tr.T))
	for _, fence := range []int64{1, 2, 7, 1 << 40} {
		again.Fence = fence
		s.send(again)
	}
	// The same fence for two ids, in one batch.
	batch := attempts(again.Topic, 2)
	batch[0].Fence, batch[1].Fence = 7, 7
	s.send(batch...)
}

func manyAttempts(tr *trial) {
	const publishers, largest = 8, 64
	s := tr.open(Options{Window: 100})
	topic := tr.Topic(tr.T)
	ctx, cancel := context.WithTimeout(tr.Context(), tr.Patience+promptness)
	defer cancel()
	var publishing sync.WaitGroup
	for p := range publishers {
		share := tr.Volume / publishers
		if p == 0 {
			share += tr.Volume % publishers
		}
		publishing.Go(func() {
			sizes := rand.New(rand.NewPCG(uint64(p), 1)) // the same sizes every time
			for left := share; left > 0; {
				batch := attempts(topic, min(left, 1+sizes.IntN(largest)))
				if n, err := s.offer(ctx, batch); err != nil {
					s.note("publisher %d: n = %d of %d: %v", p, n, len(batch), err)
					return
				}
				left -= len(batch)
			}
		})
	}
	within(tr, tr.Patience+2*promptness, "publishing", publishing.Wait)
	s.awaitCount(tr.Volume)
	for _, confirm := range s.all() {
		if confirm.Outcome != reliable.Acked {
			fail(tr, "id %q: %v (%v), want acked", confirm.ID, confirm.Outcome, confirm.Err)
		}
	}
}

func ackedCanBeConsumed(tr *trial) {
	s := tr.open(Options{})
	topic := tr.Topic(tr.T)
	for range 10 {
		one := attempt(topic)
		s.send(one)
		tr.arrive([]reliable.Attempt{one})
	}
	many := attempts(topic, 200)
	s.send(many...)
	s.close() // what is stored only later is then not stored at all
	tr.arrive(many)
}

// arrive checks that each of batch, all of one topic that holds nothing else, can be consumed now.
func (tr *trial) arrive(batch []reliable.Attempt) []reliable.Envelope {
	tr.Helper()
	if len(batch) == 0 {
		return nil
	}
	arrived := tr.Received(tr.T, batch[0].Topic, len(batch))
	tr.compare(batch, arrived)
	return arrived
}

// compare checks that arrived is batch, once each.
func (tr *trial) compare(batch []reliable.Attempt, arrived []reliable.Envelope) {
	tr.Helper()
	times := make(map[reliable.ID]int, len(batch))
	for i := range arrived {
		times[arrived[i].ID]++
	}
	missing, repeated := 0, 0
	for i := range batch {
		switch count := times[batch[i].ID]; {
		case count == 0:
			missing++
		case count > 1:
			repeated++
		}
		delete(times, batch[i].ID)
	}
	if missing > 0 || repeated > 0 || len(times) > 0 {
		fail(tr, "of %d acked messages %d did not arrive and %d arrived more than once; %d others arrived",
			len(batch), missing, repeated, len(times))
	}
}

var receiveChecks = []entry{
	{name: "receive returns no more than its limit and never nothing", run: receiveLimits},
	{name: "receive waits until its context ends", run: receiveWaits},
	{name: "a receive that ends early loses no confirm", run: receiveEndsEarly},
}

func receiveLimits(tr *trial) {
	s := tr.openUnread(Options{})
	ctx, cancel := context.WithTimeout(tr.Context(), tr.Patience)
	defer cancel()
	s.publish(attempts(tr.Topic(tr.T), 40)...)
	for limits := []int{1, 3, 1, 7, 2}; s.count() < 40; limits = append(limits[1:], limits[0]) {
		confirms, err := s.receive(ctx, limits[0])
		if err != nil {
			fail(tr, "Receive after %d of 40 confirms: %v", s.count(), err)
		}
		if len(confirms) < 1 || len(confirms) > limits[0] {
			fail(tr, "Receive with limit %d returned %d confirms", limits[0], len(confirms))
		}
	}
}

func receiveWaits(tr *trial) {
	s := tr.openUnread(Options{})
	ended, end := context.WithCancel(tr.Context())
	end()
	soon, cancel := context.WithTimeout(tr.Context(), 50*time.Millisecond)
	defer cancel()
	for _, ctx := range []context.Context{soon, ended} {
		var confirms []reliable.Confirm
		var err error
		within(tr, promptness, "Receive with an ended context", func() { confirms, err = s.conn.Receive(ctx, 1) })
		if len(confirms) > 0 || !errors.Is(err, ctx.Err()) || ctx.Err() == nil {
			fail(tr, "Receive with nothing in flight: %d confirms, error %v, want the context's error", len(confirms), err)
		}
	}
	one := attempt(tr.Topic(tr.T)) // and it goes on to work
	s.startReading()
	s.send(one)
}

// receiveEndsEarly reads with contexts that end at any moment, before the call included.
func receiveEndsEarly(tr *trial) {
	const total = 300
	s := tr.openUnread(Options{Window: 50})
	batch := attempts(tr.Topic(tr.T), total)
	ctx, cancel := context.WithTimeout(tr.Context(), tr.Patience)
	defer cancel()
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for i := range batch {
			if _, err := s.offer(ctx, batch[i:i+1]); err != nil {
				s.note("Publish: %v", err)
				return
			}
		}
	})
	lengths := rand.New(rand.NewPCG(7, 7))
	for calls := 0; s.count() < total && ctx.Err() == nil; calls++ {
		short, stop := context.WithTimeout(ctx, time.Duration(lengths.IntN(2000))*time.Microsecond)
		if calls%3 == 0 {
			stop()
		}
		confirms, err := s.receive(short, 1+calls%5)
		stop()
		if errors.Is(err, io.EOF) {
			fail(tr, "Receive: %v before Close", err)
		}
		if err == nil && len(confirms) == 0 {
			fail(tr, "Receive returned neither a confirm nor an error")
		}
	}
	if s.count() < total {
		s.tr.Errorf("%d of %d confirms came in %v from a Receive whose context ends early", s.count(), total, tr.Patience)
	}
	within(tr, tr.Patience+promptness, "publishing", publishing.Wait)
}

// all returns every confirm.
func (s *session) all() []reliable.Confirm {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]reliable.Confirm, 0, len(s.confirms))
	for _, confirm := range s.confirms {
		all = append(all, confirm)
	}
	return all
}
