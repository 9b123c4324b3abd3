package brokertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

var watermillChecks = []entry{
	{name: "watermill: publish returns nil only once everything can be consumed", applies: hasWatermill, run: watermillConfirms},
	{name: "watermill: many goroutines publish at once", applies: hasWatermill, run: watermillConcurrent},
	{name: "watermill: a received message can be forwarded", applies: hasWatermill, run: watermillForwards},
	{name: "watermill: one uuid may be published twice in a call", applies: hasWatermill, run: watermillTwice},
	{name: "watermill: publish ends with its messages' context", applies: hasWatermill, run: watermillContext},
	{name: "watermill: publish after close is an error", applies: hasWatermill, run: watermillClosed},
	{
		name:    "watermill: an unroutable message is ErrUnroutable and the others are sent",
		applies: func(h *Harness) bool { return hasWatermill(h) && h.Features.Returns },
		run: func(tr *trial) {
			tr.watermillRefuses(tr.UnroutableTopic(tr.T), []byte("x"), reliable.Returned)
		},
	},
	{
		name:    "watermill: a refused message is ErrNacked",
		applies: func(h *Harness) bool { return hasWatermill(h) && h.Features.Nacks },
		run: func(tr *trial) {
			tr.watermillRefuses(tr.RefusingTopic(tr.T), []byte("x"), reliable.Nacked)
		},
	},
	{
		name:    "watermill: an oversize message is ErrRejected",
		applies: func(h *Harness) bool { return hasWatermill(h) && h.Features.Rejects },
		run: func(tr *trial) {
			tr.watermillRefuses(tr.Topic(tr.T), tr.Oversize(tr.T), reliable.Rejected)
		},
	},
}

func hasWatermill(h *Harness) bool { return h.Watermill != nil }

// watermill opens a Watermill publisher that is closed after the check.
func (tr *trial) watermill() message.Publisher {
	tr.Helper()
	pub := tr.Watermill(tr.T)
	tr.Cleanup(func() { _ = pub.Close() })
	return pub
}

func messages(n int) []*message.Message {
	msgs := make([]*message.Message, n)
	for i := range msgs {
		msgs[i] = message.NewMessage(string(reliable.NewID()), []byte(fmt.Sprint("payload ", i)))
		msgs[i].Metadata.Set("number", fmt.Sprint(i))
	}
	return msgs
}

// sendMessages publishes through Watermill within the suite's patience.
func (tr *trial) sendMessages(pub message.Publisher, topic string, msgs ...*message.Message) {
	tr.Helper()
	var err error
	within(tr, tr.Patience+promptness, "Watermill's Publish", func() { err = pub.Publish(topic, msgs...) })
	if err != nil {
		fail(tr, "Watermill's Publish of %d messages: %v", len(msgs), err)
	}
}

// arriveAs checks that msgs, all that topic holds, can be consumed now.
func (tr *trial) arriveAs(topic string, msgs []*message.Message) []reliable.Envelope {
	tr.Helper()
	batch := make([]reliable.Attempt, len(msgs))
	for i, msg := range msgs {
		batch[i].Envelope = reliable.EnvelopeOf(topic, msg)
	}
	return tr.arrive(batch)
}

func watermillConfirms(tr *trial) {
	topic := tr.Topic(tr.T)
	for range 3 {
		pub := tr.watermill()
		msgs := messages(20)
		tr.sendMessages(pub, topic)
		tr.sendMessages(pub, topic, msgs...)
		if err := pub.Close(); err != nil { // what is sent only later is then not sent at all
			fail(tr, "Close of Watermill's publisher: %v", err)
		}
		for i, env := range tr.arriveAs(topic, msgs) {
			if env.Metadata["number"] == "" || len(env.Payload) == 0 {
				fail(tr, "message %d arrived without its metadata or payload: %s", i, sketch(&env))
			}
		}
	}
}

