// Delayedcheck is a shop whose orders are delivered without a row for their messages in its database, by processes that are
// killed in the middle of it. Nothing needs to be installed.
//
//	go run ./examples/delayedcheck -orders 1000
//
// Three processes run, each with a database of its own: the shop that places orders and answers resend requests, shipping
// that consumes them, and the callback service that keeps what was processed and asks for what was not. The broker is a
// fourth one. This program starts them, kills the shop with -9 where it has committed orders and not sent their messages,
// kills shipping and the callback service, restarts the broker, and in the end compares what was committed with what was
// received. Delays are seconds here; by default a check comes after five minutes.
//
// The same on servers, where the broker's is really stopped and started:
//
//	make run-delayedcheck-services
//
// What a run takes place on is all that differs, see pairs.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// roleVariable tells a child process what it is.
const roleVariable = "WAYBILL_EXAMPLE_ROLE"

// patience is how long to wait, once all orders are placed, for the last one to be shipped and every check to be answered. It
// is longer than the three minutes after which RabbitMQ, as it comes, tries again to move what was due while it stopped.
const patience = 4 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Getenv(roleVariable), os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "delayedcheck:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, role string, args []string, out io.Writer) error {
	if role != "" {
		return play(ctx, role, out)
	}
	flags := flag.NewFlagSet("delayedcheck", flag.ContinueOnError)
	orders := flags.Int("orders", 1000, "how many orders to place, at least 10")
	on := flags.String("on", embeddedPair.name, "what to run on, one or several, separated by commas, of "+pairNames())
	stop := flags.String("stop", "scripts/services.sh down", "the command that stops a broker; the server's name is appended")
	start := flags.String("start", "scripts/services.sh up", "the command that starts it, and returns when it answers")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(*on, *stop, *start)
	if err != nil {
		return err
	}
	var problems []error
	for _, p := range chosen {
		result, err := direct(ctx, p, *orders, patience, out)
		if err = errors.Join(err, result.Err()); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", p.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(problems...)
}

// play is what a child process does: one role, until ctx ends.
func play(ctx context.Context, role string, out io.Writer) error {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // adapters would tell of each outage
	stage, err := stageFromEnvironment()
	if err != nil {
		return err
	}
	switch role {
	case brokerRole:
		err = embeddedBroker(ctx, stage, out)
	case shopRole:
		err = shop(ctx, stage, out)
	case shippingRole:
		err = shipping(ctx, stage, out)
	case callbackRole:
		err = callback(ctx, stage, out)
	default:
		return fmt.Errorf("there is no role %q", role)
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", role, err)
	}
	return nil
}
