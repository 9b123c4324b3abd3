// Delayedcheck is a shop whose orders are delivered without a row for their messages in its database, by processes that are
// killed in the middle of it. Nothing needs to be installed.
//
//	go run ./examples/delayedcheck -orders 1000
//
// Four processes run, each with files of its own: a broker (NATS), the shop that places orders and answers resend requests,
// shipping that consumes them, and the callback service that keeps what was processed and asks for what was not. This
// program starts them, kills the shop with -9 where it has committed orders and not sent their messages, kills shipping and
// the callback service, restarts the broker, and in the end compares what was committed with what was received. Delays are
// seconds here; by default a check comes after five minutes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// roleVariable tells a child process what it is.
const roleVariable = "WAYBILL_EXAMPLE_ROLE"

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
	if err := flags.Parse(args); err != nil {
		return err
	}
	result, err := direct(ctx, *orders, 2*time.Minute, out)
	if err != nil {
		return err
	}
	return result.Err()
}

// play is what a child process does: one role, until ctx ends.
func play(ctx context.Context, role string, out io.Writer) error {
	stage, err := stageFromEnvironment()
	if err != nil {
		return err
	}
	switch role {
	case "broker":
		err = broker(ctx, stage, out)
	case "shop":
		err = shop(ctx, stage, out)
	case "shipping":
		err = shipping(ctx, stage, out)
	case "callback":
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
