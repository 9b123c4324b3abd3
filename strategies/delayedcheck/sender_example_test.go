package delayedcheck_test

import (
	"context"
	"fmt"
	"time"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// The order and its message, without a message row. With a SQL store the transaction is a *sql.Tx, and the witness that of
// the database's adapter.
func ExampleInTx() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	store, broker := memstore.New(), membroker.New()
	defer broker.Close()
	witness, err := store.MarkerWitness(24 * time.Hour)
	if err != nil {
		fmt.Println(err)
		return
	}
	sender, err := delayedcheck.NewSender(broker, broker, broker.Scheduler(),
		delayedcheck.WithTransactions(store), delayedcheck.WithWitness(witness), delayedcheck.WithGroups("billing"),
		delayedcheck.WithCheckTimeout(30*time.Second)) // the default is 50 ms
	if err != nil {
		fmt.Println(err)
		return
	}
	stop := running(sender)

	err = delayedcheck.InTx(ctx, sender, nil, func(tx *memstore.Tx, out *delayedcheck.Scope) error {
		if err := tx.Put("order-17", "2 teapots"); err != nil {
			return err
		}
		return out.Send(reliable.Envelope{ID: "order-17", Topic: orders, Payload: []byte("2 teapots")})
	})
	fmt.Println("placed:", err)
	fmt.Println("drained:", stop())
	for _, delivery := range broker.Delivered(orders) {
		fmt.Printf("%s: %s\n", delivery.ID, delivery.Payload)
	}
	// Output:
	// placed: <nil>
	// drained: <nil>
	// order-17: 2 teapots
}
