package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/spf13/cobra"

	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
	"github.com/waybillmq/waybill/strategies/delayedcheck/httprpc"
)

const (
	resendersVariable = "WAYBILL_RESENDERS"
	resendKeyVariable = "WAYBILL_RESEND_KEY"
)

// calling is the flags of the callback service.
type calling struct {
	app *app
	logging

	checks, confirms, poison, group string
	resenders                       []string
	plainHTTP, declare              bool
	delay, outage, retention, drain time.Duration
	rounds, burst, parallel         int
	rate                            float64
	worker                          string
}

func newCallback(a *app) *cobra.Command {
	c := &calling{app: a}
	cmd := &cobra.Command{
		Use:   "callback",
		Short: "Run the callback service of delayed checks until told to stop",
		Long: `Runs the callback service as a service of its own: it stores the processed confirms
of consumers in its ledger, answers the checks that come due, and has the producer send
a message again that no confirm has come for. The store is the ledger. Its tables must
be its own: no outbox may use them. Failed resend requests are looked at and decided
about by the other commands, on the ledger's store: list, explain, requeue, discard and
compensate.

Producers answer over HTTP, at the addresses of --resender or $` + resendersVariable + `, each
NAME=URL, where NAME is what the producer's checks say; a URL alone is for all others. The
requests are signed by the key of $` + resendKeyVariable + ` (ID:SECRET, the secret in hexadecimal),
which every producer must know. A check of a producer that is not named ends as a failed
request.

What is neither check nor confirm goes to the topic of --poison. SIGINT or SIGTERM ends it
as it ends 'waybill relay': in order, with 0, or with 6 if --drain-timeout was too short.
Any number of these services share one ledger, with each other and with those inside your
own processes. Checks that follow a resend are kept by the ledger until they are due.
Logs go to standard error and never hold a payload or metadata.`,
		Example: `  export WAYBILL_STORE=postgres://ledger:secret@db/ledger WAYBILL_BROKER=amqp://shop:secret@mq/shop
  export ` + resendKeyVariable + `=2026-11:$(openssl rand -hex 32)
  waybill callback --resender shop=https://shop.internal/resend --log-format json`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&c.checks, "checks", delayedcheck.DefaultCheckTopic, "the topic to which checks come when they are due")
	flags.StringVar(&c.confirms, "confirms", "waybill.processed", "the topic of processed confirms")
	flags.StringVar(&c.poison, "poison", "waybill.callback.poison", "the topic for what is neither")
	flags.StringVar(&c.group, "group", "waybill-callback", "the consumer group that reads both; the same in all services on one ledger")
	flags.StringSliceVar(&c.resenders, "resender", nil,
		"NAME=URL of a producer's resend handler, or a URL for all others; default $"+resendersVariable)
	flags.BoolVar(&c.plainHTTP, "plain-http", false, "allow http:// addresses, where whoever is in between reads payloads")
	flags.BoolVar(&c.declare, "declare", false, "make the topics on the broker first, if they are not there")
	flags.IntVar(&c.parallel, "parallel", 8, "how many messages of each topic are handled at a time; they share statements")
	flags.DurationVar(&c.delay, "delay", 5*time.Minute, "when a message that was sent again is asked about once more")
	flags.IntVar(&c.rounds, "rounds", 5, "how many times a message is sent again at most")
	flags.Float64Var(&c.rate, "rate", 100, "resends a second at most, of all services on one ledger: the same in each ...")
	flags.IntVar(&c.burst, "burst", 100, "... and how many at once after a quiet time")
	flags.DurationVar(&c.outage, "longest-outage", 24*time.Hour,
		"the longest outage that is survived without sending again what was confirmed before it")
	flags.DurationVar(&c.retention, "retention", 0, "delete confirms after so long; 0 means as long as is needed, and at least 7 days")
	flags.DurationVar(&c.drain, "drain-timeout", 30*time.Second, "how long finishing may take at the end")
	flags.StringVar(&c.worker, "worker", "", "this process's name in leases and histories; default made of host and process ID")
	c.logging.add(cmd)
	return cmd
}

