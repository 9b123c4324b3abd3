// Matrix is the shop of the quickstart, built once for every database and broker: its environment says what it runs on.
//
//	STORE_URL=sqlite:orders.db BROKER_URL=nats-embedded:data go run ./examples/matrix
//
// In the middle of it the broker is to be stopped and started. The program does that itself to a broker that runs inside
// it; for another one it asks, and goes on when it reads a line from its standard input. `make run-matrix` answers by really
// stopping the server, and runs this binary over every combination.
//
// STORE_URL and BROKER_URL are described in docs/backends.md. ORDERS is how many orders are placed (default 1000), PATIENCE
// how long nothing may happen before what is missing counts as lost (default 30s). LIE_ABOUT is for the test of the audit:
// the broker drops the message of that order and says that it has it.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/examples/internal/backends"
	"github.com/waybillmq/waybill/examples/internal/liar"
	"github.com/waybillmq/waybill/examples/internal/orders"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Getenv, os.Stdin, os.Stdout)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

const group = "shipping"

func run(ctx context.Context, env func(string) string, in io.Reader, out io.Writer) (err error) {
	plan, err := planOf(env)
	if err != nil {
		return err
	}
	if plan.Dir, err = os.MkdirTemp("", "waybill-matrix-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(plan.Dir)) }()

	store, err := backends.Stores.Open(ctx, env("STORE_URL"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if migrator, ok := reliable.Ability[backend.Migrator](store); ok {
		if err := migrator.Migrate(ctx); err != nil {
			return err
		}
	}
	database, _ := reliable.Ability[backend.SQL](store)
	inspected, ok := store.(orders.Store)
	if !ok || database == nil {
		return errors.New("the store lends no database, or cannot be asked what became of a message")
	}

	broker, err := backends.Brokers.Open(ctx, env("BROKER_URL"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.Close()) }()
	topic := "orders_placed_" + strings.ToLower(string(reliable.NewID()[24:]))
	if err := broker.Declare(ctx, topic); err != nil {
		return err
	}
	subscriber, err := broker.Subscribe(group)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, subscriber.Close()) }()

	fmt.Fprintf(out, "%s and %s\n\n", backend.Redact(env("STORE_URL")), backend.Redact(env("BROKER_URL")))
	var told liar.Broker = broker
	if id := env("LIE_ABOUT"); id != "" {
		told = liar.New(broker, reliable.ID(id))
	}
	stop, start := switches(broker, in, out)
	result, err := orders.Run(ctx, orders.Backend{
		DB: database.DB(), Store: inspected, Numbered: strings.HasPrefix(env("STORE_URL"), "postgres"),
		Publisher: told, Confirms: told, Subscriber: subscriber,
		Topic: topic, Nowhere: topic + "_nowhere",
		Stop: stop, Start: start,
	}, plan, out)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "seconds=%.2f\n", result.Lasted.Seconds())
	return result.Err()
}

// planOf reads what shall happen.
func planOf(env func(string) string) (orders.Plan, error) {
	plan := orders.Plan{Orders: 1000, Outage: time.Second, Patience: 30 * time.Second}
	if text := env("ORDERS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return plan, reliable.Invalid("ORDERS", "is %q, must be a number", text)
		}
		plan.Orders = n
	}
	if text := env("PATIENCE"); text != "" {
		patience, err := time.ParseDuration(text)
		if err != nil {
			return plan, reliable.Invalid("PATIENCE", "is %q, must be a duration such as 30s", text)
		}
		plan.Patience = patience
	}
	return plan, nil
}

// switches returns what stops and starts the broker: this program itself if it runs inside, or whoever reads its output.
func switches(broker backend.Broker, in io.Reader, out io.Writer) (stop, start func(context.Context) error) {
	if inside, ok := reliable.Ability[interface{ Server() *embedded.Server }](broker); ok {
		return func(context.Context) error { inside.Server().Stop(); return nil }, inside.Server().Restart
	}
	lines := bufio.NewReader(in)
	ask := func(what string) func(context.Context) error {
		return func(ctx context.Context) error {
			fmt.Fprintf(out, "\n>>> %s the broker, then press Enter\n\n", what)
			answered := make(chan error, 1)
			go func() { // ends with the standard input at the latest
				_, err := lines.ReadString('\n')
				answered <- err
			}()
			select {
			case err := <-answered:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return ask("stop"), ask("start")
}
