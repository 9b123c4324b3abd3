// Matrix is the shop of the quickstart, built once for every database and broker: its environment says what it runs on.
//
//	STORE_URL=sqlite:orders.db BROKER_URL=nats-embedded:data go run ./examples/matrix
//
// STRATEGY says how its messages are made sure of: tagging (default) or delayedcheck.
//
// In the middle of it the broker is to be stopped and started. The program does that itself to a broker that runs inside
// it; for another one it asks, and goes on when it reads a line from its standard input. `make run-matrix` answers by really
// stopping the server, and runs this binary over every combination.
//
// STORE_URL and BROKER_URL are described in docs/backends.md. ORDERS is how many orders are placed (default 1000), PATIENCE
// how long nothing may happen before what is missing counts as lost (default 30s). LIE_ABOUT is for the test of the audit:
// the broker drops the message of that order and says that it has it. Where delayedcheck is the strategy that is done to one
// order always, whose check is to find it out.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	slog.SetDefault(slog.New(slog.DiscardHandler)) // adapters would tell of the outage
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
	backed := orders.Backend{
		DB: database.DB(), Store: inspected, Numbered: strings.HasPrefix(env("STORE_URL"), "postgres"),
		Publisher: broker, Confirms: broker, Topic: "orders_placed_" + suffix(), Nowhere: "orders_nowhere_" + suffix(),
	}
	if err := broker.Declare(ctx, backed.Topic); err != nil {
		return err
	}
	subscriber, err := broker.Subscribe(group)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, subscriber.Close()) }()
	backed.Subscriber = subscriber
	backed.Stop, backed.Start = switches(broker, in, out)
	if id := env("LIE_ABOUT"); id != "" {
		told := liar.New(broker, reliable.ID(id))
		backed.Publisher, backed.Confirms = told, told
	}

	fmt.Fprintf(out, "%s and %s\n\n", backend.Redact(env("STORE_URL")), backend.Redact(env("BROKER_URL")))
	var result orders.Result
	switch strategy := env("STRATEGY"); strategy {
	case "", "tagging":
		result, err = orders.Run(ctx, backed, plan, out)
	case "delayedcheck":
		result, err = runChecked(ctx, store, broker, backed, plan, out)
	default:
		err = reliable.Invalid("STRATEGY", "is %q, must be tagging or delayedcheck", strategy)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "seconds=%.2f\n", result.Lasted.Seconds())
	return result.Err()
}

// suffix makes a name of this run's own.
func suffix() string { return strings.ToLower(string(reliable.NewID()[24:])) }

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
