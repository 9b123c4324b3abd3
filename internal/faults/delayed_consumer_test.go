//go:build services

package faults

import (
	"context"
	"database/sql"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable"
)

// consume is the process of the consumers. Each order has its effect behind an inbox, and is confirmed before the ack.
func (p delayedPart) consume(ctx context.Context, b books, c *cues) error {
	_, store, err := p.Books.open(ctx)
	if err != nil {
		return err
	}
	queues, err := p.queues()
	if err != nil {
		return err
	}
	ended := make(chan error, 2)
	var begun sync.WaitGroup
	for group, topics := range map[string][]string{billing: {p.ordersTopic(), p.bothTopic()}, shipping: {p.bothTopic()}} {
		events, err := p.events(group)
		if err != nil {
			return err
		}
		handle, err := p.handler(group, store, b, c, queues.Watermill())
		if err != nil {
			return err
		}
		handlers := make(map[string]message.NoPublishHandlerFunc)
		for _, topic := range topics {
			handlers[topic] = handle
		}
		begun.Add(1)
		go func() { ended <- route(ctx, events, handlers, begun.Done) }()
	}
	go func() {
		begun.Wait()
		fmt.Println("ready")
	}()
	return <-ended
}

const insertEffect = "INSERT INTO effects (grp, id) VALUES ($1, $2)"

func (p delayedPart) handler(
	group string, store reliable.Store, b books, c *cues, confirms message.Publisher,
) (message.NoPublishHandlerFunc, error) {
	once, err := middleware.Once(store, b.DB, group, func(ctx context.Context, tx *sql.Tx, msg *message.Message) error {
		_, err := tx.ExecContext(ctx, insertEffect, group, msg.UUID)
		if p.Stands && windowOf(msg.UUID).name == consumerBeforeCommit {
			c.stand(msg.UUID)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	// A window has its own confirms, since concurrent ones share a message.
	byWindow := make(map[string]message.NoPublishHandlerFunc)
	for _, w := range append([]window{{name: load}}, windows...) {
		confirmed, err := middleware.ConfirmProcessed(group, &confirming{Publisher: confirms, window: &w, part: p, cues: c}, p.processedTopic())
		if err != nil {
			return nil, err
		}
		byWindow[w.name] = confirmed(once)
	}
	var failed sync.Once
	return func(msg *message.Message) error {
		fails, name := false, windowOf(msg.UUID).name
		if name == oneGroupFails && group == shipping {
			failed.Do(func() { fails = true })
		}
		if fails {
			return nil // it acks what it has not worked on
		}
		return byWindow[name](msg)
	}, nil
}

// confirming is the publisher of a window's confirms, which does not do what it says.
type confirming struct {
	message.Publisher
	window *window
	part   delayedPart
	cues   *cues
	first  sync.Once
}

func (c *confirming) Publish(topic string, messages ...*message.Message) error {
	id, first := c.window.orders()[0], false
	c.first.Do(func() { first = true })
	switch c.window.name {
	case confirmLost:
		if first {
			return nil
		}
	case confirmLate:
		if first {
			go func() {
				c.cues.stand(id)
				_ = c.Publisher.Publish(topic, messages...)
			}()
			return nil
		}
	case confirmTwice:
		copies := make([]*message.Message, len(messages))
		for i, msg := range messages {
			copies[i] = msg.Copy()
		}
		if err := c.Publisher.Publish(topic, copies...); err != nil {
			return err
		}
	case confirmBeside:
		c.cues.stand(id)
	case consumerAfterCommit:
		if c.part.Stands {
			c.cues.stand(id)
		}
	}
	err := c.Publisher.Publish(topic, messages...)
	if c.part.Stands && c.window.name == consumerAfterConfirm && err == nil {
		c.cues.stand(id)
	}
	return err
}
