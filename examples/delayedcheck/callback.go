package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/examples/internal/backends"
	"github.com/waybillmq/waybill/reliable/backend"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
	"github.com/waybillmq/waybill/strategies/delayedcheck/httprpc"
)

// callback is the process of the callback service, with a ledger of its own.
func callback(ctx context.Context, s stage, out io.Writer) (err error) {
	ledger, err := openStore(ctx, s.Callback,
		`CREATE TABLE IF NOT EXISTS answered (check_id VARCHAR(64), id VARCHAR(64))`) // for the audit alone
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ledger.Close()) }()
	broker, err := s.openBroker(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.Close()) }()
	delay, err := backends.DelayOf(ctx, broker, s.Delay)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, delay.Close()) }()
	service, err := s.service(ledger, delay)
	if err != nil {
		return err
	}

	ctx, stop := context.WithCancel(ctx)
	var working sync.WaitGroup
	var resending, delaying error
	working.Go(func() { resending = service.Run(ctx) })
	working.Go(func() { delaying = delay.Run(ctx) })
	err = consume(ctx, broker, s.group(callbackRole), out, map[string]message.NoPublishHandlerFunc{
		s.processedTopic(): service.Processed,
		s.checksTopic(): func(msg *message.Message) error {
			if err := service.Checks(msg); err != nil {
				return err
			}
			check, err := delayedcheck.CheckOf(msg)
			if err != nil {
				return err
			}
			_, err = backends.Exec(msg.Context(), ledger, `INSERT INTO answered (check_id, id) VALUES (?, ?)`, msg.UUID, string(check.Message.ID))
			return err
		},
	})
	stop()
	working.Wait()
	return errors.Join(err, resending, delaying)
}

// service makes the callback service, which knows the shop's address.
func (s stage) service(ledger backend.Store, delay *backends.Delay) (*delayedcheck.Service, error) {
	key, err := httprpc.ParseKey(s.Key)
	if err != nil {
		return nil, err
	}
	shop, err := httprpc.NewClient(fmt.Sprintf("http://127.0.0.1:%d/resend", s.ShopPort), key)
	if err != nil {
		return nil, err
	}
	return delayedcheck.NewService(ledger, nil, delay,
		delayedcheck.WithResender(shopRole, shop), delayedcheck.WithNextCheck(s.checksTopic(), s.Delay),
		// Short, because this is a demonstration.
		delayedcheck.WithPollEvery(200*time.Millisecond), delayedcheck.WithResendBackoff(200*time.Millisecond, time.Second),
		delayedcheck.WithServiceLogger(slog.New(slog.DiscardHandler)))
}
