package membroker

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// Subscriber consumes in a group: its subscriptions share a topic's messages with all others of that group, beside other
// groups, from the topic's first message on. A subscription handles one message at a time; a nacked one comes again at
// once, before newer ones. It is safe for concurrent use.
type Subscriber struct {
	b         *Broker
	group     string
	life      context.Context //nolint:containedctx // every subscription ends with it, whichever context began it
	end       context.CancelFunc
	consumers sync.WaitGroup
}

var _ message.Subscriber = (*Subscriber)(nil)

// group is a topic as one consumer group has read it.
type group struct {
	next  int   // index in the topic's log
	again []int // indexes that were nacked, or whose consumer went away; ascending
}

// Subscriber returns a Watermill subscriber for the consumer group of that name.
func (b *Broker) Subscriber(groupName string) *Subscriber {
	life, end := context.WithCancel(b.life)
	return &Subscriber{b: b, group: groupName, life: life, end: end}
}

// Subscribe consumes topic, and declares it. One goroutine serves the channel until ctx ends or Close.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if s.life.Err() != nil {
		return nil, fmt.Errorf("membroker: subscribe to topic %q: %w", topic, reliable.ErrClosed)
	}
	ctx, cancel := context.WithCancel(ctx)
	detach := context.AfterFunc(s.life, cancel)
	c := &consumer{b: s.b, out: make(chan *message.Message), ctx: ctx}
	c.topic, c.group = s.b.join(topic, s.group)
	s.consumers.Add(1)
	s.b.consumers.Go(func() {
		defer s.consumers.Done()
		defer cancel()
		defer detach()
		defer close(c.out)
		c.run()
	})
	return c.out, nil
}

// Close ends the subscriptions made with s, and waits for them.
func (s *Subscriber) Close() error {
	s.b.mu.Lock() // no subscription begins once the wait has
	s.end()
	s.b.mu.Unlock()
	s.consumers.Wait()
	return nil
}

func (b *Broker) join(name, groupName string) (*topic, *group) {
	t := b.topics[name]
	if t == nil {
		t = &topic{name: name, declared: true}
		b.topics[name] = t
	}
	t.declared = true
	if t.groups == nil {
		t.groups = make(map[string]*group)
	}
	g := t.groups[groupName]
	if g == nil {
		g = &group{}
		t.groups[groupName] = g
	}
	return t, g
}

// consumer is one subscription.
type consumer struct {
	b     *Broker
	topic *topic
	group *group
	out   chan *message.Message
	ctx   context.Context //nolint:containedctx // the subscription's, passed on to every message
}

func (c *consumer) run() {
	for {
		index, delivery, ok := c.fetch()
		if !ok {
			return
		}
		if !c.deliver(delivery) {
			c.giveBack(index)
		}
	}
}

// fetch waits for the next message of the group; ok is false at the end of the subscription.
func (c *consumer) fetch() (index int, delivery Delivery, ok bool) {
	for {
		c.b.mu.Lock()
		c.b.advance()
		switch {
		case c.ctx.Err() != nil:
			c.b.mu.Unlock()
			return 0, Delivery{}, false
		case len(c.group.again) > 0:
			index, ok = c.group.again[0], true
			c.group.again = slices.Delete(c.group.again, 0, 1)
		case c.group.next < len(c.topic.log):
			index, ok = c.group.next, true
			c.group.next++
		}
		if ok {
			delivery = c.topic.log[index]
			c.b.mu.Unlock()
			return index, delivery, true
		}
		arrived, next := c.topic.arrived.wait(), c.b.nextEvent()
		c.b.mu.Unlock()
		_ = await(c.ctx, arrived, next) // the end of ctx is seen above
	}
}

// deliver hands one message to the consumer and reports whether it was acked.
func (c *consumer) deliver(delivery Delivery) bool {
	env := delivery.Envelope
	env.Payload = slices.Clone(env.Payload)
	msg := env.Message()
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	msg.SetContext(ctx)

	select {
	case c.out <- msg:
	case <-c.ctx.Done():
		return false
	}
	select {
	case <-msg.Acked():
		return true
	case <-msg.Nacked():
		return false
	case <-c.ctx.Done():
	}
	select {
	case <-msg.Acked():
		return true
	default:
		return false
	}
}

func (c *consumer) giveBack(index int) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	at, _ := slices.BinarySearch(c.group.again, index)
	c.group.again = slices.Insert(c.group.again, at, index)
	c.topic.arrived.open()
}
