package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/middleware"
)

// shipping is the process that consumes orders. Each one is shipped once, however often its message comes, and confirmed
// before the ack.
func shipping(ctx context.Context, s stage, out io.Writer) (err error) {
	store, err := sqlitestore.Open(ctx, s.shippingDB())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	for _, table := range []string{
		`CREATE TABLE IF NOT EXISTS shipments (id TEXT PRIMARY KEY)`,
		`CREATE TABLE IF NOT EXISTS receipts (number INTEGER PRIMARY KEY, id TEXT)`, // for the audit alone
	} {
		if _, err := store.DB().ExecContext(ctx, table); err != nil {
			return err
		}
	}
	ship, err := middleware.Once(store, nil, shippingGroup, func(ctx context.Context, tx *sql.Tx, msg *message.Message) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO shipments (id) VALUES (?)`, msg.UUID)
		return err
	})
	if err != nil {
		return err
	}
	return consume(ctx, s, out, shippingGroup, func(router *message.Router, nats *natsbroker.Broker, subscriber message.Subscriber) error {
		confirmed, err := middleware.ConfirmProcessed(shippingGroup, nats.Watermill(), processedTopic)
		if err != nil {
			return err
		}
		handle := confirmed(ship)
		router.AddConsumerHandler("ship", ordersTopic, subscriber, func(msg *message.Message) error {
			if _, err := store.DB().ExecContext(msg.Context(), `INSERT INTO receipts (id) VALUES (?)`, msg.UUID); err != nil {
				return err
			}
			return handle(msg)
		})
		return nil
	})
}

// consume runs a router with the handlers that add adds, until ctx ends.
func consume(ctx context.Context, s stage, out io.Writer, group string,
	add func(*message.Router, *natsbroker.Broker, message.Subscriber) error,
) (err error) {
	nats, err := s.nats()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, nats.Close()) }()
	if err := nats.Declare(ctx); err != nil {
		return err
	}
	// What a process had in its hands when it was killed is delivered again after the ack wait.
	subscriber, err := nats.Subscriber(group, natsbroker.WithAckWait(ackWait), natsbroker.WithConcurrency(16))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, subscriber.Close()) }()
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	if err := add(router, nats, subscriber); err != nil {
		return err
	}
	go func() {
		<-router.Running()
		fmt.Fprintln(out, ready)
	}()
	return router.Run(ctx)
}
