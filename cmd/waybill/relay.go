package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// relaying is the flags of what relays.
type relaying struct {
	app *app
	logging

	lease, retention, drain time.Duration
	window                  int
	refusals                int
	failingFor              time.Duration
	keysGoOn                bool
	worker                  string
	declare                 []string
}

func (r *relaying) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.DurationVar(&r.lease, "lease", time.Minute, "how long a claimed message belongs to this process; above the broker's confirm timeout")
	flags.IntVar(&r.window, "window", 1000, "how many messages may be handed over and unconfirmed")
	flags.IntVar(&r.refusals, "max-refusals", 10, "failure budget: how many refusals fail a message ...")
	flags.DurationVar(&r.failingFor, "min-failing", 30*time.Minute, "... if it has been failing for at least so long")
	flags.BoolVar(&r.keysGoOn, "keys-go-on", false, "let the messages of a key go on behind a failed one")
	flags.DurationVar(&r.retention, "retention", 0, "delete confirmed messages after so long, compensated and discarded ones after 30 days; "+
		"0 deletes nothing")
	flags.DurationVar(&r.drain, "drain-timeout", 30*time.Second, "how long finishing may take at the end")
	flags.StringVar(&r.worker, "worker", "", "this process's name in leases and histories; default made of host and process ID")
	flags.StringSliceVar(&r.declare, "declare", nil, "topics to make on the broker first, if they are not there")
	r.logging.add(cmd)
}

const sameRules = `

The failure budget and --keys-go-on should be those of the other relays on the same
tables: whichever relay has a message decides by its own. Failed messages wait: a
compensation handler is code, and runs in your own processes. Nothing is deleted
unless --retention is given, as a row remembers its ID and you may rely on that.
Logs go to standard error and never hold a payload or metadata.`

func (r *relaying) options(logger *slog.Logger) []tagging.Option {
	options := []tagging.Option{
		tagging.WithLogger(logger), tagging.WithLease(r.lease), tagging.WithWindow(r.window),
		tagging.WithMemory(max(4096, r.window), 32<<20), tagging.WithFailureBudget(r.refusals, r.failingFor),
		tagging.WithDrainTimeout(r.drain), tagging.WithoutRetention(),
	}
	if r.retention > 0 {
		options = append(options, tagging.WithRetention(r.retention))
	}
	if r.keysGoOn {
		options = append(options, tagging.WithKeysGoingOnAfterFailure())
	}
	if r.worker != "" {
		options = append(options, tagging.WithWorker(r.worker))
	}
	return options
}

// with opens both sides and calls fn with an outbox over them.
func (r *relaying) with(ctx context.Context, hooks tagging.Hooks, fn func(outbox *tagging.Outbox, logger *slog.Logger) error) error {
	logger, err := r.logger(r.app.err)
	if err != nil {
		return err
	}
	slog.SetDefault(logger) // for adapters that log where their options do not say
	if r.retention < 0 {
		return usagef("--retention is %v, must be 0 (delete nothing) or more", r.retention)
	}
	broker, err := r.app.openBroker(ctx)
	if err != nil {
		return err
	}
	err = r.app.withStore(ctx, func(store backend.Store) error {
		outbox, err := tagging.New(store, broker, broker, append(r.options(logger), tagging.WithHooks(hooks))...)
		if err != nil {
			return err
		}
		if len(r.declare) > 0 {
			call, cancel := r.app.bounded(ctx)
			defer cancel()
			if err := broker.Declare(call, r.declare...); err != nil {
				return fmt.Errorf("declare %s: %w", strings.Join(r.declare, ", "), err)
			}
		}
		return fn(outbox, logger)
	})
	return errors.Join(err, broker.Close())
}

func newRelay(a *app) *cobra.Command {
	r := &relaying{app: a}
	cmd := &cobra.Command{ //nolint:gosec // the URLs of the example are made up
		Use:   "relay",
		Short: "Relay from a store to a broker until told to stop",
		Long: `Moves messages from a store to a broker, records the broker's answers, looks after
held topics, and goes on until SIGINT or SIGTERM. Then it claims nothing more, gives
back what was not handed over, waits for the answers to what was, records them, and
ends with 0; with 6 if --drain-timeout was too short for that. A second signal ends it
at once, and costs a lease of delay and duplicates of what was unconfirmed.

Any number of relays share the same tables, this one and those inside your own
processes. A store or a broker that is away is no reason to end: messages are stored
and wait.` + sameRules,
		Example: `  WAYBILL_STORE=postgres://shop:secret@db/shop WAYBILL_BROKER=amqp://shop:secret@mq/shop \
      waybill relay --log-format json
  waybill relay --declare orders.placed --retention 72h`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return r.with(ctx, tagging.Hooks{}, func(outbox *tagging.Outbox, logger *slog.Logger) error {
				logger.InfoContext(ctx, "relaying",
					"store", backend.Redact(setting(a.storeURL, storeVariable)), "broker", backend.Redact(setting(a.brokerURL, brokerVariable)))
				err := outbox.Run(ctx)
				if err == nil {
					logger.InfoContext(ctx, "stopped, everything in flight is settled")
					return nil
				}
				if errors.Is(err, reliable.ErrDrain) {
					return exitError{exitNotDrained, err.Error()}
				}
				return err
			})
		},
	}
	r.add(cmd)
	return cmd
}
