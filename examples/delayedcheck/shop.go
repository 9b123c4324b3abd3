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

	"github.com/waybillmq/waybill/examples/internal/backends"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
	"github.com/waybillmq/waybill/strategies/delayedcheck/httprpc"
)

// clerks is how many goroutines place orders.
const clerks = 8

// shop is the process that places orders and answers resend requests. The store begins its transactions; no message is
// stored in it.
func shop(ctx context.Context, s stage, out io.Writer) (err error) {
	store, err := openStore(ctx, s.Shop,
		`CREATE TABLE IF NOT EXISTS orders (id VARCHAR(64) PRIMARY KEY, quantity INT)`,
		`CREATE TABLE IF NOT EXISTS resends (id VARCHAR(64))`) // for the audit alone
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
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
	sender, err := s.sender(store, broker, delay, out)
	if err != nil {
		return err
	}
	stopServing, err := serveResends(ctx, s, &noting{sender, store})
	if err != nil {
		return err
	}
	sending, stopSending := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- sender.Run(sending) }()

	err = placeAll(ctx, s, &clerk{store, sender, s.ordersTopic()}, out)
	if err == nil {
		fmt.Fprintln(out, "placed all")
		<-ctx.Done()
	}
	err = errors.Join(err, stopServing())
	stopSending()
	return errors.Join(err, <-ran)
}

// sender makes what sends the messages. Their checks are durable before each COMMIT, so it writes no row for them.
func (s stage) sender(store backend.Store, broker backend.Broker, delay *backends.Delay, out io.Writer) (*delayedcheck.Sender, error) {
	transactions, ok := reliable.Ability[reliable.Transactor](store)
	if !ok {
		return nil, errors.New("the store begins no transactions")
	}
	witness, err := backends.WitnessOf(store, "orders", "id")
	if err != nil {
		return nil, err
	}
	var publisher reliable.Publisher = broker
	if s.HoldAt > 0 {
		publisher = &holding{Publisher: broker, id: orderID(s.HoldAt), out: out}
	}
	scheduler, opts := delay.ForSender()
	return delayedcheck.NewSender(publisher, broker, scheduler, append(opts,
		delayedcheck.WithTransactions(transactions), delayedcheck.WithWitness(witness),
		delayedcheck.WithGroups(shippingRole), delayedcheck.WithProducerName(shopRole),
		delayedcheck.WithCheckTopic(s.checksTopic()), delayedcheck.WithCheckDelay(s.Delay), delayedcheck.WithCheckTimeout(time.Second),
		delayedcheck.WithSenderLogger(slog.New(slog.DiscardHandler)))...)
}

func orderID(number int) reliable.ID { return reliable.ID(fmt.Sprintf("order-%06d", number)) }

// placeAll places the orders that are not there yet.
func placeAll(ctx context.Context, s stage, c *clerk, out io.Writer) error {
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
				if err := c.place(ctx, number); err != nil {
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

// clerk places orders. It is safe for concurrent use.
type clerk struct {
	store  backend.Store
	sender *delayedcheck.Sender
	topic  string
}

// place has an order stored with its check, and its message sent, again while broker or database are away.
func (c *clerk) place(ctx context.Context, number int) error {
	for deadline := time.Now().Add(3 * time.Minute); ; { // servers of a busy machine take their time
		err := c.try(ctx, number)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("place %s: %w", orderID(number), err)
		}
		select { // it was not committed, or nobody knows: the customer tries once more
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *clerk) try(ctx context.Context, number int) error {
	id := orderID(number)
	payload, err := json.Marshal(map[string]any{"id": id, "item": "teapot", "quantity": 1 + number%3})
	if err != nil {
		return err
	}
	find := backends.Query(c.store, `SELECT COUNT(*) FROM orders WHERE id = ?`)
	insert := backends.Query(c.store, `INSERT INTO orders (id, quantity) VALUES (?, ?)`)
	return delayedcheck.InTx(ctx, c.sender, nil, func(tx *sql.Tx, out *delayedcheck.Scope) error {
		var before int // by this process, or by one that was killed: its check sees to the message
		if err := tx.QueryRowContext(ctx, find, string(id)).Scan(&before); err != nil || before > 0 {
			return err
		}
		if _, err := tx.ExecContext(ctx, insert, string(id), 1+number%3); err != nil {
			return err
		}
		return out.Send(reliable.Envelope{ID: id, Topic: c.topic, Payload: payload})
	})
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
	store backend.Store
}

// Resend asks the sender.
func (n *noting) Resend(ctx context.Context, check delayedcheck.Check) (delayedcheck.Answer, error) {
	answer, err := n.Resender.Resend(ctx, check)
	if err == nil && answer == delayedcheck.Resent {
		_, err = backends.Exec(context.WithoutCancel(ctx), n.store, `INSERT INTO resends (id) VALUES (?)`, string(check.Message.ID))
	}
	return answer, err
}
