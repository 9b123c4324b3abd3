package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/examples/internal/backends"
	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable/backend"
)

// shipping is the process that consumes orders. Each one is shipped once, however often its message comes, and confirmed
// before the ack.
func shipping(ctx context.Context, s stage, out io.Writer) (err error) {
	store, err := openStore(ctx, s.Shipping,
		`CREATE TABLE IF NOT EXISTS shipments (id VARCHAR(64) PRIMARY KEY)`,
		`CREATE TABLE IF NOT EXISTS receipts (id VARCHAR(64))`) // for the audit alone
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	broker, err := s.openBroker(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.Close()) }()

	insert := backends.Query(store, `INSERT INTO shipments (id) VALUES (?)`)
	ship, err := middleware.Once(store, nil, shippingRole, func(ctx context.Context, tx *sql.Tx, msg *message.Message) error {
		_, err := tx.ExecContext(ctx, insert, msg.UUID)
		return err
	})
	if err != nil {
		return err
	}
	publisher := broker.Watermill()
	defer func() { err = errors.Join(err, publisher.Close()) }()
	confirmed, err := middleware.ConfirmProcessed(shippingRole, publisher, s.processedTopic())
	if err != nil {
		return err
	}
	handle := confirmed(ship)
	return consume(ctx, broker, s.group(shippingRole), out, map[string]message.NoPublishHandlerFunc{
		s.ordersTopic(): func(msg *message.Message) error {
			if _, err := backends.Exec(msg.Context(), store, `INSERT INTO receipts (id) VALUES (?)`, msg.UUID); err != nil {
				return err
			}
			return handle(msg)
		},
	})
}

// consume runs a router with a handler for each topic, until ctx ends.
func consume(ctx context.Context, broker backend.Broker, group string, out io.Writer,
	handlers map[string]message.NoPublishHandlerFunc,
) (err error) {
	subscriber, err := broker.Subscribe(group)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, subscriber.Close()) }()
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	for topic, handle := range handlers {
		router.AddConsumerHandler(topic, topic, subscriber, handle)
	}
	go func() {
		<-router.Running()
		fmt.Fprintln(out, ready)
	}()
	return router.Run(ctx)
}
