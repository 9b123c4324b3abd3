// Compensation shows what becomes of messages that cannot be sent, with nothing installed: the database is a SQLite file and
// the broker is a NATS server inside this process, both in a temporary folder.
//
// One order has a picture in it that is larger than the broker takes: it is failed at once, and the handler of its topic
// refunds it, in the transaction that makes the message compensated. The invoices go to a topic that nobody made a stream
// for: they fail after a few refusals and, since their topic has no handler, wait for an operator, who lists them, looks at
// the history of one, makes the stream, has two sent after all and discards the third. At the end the table of statuses and
// the audit trail are compared with what a consumer got. It exits with 0 only if every message ended as it should.
//
//	make run-compensation
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, config{}, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "compensation:", err)
		os.Exit(1)
	}
}

type config struct {
	// wrap puts something between the outbox and the broker; nil puts nothing there.
	wrap func(broker) broker
}

// broker is what the outbox needs of a broker.
type broker interface {
	reliable.Publisher
	reliable.ConfirmSource
}

const (
	// orderTopic has a stream and a handler, invoiceTopic has neither.
	orderTopic   = "orders.placed"
	invoiceTopic = "invoices.issued"
	// brokerTakes is the largest message of this broker; the store takes more.
	brokerTakes = 64 << 10
)

// run makes the database and the broker, and plays the scenario on them.
func run(ctx context.Context, cfg config, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "waybill-compensation-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	store, err := sqlitestore.Open(ctx, filepath.Join(dir, "shop.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	server, err := embedded.StartServer(ctx, filepath.Join(dir, "nats"), embedded.WithMaxPayload(brokerTakes))
	if err != nil {
		return err
	}
	defer server.Stop()
	queues, err := natsbroker.New(natsbroker.Config{Connection: []nats.Option{server.ClientOption()}},
		natsbroker.WithStream("orders", orderTopic))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, queues.Close()) }()
	if err := queues.Declare(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "SQLite and a NATS server in this process, which takes %d KiB a message; both in %s\n", brokerTakes>>10, dir)

	consumer := newConsumer()
	if err := consumer.consume(ctx, queues, orderTopic); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, consumer.close()) }()
	shop, err := newShop(ctx, store)
	if err != nil {
		return err
	}
	var wrapped broker = queues
	if cfg.wrap != nil {
		wrapped = cfg.wrap(queues)
	}
	stopRelay, err := startRelay(ctx, store, wrapped, shop)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopRelay()) }()

	operator, err := newOperator("ada", store, out)
	if err != nil {
		return err
	}
	repair := func() error {
		stream := jetstream.StreamConfig{Name: "invoices", Subjects: []string{invoiceTopic}}
		return errors.Join(queues.EnsureStream(ctx, stream), consumer.consume(ctx, queues, invoiceTopic))
	}
	if err := play(ctx, shop, operator, repair, out); err != nil {
		return err
	}
	return audit(ctx, shop, consumer, out)
}

// startRelay relays until stop is called. The relay, not the shop, knows what its broker takes: they may be two programs.
func startRelay(ctx context.Context, store reliable.Store, b broker, s *shop) (stop func() error, err error) {
	outbox, err := tagging.New(store, b, b,
		// Short, because this is a demonstration: the defaults try a refused message for half an hour.
		tagging.WithFailureBudget(3, time.Second),
		tagging.WithBackoff(50*time.Millisecond, 200*time.Millisecond),
		tagging.WithPollInterval(50*time.Millisecond),
		tagging.WithFailedTxHandler(orderTopic, s.db, s.refund),
		tagging.WithLogger(slog.New(slog.DiscardHandler)),
	)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	relayed := make(chan error, 1)
	go func() { relayed <- outbox.Run(ctx) }()
	return func() error {
		cancel()
		return <-relayed
	}, nil
}
