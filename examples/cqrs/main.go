// Cqrs publishes the events of Watermill's CQRS component inside business transactions: the event bus is made over the
// publisher of the transaction's scope, and the rest is Watermill as it always is. Database and broker are SQLite and NATS
// inside this process, in a temporary folder.
//
//	go run ./examples/cqrs
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// OrderPlaced is the event.
type OrderPlaced struct {
	Order    string
	Customer string
	Item     string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cqrs:", err)
		os.Exit(1)
	}
}

var marshaler = cqrs.JSONMarshaler{GenerateName: cqrs.StructName}

// events returns an event bus over publisher, whatever that is: here it is the scope of one transaction.
func events(publisher message.Publisher) (*cqrs.EventBus, error) {
	return cqrs.NewEventBusWithConfig(publisher, cqrs.EventBusConfig{
		Marshaler:            marshaler,
		GeneratePublishTopic: func(p cqrs.GenerateEventPublishTopicParams) (string, error) { return "events." + p.EventName, nil },
		OnPublish: func(p cqrs.OnEventSendParams) error {
			// The events of one customer are delivered in the order of their transactions.
			if placed, ok := p.Event.(*OrderPlaced); ok {
				p.Message.Metadata.Set(reliable.HeaderKey, placed.Customer)
			}
			return nil
		},
	})
}

// handle has a Watermill router hand each OrderPlaced to shipped. It returns once the router runs.
func handle(ctx context.Context, subscriber message.Subscriber, shipped chan<- *OrderPlaced) (*message.Router, error) {
	quiet := watermill.NopLogger{}
	router, err := message.NewRouter(message.RouterConfig{}, quiet)
	if err != nil {
		return nil, err
	}
	processor, err := cqrs.NewEventProcessorWithConfig(router, cqrs.EventProcessorConfig{
		Marshaler: marshaler,
		Logger:    quiet,
		GenerateSubscribeTopic: func(p cqrs.EventProcessorGenerateSubscribeTopicParams) (string, error) {
			return "events." + p.EventName, nil
		},
		SubscriberConstructor: func(cqrs.EventProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return subscriber, nil
		},
	})
	if err != nil {
		return nil, err
	}
	err = processor.AddHandlers(cqrs.NewEventHandler("ship", func(ctx context.Context, event *OrderPlaced) error {
		select {
		case shipped <- event:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}))
	if err != nil {
		return nil, err
	}
	failed := make(chan error, 1)
	go func() { failed <- router.Run(ctx) }()
	select {
	case <-router.Running():
		return router, nil
	case err := <-failed:
		return nil, errors.Join(err, errors.New("the router did not start"))
	}
}

// place stores an order and publishes its event, both or neither.
func place(ctx context.Context, outbox *tagging.Outbox, db *sql.DB, event *OrderPlaced, declined error) error {
	return tagging.InTx(ctx, outbox, db, func(tx *sql.Tx, out *tagging.Scope) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO orders (id, item) VALUES (?, ?)`, event.Order, event.Item); err != nil {
			return err
		}
		bus, err := events(out.Publisher())
		if err != nil {
			return err
		}
		if err := bus.Publish(ctx, event); err != nil {
			return err
		}
		return declined // the event goes with the order
	})
}

func run(ctx context.Context, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "waybill-cqrs-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	store, err := sqlitestore.Open(ctx, filepath.Join(dir, "shop.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if _, err := store.DB().ExecContext(ctx, `CREATE TABLE orders (id TEXT PRIMARY KEY, item TEXT)`); err != nil {
		return err
	}
	server, err := embedded.StartServer(ctx, filepath.Join(dir, "nats"))
	if err != nil {
		return err
	}
	defer server.Stop()
	broker, err := natsbroker.New(natsbroker.Config{Connection: []nats.Option{server.ClientOption()}},
		natsbroker.WithStream("events", "events.>"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.Close()) }()
	if err := broker.Declare(ctx); err != nil {
		return err
	}
	outbox, err := tagging.New(store, broker, broker, tagging.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}

	subscriber, err := broker.Subscriber("shipping")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, subscriber.Close()) }()
	shipped := make(chan *OrderPlaced)
	router, err := handle(ctx, subscriber, shipped)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, router.Close()) }()

	relaying, stopRelaying := context.WithCancel(ctx)
	relayed := make(chan error, 1)
	go func() { relayed <- outbox.Run(relaying) }()
	defer func() {
		stopRelaying()
		err = errors.Join(err, <-relayed)
	}()

	return shop(ctx, outbox, store.DB(), shipped, out)
}

// shop places three orders, one of which is declined, and tells what is shipped.
func shop(ctx context.Context, outbox *tagging.Outbox, db *sql.DB, shipped <-chan *OrderPlaced, out io.Writer) error {
	for _, order := range []struct {
		id, item string
		declined error
	}{
		{"order-1", "teapot", nil},
		{"order-2", "kettle", errors.New("card declined")},
		{"order-3", "cup", nil},
	} {
		err := place(ctx, outbox, db, &OrderPlaced{Order: order.id, Customer: "ada", Item: order.item}, order.declined)
		switch {
		case err == nil:
			fmt.Fprintf(out, "placed %s: %s\n", order.id, order.item)
		case errors.Is(err, order.declined):
			fmt.Fprintf(out, "%s is rolled back: %v\n", order.id, err)
		default:
			return err
		}
	}
	for range 2 {
		select {
		case event := <-shipped:
			fmt.Fprintf(out, "shipping %s to %s: %s\n", event.Order, event.Customer, event.Item)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
