package brokertest_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/reliable"
)

// onWire sends what change makes of each attempt; confirms are those of the original.
func onWire(change func(*reliable.Attempt)) func(*lab, *connection) {
	return func(l *lab, c *connection) {
		var mu sync.Mutex
		names := make(map[reliable.ID]reliable.ID)
		c.publish = func(ctx context.Context, batch []reliable.Attempt) (int, error) {
			wire := slices.Clone(batch)
			mu.Lock()
			for i := range wire {
				change(&wire[i])
				names[wire[i].ID] = batch[i].ID
			}
			mu.Unlock()
			return c.inner.Publish(ctx, wire)
		}
		alter(func(confirm *reliable.Confirm) {
			mu.Lock()
			defer mu.Unlock()
			confirm.ID = names[confirm.ID]
		})(l, c)
	}
}

var wireLies = []lie{
	{
		name:     "loses the metadata",
		connect:  onWire(func(a *reliable.Attempt) { a.Metadata = nil }),
		caughtBy: []string{roundTrip},
	},
	{
		name: "takes metadata names for HTTP headers",
		connect: onWire(func(a *reliable.Attempt) {
			lower := make(map[string]string)
			for key, value := range a.Metadata {
				lower[strings.ToLower(key)] = value
			}
			a.Metadata = lower
		}),
		caughtBy: []string{roundTrip},
	},
	{
		name: "trims metadata",
		connect: onWire(func(a *reliable.Attempt) {
			trimmed := make(map[string]string)
			for key, value := range a.Metadata {
				trimmed[key] = strings.TrimSpace(value)
			}
			a.Metadata = trimmed
		}),
		caughtBy: []string{awkward},
	},
	{
		name: "leaves out empty metadata",
		connect: onWire(func(a *reliable.Attempt) {
			a.Metadata = maps.Clone(a.Metadata)
			maps.DeleteFunc(a.Metadata, func(_, value string) bool { return value == "" })
		}),
		caughtBy: []string{awkward},
	},
	{
		name:     "loses the key",
		connect:  onWire(func(a *reliable.Attempt) { a.Key = "" }),
		caughtBy: []string{roundTrip},
	},
	{
		name:     "gives messages ids of its own",
		connect:  onWire(func(a *reliable.Attempt) { a.ID = reliable.NewID() }),
		caughtBy: []string{roundTrip, consumable},
	},
	{
		name:     "takes ids for case-insensitive",
		connect:  onWire(func(a *reliable.Attempt) { a.ID = reliable.ID(strings.ToUpper(string(a.ID))) }),
		caughtBy: []string{byteByByte, roundTrip},
	},
	{
		name:     "cuts long ids",
		connect:  onWire(func(a *reliable.Attempt) { a.ID = a.ID[:min(len(a.ID), 100)] }),
		caughtBy: []string{roundTrip},
	},
	{
		name: "takes payloads for text",
		connect: onWire(func(a *reliable.Attempt) {
			a.Payload = []byte(strings.ToValidUTF8(string(a.Payload), "?"))
		}),
		caughtBy: []string{roundTrip},
	},
	{
		name: "writes null for an empty payload",
		connect: onWire(func(a *reliable.Attempt) {
			if len(a.Payload) == 0 {
				a.Payload = []byte("null")
			}
		}),
		caughtBy: []string{roundTrip},
	},
	{
		name: "writes headers into the caller's metadata",
		connect: onWire(func(a *reliable.Attempt) {
			if a.Metadata != nil {
				a.Metadata["header"] = "value"
			}
		}),
		caughtBy: []string{memory},
	},
	{
		name: "keeps the batch beyond publish",
		connect: func(_ *lab, c *connection) {
			c.publish = func(_ context.Context, batch []reliable.Attempt) (int, error) {
				go func() {
					time.Sleep(time.Millisecond)
					_, _ = c.inner.Publish(context.Background(), batch)
				}()
				return len(batch), nil
			}
		},
		caughtBy: []string{memory},
	},
	{
		name: "sends a batch backwards",
		connect: func(_ *lab, c *connection) {
			c.publish = func(ctx context.Context, batch []reliable.Attempt) (int, error) {
				backwards := slices.Clone(batch)
				slices.Reverse(backwards)
				return c.inner.Publish(ctx, backwards)
			}
		},
		caughtBy: []string{order, keyOrder},
	},
	{
		name: "sends everything twice",
		connect: func(l *lab, c *connection) {
			other := l.broker.Connect(membroker.ConnWindow(1 << 20))
			c.publish = func(ctx context.Context, batch []reliable.Attempt) (int, error) {
				n, err := c.inner.Publish(ctx, batch)
				_, _ = other.Publish(context.Background(), batch[:n])
				return n, err
			}
		},
		caughtBy: []string{consumable},
	},
}

