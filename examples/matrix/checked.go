package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/waybillmq/waybill/examples/internal/backends"
	"github.com/waybillmq/waybill/examples/internal/liar"
	"github.com/waybillmq/waybill/examples/internal/orders"
	"github.com/waybillmq/waybill/reliable/backend"
)

const (
	checkDelay = 3 * time.Second
	// dropped is the order whose message the broker drops while it says that it has it. Only a check can find that out.
	dropped = "order-000002"
)

// runChecked plays the scenario without a message row. Sender, consumer and callback service share the process here; its
// ledger is in the store.
func runChecked(ctx context.Context, store backend.Store, broker backend.Broker, backed orders.Backend, plan orders.Plan, out io.Writer,
) (result orders.Result, err error) {
	c := orders.Checking{Delay: checkDelay, ProcessedTopic: "orders_processed_" + suffix(), ChecksTopic: "orders_checks_" + suffix()}
	if err := broker.Declare(ctx, c.ProcessedTopic, c.ChecksTopic); err != nil {
		return result, err
	}
	delay, err := backends.DelayOf(ctx, broker, checkDelay)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, delay.Close()) }()
	c.Scheduler, c.Move, c.ForSender = delay, delay.Run, delay.ForSender
	if c.Witness, err = backends.WitnessOf(store, "orders", "id"); err != nil {
		return result, err
	}
	c.Processed = broker.Watermill()
	defer func() { err = errors.Join(err, c.Processed.Close()) }()
	if c.Callback, err = broker.Subscribe("callback"); err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, c.Callback.Close()) }()
	forgetful := liar.New(broker, dropped)
	backed.Publisher, backed.Confirms = forgetful, forgetful
	result, err = orders.RunChecked(ctx, backed, c, plan, out)
	if err == nil && result.Resends == 0 {
		err = errors.New("nothing was sent again although the broker dropped a message")
	}
	return result, err
}
