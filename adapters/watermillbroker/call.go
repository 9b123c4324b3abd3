package watermillbroker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

var (
	errStillRunning = errors.New("watermillbroker: an earlier call for the same id or key timed out and still runs")
	errCutOff       = fmt.Errorf("watermillbroker: call did not return in time: %w", reliable.ErrClosed)
)

// lane is what calls must not overtake each other in: a key of a topic, or, without a key, an id.
type lane struct {
	topic, key string
	id         reliable.ID
}

func laneOf(a *reliable.Attempt) lane {
	if a.Key != "" {
		return lane{topic: a.Topic, key: a.Key}
	}
	return lane{id: a.ID}
}

// call is one call of the Watermill publisher. It is live until it is answered, by its return or by its timeout; one that
// timed out keeps its lane and its place until it returns.
type call struct {
	id       reliable.ID
	fence    int64
	at       lane
	answered bool
	timeout  *time.Timer
}

// start begins a call; there must be room for it.
func (b *Broker) start(a *reliable.Attempt, at lane) {
	c := &call{id: a.ID, fence: a.Fence, at: at}
	b.running++
	b.live[c] = struct{}{}
	b.lanes[at] = c
	if a.Alone {
		b.alone = c
	}
	msg := a.Message()
	msg.Payload = slices.Clone(msg.Payload) // a call that timed out may read it after the caller was given it back
	topic := a.Topic
	c.timeout = time.AfterFunc(b.timeout, func() { b.expire(c) })
	go b.run(c, topic, msg)
}

func (b *Broker) run(c *call, topic string, msg *message.Message) {
	ctx, cancel := context.WithTimeout(b.life, b.timeout)
	defer cancel()
	msg.SetContext(ctx)
	err := b.pub.Publish(topic, msg)
	outcome := reliable.Acked
	if err != nil {
		outcome = b.classify(err)
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	c.timeout.Stop()
	b.running--
	delete(b.lanes, c.at)
	b.answer(c, outcome, err)
	b.writable.open()
}

func (b *Broker) expire(c *call) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer(c, reliable.Unknown, fmt.Errorf("watermillbroker: publisher did not return within %v", b.timeout))
}

// answer confirms a live call; whatever comes later of it is not told.
func (b *Broker) answer(c *call, outcome reliable.Outcome, err error) {
	if c.answered {
		return
	}
	c.answered = true
	delete(b.live, c)
	if b.alone == c {
		b.alone = nil
	}
	b.confirm(c.id, c.fence, outcome, err)
	b.writable.open()
}

func (b *Broker) confirm(id reliable.ID, fence int64, outcome reliable.Outcome, err error) {
	if outcome == reliable.Acked {
		err = nil
	}
	b.ready = append(b.ready, reliable.Confirm{ID: id, Fence: fence, Outcome: outcome, Err: err})
	b.readable.open()
}

// gate lets any number of goroutines wait for the next change; it is guarded by the broker's mutex.
type gate struct{ changed chan struct{} }

func (g *gate) wait() <-chan struct{} {
	if g.changed == nil {
		g.changed = make(chan struct{})
	}
	return g.changed
}

func (g *gate) open() {
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}