var brokerLies = []lie{
	{
		name: "acks and loses",
		script: func(a membroker.Attempt) membroker.Verdict {
			if a.Number%7 == 0 {
				return membroker.Verdict{Act: membroker.Lie}
			}
			return membroker.Verdict{}
		},
		caughtBy: []string{consumable, wmConfirms},
	},
	{
		name: "acks before the message is stored",
		connect: func(_ *lab, c *connection) {
			ready := make(chan reliable.Confirm, 1<<16)
			closed := make(chan struct{})
			c.publish = func(_ context.Context, batch []reliable.Attempt) (int, error) {
				held := slices.Clone(batch)
				time.AfterFunc(time.Second, func() { _, _ = c.inner.Publish(context.Background(), held) })
				for i := range batch {
					ready <- reliable.Confirm{ID: batch[i].ID, Fence: batch[i].Fence, Outcome: reliable.Acked}
				}
				return len(batch), nil
			}
			c.receive = func(ctx context.Context, _ int) ([]reliable.Confirm, error) {
				select {
				case confirm := <-ready:
					return []reliable.Confirm{confirm}, nil
				case <-closed:
					return nil, io.EOF
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			c.close = sync.OnceValue(func() error {
				close(closed)
				return c.inner.Close()
			})
		},
		caughtBy: []string{consumable},
	},
	{
		name: "leaves attempts of a blocked broker open for longer than it says",
		connect: func(l *lab, c *connection) {
			patient := l.broker.Connect(membroker.ConnConfirmTimeout(10 * time.Minute))
			c.publish, c.receive, c.close = patient.Publish, patient.Receive, patient.Close
		},
		caughtBy: []string{blockedLong},
	},
	{
		name: "fails the neighbours of an unroutable message",
		script: func(a membroker.Attempt) membroker.Verdict {
			if strings.HasPrefix(a.Topic, "unroutable") || strings.HasPrefix(a.Topic, "full") {
				return membroker.Verdict{Act: membroker.Cut}
			}
			return membroker.Verdict{}
		},
		caughtBy: []string{unroutable, refused, mixed},
	},
	{
		name: "never finds the poison",
		script: func(a membroker.Attempt) membroker.Verdict {
			if a.Metadata["act"] == "poison" {
				return membroker.Verdict{Act: membroker.CutBefore}
			}
			return membroker.Verdict{}
		},
		caughtBy: []string{poison},
	},
	{
		name: "rejects an attempt for being alone", script: func(a membroker.Attempt) membroker.Verdict {
			if a.Alone {
				return membroker.Verdict{Act: membroker.Reject}
			}
			return membroker.Verdict{}
		},
		caughtBy: []string{alone},
	},
	{
		name: "keeps every payload",
		connect: func(l *lab, c *connection) {
			c.publish = func(ctx context.Context, batch []reliable.Attempt) (int, error) {
				for i := range batch {
					l.kept = append(l.kept, batch[i].Payload)
				}
				return c.inner.Publish(ctx, batch)
			}
		},
		options: []membroker.Option{membroker.WithDiscard()}, outOfProcess: true,
		caughtBy: []string{flat},
	},
}

// publisherFunc is a Watermill publisher that does something of its own.
type publisherFunc struct {
	publish func(topic string, msgs ...*message.Message) error
	close   func() error
}

func (p *publisherFunc) Publish(topic string, msgs ...*message.Message) error {
	return p.publish(topic, msgs...)
}

func (p *publisherFunc) Close() error { return p.close() }

func watermillWith(
	change func(l *lab, pub message.Publisher, topic string, msgs []*message.Message) error,
) func(*lab, message.Publisher) message.Publisher {
	return func(l *lab, pub message.Publisher) message.Publisher {
		return &publisherFunc{
			publish: func(topic string, msgs ...*message.Message) error { return change(l, pub, topic, msgs) },
			close:   pub.Close,
		}
	}
}

var watermillLies = []lie{
	{
		name: "watermill: does not wait for confirms",
		watermill: watermillWith(func(l *lab, pub message.Publisher, topic string, msgs []*message.Message) error {
			time.AfterFunc(time.Second, func() { _ = pub.Publish(topic, msgs...) })
			return nil
		}),
		caughtBy: []string{wmConfirms, wmContext, wmClosed, wmUnroutable, wmRefused, wmOversize},
	},
	{
		name: "watermill: has one caller at a time",
		watermill: func(_ *lab, pub message.Publisher) message.Publisher {
			var calls atomic.Int32
			return &publisherFunc{close: pub.Close, publish: func(topic string, msgs ...*message.Message) error {
				defer calls.Add(-1)
				if calls.Add(1) > 1 {
					return errOther
				}
				return pub.Publish(topic, msgs...)
			}}
		},
		caughtBy: []string{wmMany},
	},
	{
		name: "watermill: says nothing of what went wrong",
		watermill: watermillWith(func(_ *lab, pub message.Publisher, topic string, msgs []*message.Message) error {
			if pub.Publish(topic, msgs...) != nil {
				return errOther
			}
			return nil
		}),
		caughtBy: []string{wmUnroutable, wmRefused, wmOversize, wmClosed},
	},
	{
		name: "watermill: names no message",
		watermill: watermillWith(func(_ *lab, pub message.Publisher, topic string, msgs []*message.Message) error {
			err := pub.Publish(topic, msgs...)
			for _, sentinel := range []error{reliable.ErrUnroutable, reliable.ErrNacked, reliable.ErrRejected} {
				if errors.Is(err, sentinel) {
					return sentinel
				}
			}
			return err
		}),
		caughtBy: []string{wmUnroutable, wmRefused, wmOversize},
	},
	{
		name: "watermill: ignores the messages' context",
		watermill: watermillWith(func(_ *lab, pub message.Publisher, topic string, msgs []*message.Message) error {
			for _, msg := range msgs {
				msg.SetContext(context.Background())
			}
			return pub.Publish(topic, msgs...)
		}),
		caughtBy: []string{wmContext},
	},
	{
		name: "watermill: refuses a uuid that it knows",
		watermill: watermillWith(func(_ *lab, pub message.Publisher, topic string, msgs []*message.Message) error {
			if len(msgs) > 1 && msgs[0] == msgs[1] {
				return errOther
			}
			return pub.Publish(topic, msgs...)
		}),
		caughtBy: []string{wmTwice},
	},
	{
		name: "watermill: fails when closed twice",
		watermill: func(_ *lab, pub message.Publisher) message.Publisher {
			closed := false
			return &publisherFunc{publish: pub.Publish, close: func() error {
				if closed {
					return errOther
				}
				closed = true
				return pub.Close()
			}}
		},
		caughtBy: []string{wmClosed},
	},
	{
		name: "watermill: sends headers of its own as metadata",
		watermill: watermillWith(func(_ *lab, pub message.Publisher, topic string, msgs []*message.Message) error {
			for _, msg := range msgs {
				msg.Metadata.Set("header", "value")
			}
			return pub.Publish(topic, msgs...)
		}),
		caughtBy: []string{wmForward},
	},
}
