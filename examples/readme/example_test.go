// Package readme_test runs the code of the README.
package readme_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "waybill-readme-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	nats, err := prepare(ctx, dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer nats.Stop()
	if err := run(ctx, cancel, filepath.Join(dir, "shop.db"), config(nats)); err != nil {
		fmt.Println(err)
	}
	// Output: received order-17: 2 teapots
}

// prepare makes what a shop has before it has an outbox: a table of orders, and a broker with a stream.
func prepare(ctx context.Context, dir string) (*embedded.Server, error) {
	db, err := sql.Open("sqlite", filepath.Join(dir, "shop.db"))
	if err != nil {
		return nil, err
	}
	_, err = db.ExecContext(ctx, "CREATE TABLE orders (id TEXT PRIMARY KEY)")
	if err = errors.Join(err, db.Close()); err != nil {
		return nil, err
	}
	server, err := embedded.StartServer(ctx, filepath.Join(dir, "nats"))
	if err != nil {
		return nil, err
	}
	broker, err := natsbroker.New(config(server), natsbroker.WithStream("orders", "orders.>"))
	if err == nil {
		err = errors.Join(broker.Declare(ctx), broker.Close())
	}
	return server, err
}

func config(server *embedded.Server) natsbroker.Config {
	return natsbroker.Config{Connection: []nats.Option{server.ClientOption()}}
}

func run(ctx context.Context, cancel func(), file string, server natsbroker.Config) error {
	// README begins
	store, err := sqlitestore.Open(ctx, file) // or mysqlstore.New(db), postgresstore.New(db)
	if err != nil {
		return err
	}
	broker, err := natsbroker.New(server) // or rabbitmqbroker.NewFromURL(url)
	if err != nil {
		return err
	}
	outbox, err := tagging.New(store, broker, broker)
	if err != nil {
		return err
	}
	relayed := make(chan error, 1)
	go func() { relayed <- outbox.Run(ctx) }() // until ctx ends; then it drains

	err = tagging.InTx(ctx, outbox, store.DB(), func(tx *sql.Tx, out *tagging.Scope) error {
		if _, err := tx.ExecContext(ctx, "INSERT INTO orders (id) VALUES (?)", "order-17"); err != nil {
			return err // nothing is stored, nothing is sent
		}
		return out.Send(reliable.Envelope{ID: "order-17", Topic: "orders.placed", Payload: []byte("2 teapots")})
	})
	// README ends
	err = errors.Join(err, receive(ctx, broker))
	cancel()
	return errors.Join(err, <-relayed, broker.Close(), store.Close())
}

// receive is the consumer.
func receive(ctx context.Context, broker *natsbroker.Broker) error {
	shipping, err := broker.Subscriber("shipping")
	if err != nil {
		return err
	}
	messages, err := shipping.Subscribe(ctx, "orders.placed")
	if err == nil {
		msg, ok := <-messages
		if !ok {
			return errors.Join(errors.New("nothing was received"), shipping.Close())
		}
		fmt.Printf("received %s: %s\n", msg.UUID, msg.Payload)
		msg.Ack()
	}
	return errors.Join(err, shipping.Close())
}
