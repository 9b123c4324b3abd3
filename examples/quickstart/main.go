// Quickstart places orders in business transactions and has each one's message delivered, through an outage of the broker,
// with nothing installed: the database is a SQLite file and the broker is a NATS server inside this process, both in a
// temporary folder. It ends with a comparison of what was committed with what was received.
//
//	go run ./examples/quickstart -orders 1000
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/examples/internal/orders"
	"github.com/waybillmq/waybill/reliable"
)

func main() {
	plan := orders.Plan{Outage: 2 * time.Second, Patience: 5 * time.Second}
	flag.IntVar(&plan.Orders, "orders", 1000, "how many orders to place")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	result, err := run(ctx, config{plan: plan}, os.Stdout)
	stop()
	if err = errors.Join(err, result.Err()); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

type config struct {
	plan orders.Plan
	// wrap puts something between the outbox and the broker; nil puts nothing there.
	wrap func(broker) broker
}

// broker is what the outbox needs of a broker.
type broker interface {
	reliable.Publisher
	reliable.ConfirmSource
}

// run makes the database and the broker, and plays the scenario on them.
func run(ctx context.Context, cfg config, out io.Writer) (result orders.Result, err error) {
	dir, err := os.MkdirTemp("", "waybill-quickstart-")
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cfg.plan.Dir = dir

	// The database: the orders and the outbox are in one file.
	store, err := sqlitestore.Open(ctx, filepath.Join(dir, "shop.db"))
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	// The broker: a server in this process, with one stream for one topic.
	server, err := embedded.StartServer(ctx, filepath.Join(dir, "nats"))
	if err != nil {
		return result, err
	}
	defer server.Stop()
	nats, err := natsbroker.New(natsbroker.Config{Connection: []nats.Option{server.ClientOption()}},
		natsbroker.WithStream("orders", "orders.placed"))
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, nats.Close()) }()
	if err := nats.Declare(ctx); err != nil {
		return result, err
	}
	// What the consumer had in its hands when the broker went away is delivered again after the ack wait.
	shipping, err := nats.Subscriber("shipping", natsbroker.WithAckWait(2*time.Second))
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, shipping.Close()) }()

	fmt.Fprintf(out, "SQLite and a NATS server in this process, both in %s\n\n", dir)
	var wrapped broker = nats
	if cfg.wrap != nil {
		wrapped = cfg.wrap(nats)
	}
	return orders.Run(ctx, orders.Backend{
		DB: store.DB(), Store: store,
		Publisher: wrapped, Confirms: wrapped, Subscriber: shipping,
		Topic: "orders.placed", Nowhere: "orders.nowhere",
		Stop:  func(context.Context) error { server.Stop(); return nil },
		Start: server.Restart,
	}, cfg.plan, out)
}