func watermillConcurrent(tr *trial) {
	pub := tr.watermill()
	topic := tr.Topic(tr.T)
	const publishers, each = 16, 25
	all := messages(publishers * each)
	errs := make([]error, publishers)
	var publishing sync.WaitGroup
	for p := range publishers {
		publishing.Go(func() {
			for i := p * each; i < (p+1)*each && errs[p] == nil; i++ {
				errs[p] = pub.Publish(topic, all[i])
			}
		})
	}
	within(tr, 2*tr.Patience, "publishing from many goroutines", publishing.Wait)
	if err := errors.Join(errs...); err != nil {
		fail(tr, "Watermill's Publish: %v", err)
	}
	tr.arriveAs(topic, all)
}

// watermillForwards publishes what was received, headers of Waybill included, to the next topic.
func watermillForwards(tr *trial) {
	pub := tr.watermill()
	env := attempt(tr.Topic(tr.T)).Envelope
	env.Metadata = map[string]string{"name": "value"}
	if tr.Features.Keys {
		env.Key = "key"
	}
	tr.sendMessages(pub, env.Topic, env.Message())
	arrived := tr.Received(tr.T, env.Topic, 1)
	if len(arrived) != 1 {
		fail(tr, "%d messages arrived, want 1", len(arrived))
	}
	if got := arrived[0]; got.ID != env.ID || got.Key != env.Key || got.Metadata["name"] != "value" || len(got.Metadata) != 1 {
		fail(tr, "sent %s\narrived %s", sketch(&env), sketch(&got))
	}
}

func watermillTwice(tr *trial) {
	pub := tr.watermill()
	msg := messages(1)[0]
	tr.sendMessages(pub, tr.Topic(tr.T), msg, msg, msg)
}

func watermillContext(tr *trial) {
	pub := tr.watermill()
	topic := tr.Topic(tr.T)
	tr.sendMessages(pub, topic, messages(1)...)
	if tr.Block != nil {
		unblock := tr.Block(tr.T)
		defer unblock()
	}
	ctx, cancel := context.WithTimeout(tr.Context(), 200*time.Millisecond)
	defer cancel()
	if tr.Block == nil { // nothing to wait for: only an ended context must show
		cancel()
	}
	msgs := messages(3)
	for _, msg := range msgs {
		msg.SetContext(ctx)
	}
	var err error
	within(tr, promptness, "Watermill's Publish with an ended context", func() { err = pub.Publish(topic, msgs...) })
	if tr.Block != nil && err == nil {
		fail(tr, "Watermill's Publish returned nil while the broker was blocked")
	}
}

func watermillClosed(tr *trial) {
	pub := tr.watermill()
	topic := tr.Topic(tr.T)
	tr.sendMessages(pub, topic, messages(1)...)
	for range 2 {
		var err error
		within(tr, tr.Patience, "Close of Watermill's publisher", func() { err = pub.Close() })
		if err != nil {
			fail(tr, "Close of Watermill's publisher: %v", err)
		}
	}
	var err error
	within(tr, promptness, "Watermill's Publish after Close", func() { err = pub.Publish(topic, messages(1)...) })
	if !errors.Is(err, reliable.ErrClosed) {
		fail(tr, "Watermill's Publish after Close: %v, want ErrClosed", err)
	}
}

// watermillRefuses publishes one bad message, and good ones in calls around it.
func (tr *trial) watermillRefuses(topic string, payload []byte, want reliable.Outcome) {
	tr.Helper()
	pub := tr.watermill()
	good := tr.Topic(tr.T)
	before, bad, after := messages(3), messages(2), messages(3)
	for _, msg := range bad {
		msg.Payload = payload
	}
	tr.sendMessages(pub, good, before...)
	var err error
	within(tr, tr.Patience+promptness, "Watermill's Publish", func() { err = pub.Publish(topic, bad...) })
	tr.sendMessages(pub, good, after...)
	var failed *reliable.PublishError
	if !errors.Is(err, want.Err()) || !errors.As(err, &failed) {
		fail(tr, "Watermill's Publish: %v, want a *PublishError that is %q", err, want.Err())
	}
	if failed.ID != reliable.ID(bad[0].UUID) || failed.Topic != topic || failed.Outcome != want {
		fail(tr, "Watermill's Publish of id %q: %v, want it to name this message and %v", bad[0].UUID, failed, want)
	}
	tr.arriveAs(good, append(before, after...))
}
