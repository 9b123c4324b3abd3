package tagging_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// relay runs an outbox until the function that it returns is called, which waits for the drain.
func relay(outbox *tagging.Outbox) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- outbox.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			fmt.Println("drain:", err)
		}
	}
}

// receive takes one message of a topic.
func receive(broker *membroker.Broker, topic string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	messages, err := broker.Subscribe(ctx, topic)
	if err != nil {
		fmt.Println(err)
		return
	}
	for msg := range messages {
		fmt.Printf("received %s: %s\n", msg.UUID, msg.Payload)
		msg.Ack()
		return
	}
	fmt.Println("nothing received")
}

// The order and its message are stored together, or neither is. With a SQL store the transaction is a *sql.Tx, and db the
// *sql.DB that the business uses.
func ExampleInTx() {
	ctx := context.Background()
	store, broker := memstore.New(), membroker.New()
	defer broker.Close()
	outbox, err := tagging.New(store, broker, broker)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer relay(outbox)()

	err = tagging.InTx(ctx, outbox, nil, func(tx *memstore.Tx, out *tagging.Scope) error {
		if err := tx.Put("order-17", "2 teapots"); err != nil {
			return err
		}
		return out.Send(reliable.Envelope{ID: "order-17", Topic: "orders.placed", Payload: []byte("2 teapots")})
	})
	fmt.Println("placed:", err)
	receive(broker, "orders.placed")
	// Output:
	// placed: <nil>
	// received order-17: 2 teapots
}

// What a rolled back transaction added is not sent.
func ExampleInTx_rollback() {
	ctx := context.Background()
	store, broker := memstore.New(), membroker.New()
	defer broker.Close()
	outbox, err := tagging.New(store, broker, broker)
	if err != nil {
		fmt.Println(err)
		return
	}

	err = tagging.InTx(ctx, outbox, nil, func(_ *memstore.Tx, out *tagging.Scope) error {
		if err := out.Send(reliable.Envelope{ID: "order-18", Topic: "orders.placed"}); err != nil {
			return err
		}
		return errors.New("card declined")
	})
	fmt.Println(err)
	stored, _ := store.Lookup(ctx, "order-18")
	fmt.Println("stored:", len(stored))
	// Output:
	// card declined
	// stored: 0
}

// A nested part of a transaction takes its messages back with it.
func ExampleScope_Nested() {
	ctx := context.Background()
	store, broker := memstore.New(), membroker.New()
	defer broker.Close()
	outbox, err := tagging.New(store, broker, broker)
	if err != nil {
		fmt.Println(err)
		return
	}

	err = tagging.InTx(ctx, outbox, nil, func(_ *memstore.Tx, out *tagging.Scope) error {
		voucher := out.Nested(func(out *tagging.Scope) error {
			if err := out.Send(reliable.Envelope{ID: "voucher-3", Topic: "vouchers.used"}); err != nil {
				return err
			}
			return errors.New("voucher has expired")
		})
		fmt.Println("without voucher:", voucher)
		return out.Send(reliable.Envelope{ID: "order-19", Topic: "orders.placed"})
	})
	fmt.Println("placed:", err)
	stored, _ := store.Lookup(ctx, "voucher-3", "order-19")
	for _, record := range stored {
		fmt.Println("stored:", record.ID)
	}
	// Output:
	// without voucher: voucher has expired
	// placed: <nil>
	// stored: order-19
}

// Existing code that takes a Watermill publisher, Watermill's CQRS for one, works inside the transaction.
func ExampleScope_Publisher() {
	ctx := context.Background()
	store, broker := memstore.New(), membroker.New()
	defer broker.Close()
	outbox, err := tagging.New(store, broker, broker)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer relay(outbox)()

	err = tagging.InTx(ctx, outbox, nil, func(tx *memstore.Tx, out *tagging.Scope) error {
		if err := tx.Put("order-20", "1 kettle"); err != nil {
			return err
		}
		return out.Publisher().Publish("orders.placed", message.NewMessage("order-20", []byte("1 kettle")))
	})
	fmt.Println("placed:", err)
	receive(broker, "orders.placed")
	// Output:
	// placed: <nil>
	// received order-20: 1 kettle
}

// A transaction that the caller began and ends: a *sql.Tx, a pgx.Tx, or that of GORM, sqlx, ent or bun.
func ExampleSender_Send() {
	ctx := context.Background()
	store := memstore.New()
	sender, err := tagging.NewSender(store) // this process only stores; another one relays
	if err != nil {
		fmt.Println(err)
		return
	}

	tx, err := store.Begin(ctx, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = tx.Rollback(ctx) }()
	ids, err := sender.Send(ctx, tx.Native(), reliable.Envelope{ID: "order-21", Topic: "orders.placed"})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := tx.Commit(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("stored:", ids, "woken:", sender.Wake(ctx))
	// Output: stored: [order-21] woken: <nil>
}

// Without a business transaction, Publish returns once the message is stored. Its receipt tells the outcome to who wants
// to wait for it.
func ExampleSender_Publish() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	store, broker := memstore.New(), membroker.New()
	defer broker.Close()
	outbox, err := tagging.New(store, broker, broker)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer relay(outbox)()

	receipt, err := outbox.Publish(ctx, reliable.Envelope{Topic: "carts.abandoned", Payload: []byte("cart 4")})
	if err != nil {
		fmt.Println(err)
		return
	}
	statuses, err := receipt.Wait(ctx)
	fmt.Println(statuses[0], err)
	// Output: confirmed <nil>
}