// options are those of the service, with the producers and their addresses.
func (c *calling) options(logger *slog.Logger) (delayedcheck.Resender, []delayedcheck.ServiceOption, error) {
	resenders := c.resenders
	if len(resenders) == 0 && os.Getenv(resendersVariable) != "" {
		resenders = strings.Split(os.Getenv(resendersVariable), ",")
	}
	if len(resenders) == 0 {
		return nil, nil, usagef("no producer is named: set %s or pass --resender, for example shop=https://shop.internal/resend",
			resendersVariable)
	}
	key, err := httprpc.ParseKey(os.Getenv(resendKeyVariable))
	if err != nil {
		return nil, nil, usagef("%s: %w", resendKeyVariable, err)
	}
	var forOthers delayedcheck.Resender
	options := []delayedcheck.ServiceOption{
		delayedcheck.WithServiceLogger(logger), delayedcheck.WithNextCheck(c.checks, c.delay), delayedcheck.WithMaxRounds(c.rounds),
		delayedcheck.WithResendRate(c.rate, c.burst), delayedcheck.WithLongestOutage(c.outage),
		delayedcheck.WithServiceDrainTimeout(c.drain),
	}
	for _, resender := range resenders {
		name, address, named := strings.Cut(resender, "=")
		if !named {
			address = resender
		}
		var plain []httprpc.ClientOption
		if c.plainHTTP {
			plain = append(plain, httprpc.WithPlainHTTP())
		}
		client, err := httprpc.NewClient(address, key, plain...)
		switch {
		case err != nil && named:
			return nil, nil, usagef("--resender of %s: %w", name, err)
		case err != nil:
			return nil, nil, usagef("--resender: %w", err)
		case named:
			options = append(options, delayedcheck.WithResender(name, client))
		case forOthers != nil:
			return nil, nil, usagef("--resender: two addresses without a name; one is for all producers that are not named")
		default:
			forOthers = client
		}
	}
	if c.retention != 0 {
		options = append(options, delayedcheck.WithConfirmRetention(c.retention))
	}
	if c.worker != "" {
		options = append(options, delayedcheck.WithServiceWorker(c.worker))
	}
	return forOthers, options, nil
}

func (c *calling) run(ctx context.Context) error {
	logger, err := c.logger(c.app.err)
	if err != nil {
		return err
	}
	slog.SetDefault(logger) // for adapters that log where their options do not say
	if c.parallel < 1 || c.parallel > 256 {
		return usagef("--parallel is %d, must be 1 to 256", c.parallel)
	}
	resender, options, err := c.options(logger)
	if err != nil {
		return err
	}
	broker, err := c.app.openBroker(ctx)
	if err != nil {
		return err
	}
	err = c.app.withStore(ctx, func(store backend.Store) error {
		service, err := delayedcheck.NewService(store, resender, nil, options...)
		if err != nil {
			return err
		}
		if c.declare {
			call, cancel := c.app.bounded(ctx)
			defer cancel()
			if err := broker.Declare(call, c.checks, c.confirms, c.poison); err != nil {
				return fmt.Errorf("declare the topics: %w", err)
			}
		}
		return c.serve(ctx, service, broker, logger)
	})
	return errors.Join(err, broker.Close())
}

// serve runs the service and the router of its handlers, until ctx ends or one of them does.
func (c *calling) serve(ctx context.Context, service *delayedcheck.Service, broker backend.Broker, logger *slog.Logger) error {
	subscriber, err := broker.Subscribe(c.group)
	if err != nil {
		return err
	}
	publisher := broker.Watermill()
	defer func() { _ = errors.Join(subscriber.Close(), publisher.Close()) }() // what they had is redelivered
	router, err := c.router(service, subscriber, publisher, logger)
	if err != nil {
		return err
	}
	until := ctx
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var routed error
	var handlers sync.WaitGroup
	handlers.Go(func() {
		defer stop()
		routed = errors.Join(router.Run(ctx), router.Close())
	})
	logger.InfoContext(ctx, "answering checks", "ledger", backend.Redact(setting(c.app.storeURL, storeVariable)),
		"broker", backend.Redact(setting(c.app.brokerURL, brokerVariable)), "checks", c.checks, "confirms", c.confirms)
	err = service.Run(ctx)
	stop()
	handlers.Wait()
	if routed != nil && until.Err() != nil {
		// Told to stop while it still subscribed, or handled something: that is redelivered.
		logger.Warn("the handlers did not stop in order", "error", routed)
		routed = nil
	}
	stats := service.Stats()
	logger.Info("stopped", "confirms", stats.Confirms, "checks", stats.Checks, "requests", stats.Requests, "resends", stats.Resends,
		"dropped", stats.Dropped, "failed", stats.Failed)
	if errors.Is(err, reliable.ErrDrain) {
		return exitError{exitNotDrained, err.Error()}
	}
	return errors.Join(err, routed)
}

// router hands the messages of both topics to the service. What the ledger does not take comes again; what it never can
// goes to the poison topic.
func (c *calling) router(service *delayedcheck.Service, subscriber message.Subscriber, publisher message.Publisher, logger *slog.Logger,
) (*message.Router, error) {
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: c.drain}, watermill.NewSlogLogger(logger))
	if err != nil {
		return nil, err
	}
	preset, err := middleware.New(c.group, publisher, c.poison, middleware.WithLogger(logger),
		middleware.WithPermanent(func(err error) bool { return errors.Is(err, reliable.ErrInvalid) }))
	if err != nil {
		return nil, err
	}
	for topic, handle := range map[string]func(*message.Message) error{c.checks: service.Checks, c.confirms: service.Processed} {
		wrapped := preset.Middleware(func(msg *message.Message) ([]*message.Message, error) {
			err := handle(msg)
			if err != nil && !errors.Is(err, reliable.ErrInvalid) {
				err = middleware.Postpone(err)
			}
			return nil, err
		})
		for i := range c.parallel {
			router.AddConsumerHandler(fmt.Sprintf("%s.%d", topic, i+1), topic, subscriber, func(msg *message.Message) error {
				_, err := wrapped(msg)
				return err
			})
		}
	}
	return router, nil
}
