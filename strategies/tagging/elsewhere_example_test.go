package tagging_test

import (
	"context"
	"fmt"
	"time"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// The orders are in one database, their messages in another. The process dies right after the order has committed; a
// relay asks the witness of the orders' database, and sends.
func ExampleWithElsewhere() {
	ctx := context.Background()
	orders, messages := memstore.New(), memstore.New() // of two servers, say
	broker := membroker.New()
	defer broker.Close()
	witness, err := orders.MarkerWitness(time.Hour) // on PostgreSQL: postgresstore.NewWitness(db)
	if err != nil {
		fmt.Println(err)
		return
	}
	elsewhere := tagging.WithElsewhere("shop", orders, witness, tagging.AskAfter(100*time.Millisecond)) // the default is a minute

	sender, err := tagging.NewSender(dying{messages}, elsewhere)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, id := range []string{"order-1", "order-2"} {
		err := tagging.InTx(ctx, sender.Elsewhere("shop"), nil, func(tx *memstore.Tx, out *tagging.Scope) error {
			if err := tx.Put(id, "placed"); err != nil {
				return err
			}
			if err := out.Send(reliable.Envelope{ID: reliable.ID(id), Topic: "orders.placed"}); err != nil {
				return err
			}
			if id == "order-2" {
				return fmt.Errorf("%s is out of stock", id)
			}
			return nil
		})
		fmt.Println(id, "placed:", err)
	}
	record, _ := messages.Lookup(ctx, "order-1")
	fmt.Println("withheld:", record[0].Withheld)

	outbox, err := tagging.New(messages, broker, broker, elsewhere)
	if err != nil {
		fmt.Println(err)
		return
	}
	stop := relay(outbox)
	for len(broker.Delivered("orders.placed")) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	fmt.Println("delivered:", broker.Delivered("orders.placed")[0].ID)
	// Output:
	// order-1 placed: <nil>
	// order-2 placed: order-2 is out of stock
	// withheld: true
	// delivered: order-1
}

// dying is a store whose process dies before it releases anything.
type dying struct{ *memstore.Store }

func (dying) Resolve(context.Context, reliable.EnqueueRequest, ...reliable.Resolution) ([]reliable.Resolved, error) {
	return nil, fmt.Errorf("the process is gone")
}
