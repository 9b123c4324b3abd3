package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
	"github.com/waybillmq/waybill/strategies/delayedcheck/httprpc"
)

// callback is the process of the callback service, with a ledger of its own.
func callback(ctx context.Context, s stage, out io.Writer) (err error) {
	ledger, err := sqlitestore.Open(ctx, s.ledgerDB())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ledger.Close()) }()
	_, err = ledger.DB().ExecContext(ctx, `CREATE TABLE IF NOT EXISTS answered (check_id TEXT PRIMARY KEY, id TEXT)`) // for the audit alone
	if err != nil {
		return err
	}
	key, err := httprpc.ParseKey(s.Key)
	if err != nil {
		return err
	}
	shop, err := httprpc.NewClient(fmt.Sprintf("http://127.0.0.1:%d/resend", s.ShopPort), key)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var ran chan error // what became of the service's Run, once it runs
	err = consume(ctx, s, out, "callback", func(router *message.Router, nats *natsbroker.Broker, subscriber message.Subscriber) error {
		scheduler := nats.Scheduler()
		service, err := delayedcheck.NewService(ledger, nil, scheduler,
			delayedcheck.WithResender(shopName, shop), delayedcheck.WithNextCheck(checksTopic, checkDelay),
			// Short, because this is a demonstration.
			delayedcheck.WithPollEvery(200*time.Millisecond), delayedcheck.WithResendBackoff(200*time.Millisecond, time.Second),
			delayedcheck.WithServiceLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			return errors.Join(err, scheduler.Close())
		}
		router.AddConsumerHandler("processed", processedTopic, subscriber, service.Processed)
		router.AddConsumerHandler("checks", checksTopic, subscriber, func(msg *message.Message) error {
			if err := service.Checks(msg); err != nil {
				return err
			}
			check, err := delayedcheck.CheckOf(msg)
			if err != nil {
				return err
			}
			_, err = ledger.DB().ExecContext(msg.Context(), `INSERT INTO answered (check_id, id) VALUES (?, ?) ON CONFLICT DO NOTHING`,
				msg.UUID, check.Message.ID)
			return err
		})
		ran = make(chan error, 1)
		go func() { ran <- errors.Join(service.Run(ctx), scheduler.Close()) }()
		return nil
	})
	stop()
	if ran != nil {
		err = errors.Join(err, <-ran)
	}
	return err
}
