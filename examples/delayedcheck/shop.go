package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
	"github.com/waybillmq/waybill/strategies/delayedcheck/httprpc"
)

// clerks is how many goroutines place orders.
const clerks = 8

// shop is the process that places orders and answers resend requests. The store begins its transactions; no message is
// stored in it.
func shop(ctx context.Context, s stage, out io.Writer) (err error) {
	store, err := sqlitestore.Open(ctx, s.shopDB())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	db := store.DB()
	for _, table := range []string{
		`CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, quantity INTEGER)`,
		`CREATE TABLE IF NOT EXISTS resends (number INTEGER PRIMARY KEY, id TEXT)`, // for the audit alone
	} {
		if _, err := db.ExecContext(ctx, table); err != nil {
			return err
		}
	}
	nats, err := s.nats()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, nats.Close()) }()
	scheduler := nats.Scheduler()
	defer func() { err = errors.Join(err, scheduler.Close()) }()
	witness, err := sqlitestore.NewRowWitness(db, sqlitestore.WitnessRow{Table: "orders", Column: "id", Promise: sqlitestore.RowPromise{
		TransactionInserts: true, KeyIsUnique: true, NeverDeletedInTime: true, SameWritableNode: true, IDDerivesFromRow: true,
	}})
	if err != nil {
		return err
	}
	var publisher reliable.Publisher = nats
	if s.HoldAt > 0 {
		publisher = &holding{Publisher: nats, id: orderID(s.HoldAt), out: out}
	}
	sender, err := delayedcheck.NewSender(publisher, nats, scheduler,
		delayedcheck.WithTransactions(store), delayedcheck.WithWitness(witness),
		delayedcheck.WithGroups(shippingGroup), delayedcheck.WithProducerName(shopName),
		delayedcheck.WithCheckTopic(checksTopic), delayedcheck.WithCheckDelay(checkDelay), delayedcheck.WithCheckTimeout(time.Second),
		delayedcheck.WithSenderLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	stopServing, err := serveResends(ctx, s, &noting{Resender: sender, db: db})
	if err != nil {
		return err
	}
	sending, stopSending := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- sender.Run(sending) }()

	err = placeAll(ctx, s, db, sender, out)
	if err == nil {
		fmt.Fprintln(out, "placed all")
		<-ctx.Done()
	}
	err = errors.Join(err, stopServing())
	stopSending()
	return errors.Join(err, <-ran)
}

func orderID(number int) reliable.ID { return reliable.ID(fmt.Sprintf("order-%06d", number)) }

// placeAll places the orders that are not there yet.
func placeAll(ctx context.Context, s stage, db *sql.DB, sender *delayedcheck.Sender, out io.Writer) error {
	fmt.Fprintln(out, ready)
	var next, placed atomic.Int64
	var failed error
	var once sync.Once
	var group sync.WaitGroup
	for range clerks {
		group.Go(func() {
			for {
				number := int(next.Add(1))
				if number > s.Orders || ctx.Err() != nil {
					return
				}
				if err := place(ctx, db, sender, number); err != nil {
					once.Do(func() { failed = err })
					return
				}
				if done := placed.Add(1); done%int64(max(1, s.Orders/10)) == 0 {
					fmt.Fprintln(out, "placed", done)
				}
			}
		})
	}
	group.Wait()
	return errors.Join(failed, ctx.Err())
}

// place stores the order with its message, again while the broker cannot take its check.
func place(ctx context.Context, db *sql.DB, sender *delayedcheck.Sender, number int) error {
	id := orderID(number)
	payload, err := json.Marshal(map[string]any{"id": id, "item": "teapot", "quantity": 1 + number%3})
	if err != nil {
		return err
	}
	for {
		err := delayedcheck.InTx(ctx, sender, db, func(tx *sql.Tx, out *delayedcheck.Scope) error {
			stored, err := tx.ExecContext(ctx, `INSERT INTO orders (id, quantity) VALUES (?, ?) ON CONFLICT DO NOTHING`, id, 1+number%3)
			if err != nil {
				return err
			}
			if n, err := stored.RowsAffected(); err != nil || n == 0 { // before this process was killed
				return err
			}
			return out.Send(reliable.Envelope{ID: id, Topic: ordersTopic, Payload: payload})
		})
		switch {
		case err == nil:
			return nil
		case errors.Is(err, delayedcheck.ErrNotChecked), errors.Is(err, delayedcheck.ErrTooOld):
			select { // nothing was committed: the customer tries once more
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		default:
			return fmt.Errorf("place %s: %w", id, err)
		}
	}
}

// serveResends answers resend requests on the loopback interface.
func serveResends(ctx context.Context, s stage, resender delayedcheck.Resender) (stop func() error, err error) {
	key, err := httprpc.ParseKey(s.Key)
	if err != nil {
		return nil, err
	}
	handler, err := httprpc.NewHandler(resender, []httprpc.Key{key})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/resend", handler)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.ShopPort)))
	if err != nil {
		return nil, err
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return func() error {
		err := server.Close()
		if serving := <-served; !errors.Is(serving, http.ErrServerClosed) {
			err = errors.Join(err, serving)
		}
		return err
	}, nil
}

// holding is a broker that an order's message never reaches: its transaction has committed, and that is as far as it gets.
type holding struct {
	reliable.Publisher
	id  reliable.ID
	out io.Writer
}

// Unwrap leads to what else the broker can do.
func (h *holding) Unwrap() any { return h.Publisher }

// Publish hands the batch to the broker, unless the order is in it.
func (h *holding) Publish(ctx context.Context, batch []reliable.Attempt) (int, error) {
	for i := range batch {
		if batch[i].ID == h.id {
			fmt.Fprintln(h.out, "holding", h.id)
			<-ctx.Done()
			return 0, ctx.Err()
		}
	}
	return h.Publisher.Publish(ctx, batch)
}

// noting writes down what was sent again, for the audit.
type noting struct {
	delayedcheck.Resender
	db *sql.DB
}

// Resend asks the sender.
func (n *noting) Resend(ctx context.Context, check delayedcheck.Check) (delayedcheck.Answer, error) {
	answer, err := n.Resender.Resend(ctx, check)
	if err == nil && answer == delayedcheck.Resent {
		_, err = n.db.ExecContext(context.WithoutCancel(ctx), `INSERT INTO resends (id) VALUES (?)`, check.Message.ID)
	}
	return answer, err
}