// One pass over what is due, for cron.
func ExampleOutbox_SweepOnce() {
	ctx := context.Background()
	store, broker := memstore.New(), membroker.New()
	defer broker.Close()
	outbox, err := tagging.New(store, broker, broker)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, id := range []reliable.ID{"a", "b", "c"} {
		if _, err := outbox.Publish(ctx, reliable.Envelope{ID: id, Topic: "orders.placed"}); err != nil {
			fmt.Println(err)
			return
		}
	}
	report, err := outbox.SweepOnce(ctx)
	fmt.Println("claimed:", report.Claimed, "confirmed:", report.Confirmed, err)
	// Output: claimed: 3 confirmed: 3 <nil>
}

// What can never be sent is failed, and its topic's handler undoes what the message announced.
func ExampleWithFailedHandler() {
	ctx := context.Background()
	store, broker := memstore.New(), membroker.New()
	defer broker.Close()
	broker.Undeclare("orders.placed")

	refunded := make(chan reliable.ID, 1)
	outbox, err := tagging.New(store, broker, broker,
		tagging.WithFailureBudget(1, 0), // the default tries for half an hour
		tagging.WithFailedHandler("orders.placed", func(_ context.Context, record *reliable.Record) error {
			fmt.Printf("%s is %v, may have been sent: %v\n", record.ID, record.Status, record.MayHaveBeenSent)
			refunded <- record.ID
			return nil
		}))
	if err != nil {
		fmt.Println(err)
		return
	}
	stop := relay(outbox)
	if _, err := outbox.Publish(ctx, reliable.Envelope{ID: "order-22", Topic: "orders.placed"}); err != nil {
		fmt.Println(err)
	}
	fmt.Println("refunded:", <-refunded)
	stop()
	stored, _ := store.Lookup(ctx, "order-22")
	fmt.Println("now:", stored[0].Status)
	// Output:
	// order-22 is failed, may have been sent: false
	// refunded: order-22
	// now: compensated
}

// What an alarm looks at.
func ExampleOutbox_Stats() {
	ctx := context.Background()
	store, broker := memstore.New(), membroker.New()
	defer broker.Close()
	outbox, err := tagging.New(store, broker, broker)
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		if _, err := outbox.Publish(ctx, reliable.Envelope{Topic: "orders.placed"}); err != nil {
			fmt.Println(err)
			return
		}
	}
	topics, err := outbox.Stats(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, topic := range topics {
		fmt.Printf("%s: %d pending, %d failed\n", topic.Topic, topic.Pending, topic.Failed)
	}
	// Output: orders.placed: 3 pending, 0 failed
}

// Options that cannot work are refused when the outbox is made, all of them together.
func ExampleNew_invalid() {
	store, broker := memstore.New(), membroker.New()
	defer broker.Close()
	_, err := tagging.New(store, broker, broker,
		tagging.WithLease(10*time.Second),
		tagging.WithMemory(10, 1<<20),
	)
	fmt.Println(err)
	fmt.Println(errors.Is(err, reliable.ErrInvalid))
	// Output:
	// tagging: options: invalid WithLease: 10s must be longer than the broker adapter's confirm timeout of 30s, or a message could be sent twice while its first confirm is on the way
	// invalid WithMemory: 10 messages are fewer than the window of 1000
	// true
}

// Business data and outbox in two databases have no common transaction. The business commits first; a crash before Publish
// is made good by looking at recent business rows again, with IDs that derive from them: what is stored already is
// recognised.
func ExampleSender_Publish_anotherDatabase() {
	ctx := context.Background()
	store, broker := memstore.New(), membroker.New()
	defer broker.Close()
	outbox, err := tagging.New(store, broker, broker)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer relay(outbox)()

	var committed []reliable.ID // the business table, in a database of its own
	crashed := errors.New("crashed")
	place := func(id reliable.ID, crash error) error {
		committed = append(committed, id)
		if crash != nil {
			return crash
		}
		_, err := outbox.Publish(ctx, reliable.Envelope{ID: id, Topic: "orders.placed"})
		return err
	}
	lookAgain := func() error {
		for _, id := range committed {
			receipt, err := outbox.Publish(ctx, reliable.Envelope{ID: id, Topic: "orders.placed"})
			if err != nil {
				return err
			}
			if _, err := receipt.Wait(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	fmt.Println("order-30:", place("order-30", nil))
	fmt.Println("order-31:", place("order-31", crashed))
	fmt.Println("look again:", lookAgain())
	fmt.Println("look again:", lookAgain())
	for _, delivered := range broker.Delivered("orders.placed") {
		fmt.Println("delivered:", delivered.ID)
	}
	// Output:
	// order-30: <nil>
	// order-31: crashed
	// look again: <nil>
	// look again: <nil>
	// delivered: order-30
	// delivered: order-31
}
