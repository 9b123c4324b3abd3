package middleware

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// WithProcessedConfirms publishes, through the preset's publisher, a processed confirm of each message to topic, where the
// callback service of the delayed check listens. Default: none. The order is fixed: the handler returns (what it does in a
// transaction is committed by then), what it produced is published, the broker confirms the processed confirm, and only then
// the message is acked. Where one of these fails, the message is given back uncharged and comes again; behind [Once] its
// effect does not.
//
// What a handler produces is then published by the preset rather than by the router, whose publisher decorators do not see
// it; add such a handler with [Preset.AddHandler].
//
// A message in a retry topic is not processed yet. One in the poison topic is, unless [WithPoisonUnprocessed].
func WithProcessedConfirms(topic string) Option {
	return func(s *settings) { s.confirming, s.confirmTopic = true, topic }
}

// WithPoisonUnprocessed has a message in the poison topic count as not processed: its check has it sent again, until the
// callback service gives up and operators see it there as well. Default: it counts as processed, because nothing of it is
// lost and a copy would end in the same place.
func WithPoisonUnprocessed() Option { return func(s *settings) { s.poisonUnprocessed = true } }

// ConfirmProcessed is [WithProcessedConfirms] for handlers without a preset: the handler that it wraps is acked only once
// the broker has confirmed the processed confirm of group, published to topic. A nil error of publisher must mean that the
// broker has the message. It is safe for concurrent use; concurrent confirms share a message.
func ConfirmProcessed(
	group string, publisher message.Publisher, topic string,
) (func(message.NoPublishHandlerFunc) message.NoPublishHandlerFunc, error) {
	var problems []error
	probe := reliable.Processed{ID: "id", Group: group}
	if err := probe.Check(); err != nil {
		problems = append(problems, err)
	}
	if publisher == nil {
		problems = append(problems, reliable.Invalid("publisher", "is nil"))
	}
	if topic == "" {
		problems = append(problems, reliable.Invalid("topic", "is empty; name the topic that the callback service listens to"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("middleware: confirm processed: %w", err)
	}
	confirmer := newConfirmer(group, publisher, topic)
	return func(h message.NoPublishHandlerFunc) message.NoPublishHandlerFunc {
		return func(msg *message.Message) error {
			ctx, id := msg.Context(), msg.UUID // as they came: a handler may change its message
			if err := h(msg); err != nil {
				return err
			}
			return confirmer.confirm(ctx, id)
		}
	}, nil
}

// errProduces is what a message meets whose handler produces something that would be published after the confirm.
var errProduces = errors.New("middleware: a handler with processed confirms produced messages: add it with Preset.AddHandler, " +
	"so that these are published before the confirm")

// confirmed publishes what the handler produced, and then the processed confirm; without confirms it leaves it to the router.
func (c *consumer) confirmed(d *delivery, produced []*message.Message) ([]*message.Message, error) {
	if c.confirms == nil {
		return produced, nil
	}
	if len(produced) > 0 {
		if c.out == nil {
			return nil, errProduces
		}
		if err := c.out.Publish(c.outTopic, produced...); err != nil {
			return nil, err
		}
	}
	if err := c.confirms.confirm(d.ctx, d.id); err != nil {
		return nil, err
	}
	c.trouble.Store(0)
	return nil, nil
}

// confirmer publishes processed confirms, one message at a time: while it is on its way, the confirms of other callers gather
// and share the next one.
type confirmer struct {
	group     string
	publisher message.Publisher
	topic     string
	turn      chan struct{} // of capacity 1; who has put something in publishes

	mu        sync.Mutex
	gathering *confirmBatch // nil while there is none that another confirm could join
}

type confirmBatch struct {
	confirms []reliable.Processed
	done     chan struct{} // closed once the broker has the message, or err is set
	err      error
}

func newConfirmer(group string, publisher message.Publisher, topic string) *confirmer {
	return &confirmer{group: group, publisher: publisher, topic: topic, turn: make(chan struct{}, 1)}
}

// confirm returns nil once the broker has the confirm. It does not end with ctx: the message was processed, and a process
// that stops had better say so.
func (c *confirmer) confirm(ctx context.Context, id string) error {
	confirm := reliable.Processed{ID: reliable.ID(id), Group: c.group}
	if confirm.Check() != nil {
		return nil //nolint:nilerr // no check can ask about such a message, and nothing waits for its confirm
	}
	batch, first := c.join(confirm)
	if first {
		c.publish(ctx, batch)
	}
	<-batch.done
	return batch.err
}

func (c *confirmer) join(confirm reliable.Processed) (batch *confirmBatch, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first = c.gathering == nil || len(c.gathering.confirms) == reliable.MaxProcessed
	if first {
		c.gathering = &confirmBatch{done: make(chan struct{}), err: errNotPublished}
	}
	c.gathering.confirms = append(c.gathering.confirms, confirm)
	return c.gathering, first
}

// errNotPublished is what the others of a batch see when its publisher panics.
var errNotPublished = errors.New("middleware: the processed confirm was not published")

func (c *confirmer) publish(ctx context.Context, batch *confirmBatch) {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	defer close(batch.done)
	c.mu.Lock()
	if c.gathering == batch {
		c.gathering = nil
	}
	c.mu.Unlock()
	msg, err := reliable.ProcessedMessage(batch.confirms...)
	if err == nil {
		msg.SetContext(context.WithoutCancel(ctx))
		err = c.publisher.Publish(c.topic, msg)
	}
	if err != nil {
		err = fmt.Errorf("middleware: publish processed confirm: %w", err)
	}
	batch.err = err
}
