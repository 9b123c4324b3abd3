package brokertest

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/waybillmq/waybill/reliable"
)

var closeChecks = []entry{
	{name: "close answers what is in flight and then ends receive", run: closeInFlight},
	{name: "close may be called twice and from several goroutines", run: closeTwice},
	{name: "publish after close hands nothing over", run: func(tr *trial) {
		s := tr.open(Options{})
		topic := tr.Topic(tr.T)
		s.send(attempt(topic))
		s.close()
		n, err := s.offerWithin(tr.Context(), promptness, attempts(topic, 3))
		if n != 0 || !errors.Is(err, reliable.ErrClosed) {
			fail(tr, "Publish after Close: n = %d, error %v, want 0 and ErrClosed", n, err)
		}
	}},
	{name: "close ends a receive that waits", run: closeEndsReceive},
	{name: "close ends a publish that waits", run: closeEndsPublish},
	{name: "close while others publish loses no confirm", run: closeWhilePublishing},
}

func closeInFlight(tr *trial) {
	s := tr.openUnread(Options{})
	batch := attempts(tr.Topic(tr.T), 100)
	s.publish(batch...)
	s.close()
	ctx, cancel := context.WithTimeout(tr.Context(), tr.Patience)
	defer cancel()
	for {
		_, err := s.receive(ctx, 7)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			fail(tr, "Receive after Close: %v after %d of %d confirms, want the rest and io.EOF", err, s.count(), len(batch))
		}
	}
	if s.count() < len(batch) {
		fail(tr, "io.EOF after %d of %d confirms", s.count(), len(batch))
	}
	s.expect(batch, reliable.Acked, reliable.Unknown)
	if confirms, err := s.receive(ctx, 1); len(confirms) > 0 || !errors.Is(err, io.EOF) {
		fail(tr, "Receive after io.EOF: %d confirms, error %v", len(confirms), err)
	}
	tr.mustHave(batch[0].Topic, s.acked(batch))
}

// mustHave checks that wanted arrived on topic, where others may have too.
func (tr *trial) mustHave(topic string, wanted []reliable.Attempt) {
	tr.Helper()
	there := make(map[reliable.ID]bool)
	for _, env := range tr.Received(tr.T, topic, len(wanted)) {
		there[env.ID] = true
	}
	lost := 0
	for i := range wanted {
		if !there[wanted[i].ID] {
			lost++
		}
	}
	if lost > 0 {
		fail(tr, "%d of %d acked messages did not arrive", lost, len(wanted))
	}
}

func closeTwice(tr *trial) {
	s := tr.open(Options{})
	s.publish(attempts(tr.Topic(tr.T), 20)...)
	var closing sync.WaitGroup
	for range 4 {
		closing.Go(func() {
			if err := s.conn.Close(); err != nil {
				s.note("Close: %v", err)
			}
		})
	}
	within(tr, tr.Patience, "Close from four goroutines", closing.Wait)
	s.close()
}

func closeEndsReceive(tr *trial) {
	s := tr.openUnread(Options{})
	s.publish(attempt(tr.Topic(tr.T)))
	if _, err := s.receive(tr.Context(), 1); err != nil {
		fail(tr, "Receive: %v", err)
	}
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, err = s.conn.Receive(context.Background(), 1)
	}()
	s.close()
	within(tr, tr.Patience, "Receive while Close is called", func() { <-ended })
	if !errors.Is(err, io.EOF) {
		fail(tr, "Receive with nothing in flight while Close is called: %v, want io.EOF", err)
	}
}

// closeEndsPublish closes while Publish waits for a window that nobody empties; where there is no such window, while it
// works.
func closeEndsPublish(tr *trial) {
	s := tr.openUnread(Options{Window: 5})
	batch := attempts(tr.Topic(tr.T), 50)
	var n int
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n, err = s.offer(context.Background(), batch)
	}()
	ctx, cancel := context.WithTimeout(tr.Context(), tr.Patience)
	defer cancel()
	if _, receiveErr := s.receive(ctx, 1); receiveErr != nil { // it is under way
		fail(tr, "Receive: %v", receiveErr)
	}
	s.close()
	within(tr, tr.Patience, "Publish while Close is called", func() { <-ended })
	if n < len(batch) && !errors.Is(err, reliable.ErrClosed) {
		fail(tr, "Publish ended by Close: n = %d, error %v, want ErrClosed", n, err)
	}
	if tr.Features.Window && n == len(batch) {
		fail(tr, "Publish handed over %d attempts through a window of 5 that nobody emptied", n)
	}
}

func closeWhilePublishing(tr *trial) {
	const publishers = 4
	s := tr.open(Options{Window: 50})
	topic := tr.Topic(tr.T)
	ctx, cancel := context.WithTimeout(tr.Context(), tr.Patience)
	defer cancel()
	var publishing sync.WaitGroup
	for range publishers {
		publishing.Go(func() {
			for range tr.Volume {
				if _, err := s.offer(ctx, attempts(topic, 5)); err != nil {
					if !errors.Is(err, reliable.ErrClosed) {
						s.note("Publish while Close is called: %v, want ErrClosed", err)
					}
					return
				}
			}
		})
	}
	s.awaitCount(100)
	s.publish(attempts(topic, 20)...) // so that something is in flight
	s.close()
	within(tr, tr.Patience, "Publish while Close is called", publishing.Wait)
}
