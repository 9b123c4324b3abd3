// Poison shows what becomes of a message that its handler cannot process: it is tried again through a retry topic while the
// others go on, ends in the poison topic with the reason, is repaired and replayed with its ID, and has its effect once.
// Database and broker are SQLite and NATS inside this process, in a temporary folder.
//
//	go run ./examples/poison
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

const (
	orders = "orders"
	poison = "orders.poison"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "poison:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "waybill-poison-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	store, err := sqlitestore.Open(ctx, filepath.Join(dir, "billing.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	billing := &billing{db: store.DB(), out: out}
	if _, err := billing.db.ExecContext(ctx, `CREATE TABLE invoices (id TEXT PRIMARY KEY, cents INTEGER NOT NULL)`); err != nil {
		return err
	}
	broker, err := backend.Brokers{embedded.Backend()}.Open(ctx, "nats-embedded:"+filepath.Join(dir, "nats"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.Close()) }()
	publisher := broker.Watermill() // its nil means: the broker has it
	defer func() { err = errors.Join(err, publisher.Close()) }()

	poisoned := make(chan struct{}, 1)
	preset, err := middleware.New("billing", publisher, poison,
		middleware.RetryDelayed(500*time.Millisecond, time.Second),
		middleware.WithTimeout(5*time.Second),
		middleware.WithLogger(slog.New(slog.DiscardHandler)),
		middleware.WithHooks(middleware.Hooks{
			Failed: func(msg *message.Message, f middleware.Failure, _ error) {
				fmt.Fprintf(out, "%s failed, attempt %d: %s\n", msg.UUID, f.Attempts, f.Reason)
			},
			Poisoned: func(*message.Message, middleware.Failure) { poisoned <- struct{}{} },
		}))
	if err != nil {
		return err
	}
	if err := broker.Declare(ctx, append(preset.Topics(orders), orders)...); err != nil {
		return err
	}
	stop, err := consume(ctx, broker, preset, billing)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	for _, order := range []struct{ id, cents string }{{"order-1", "1250"}, {"order-2", "12,50"}, {"order-3", "999"}} {
		env := reliable.Envelope{
			ID: reliable.ID(order.id), Topic: orders, Key: "ada", Metadata: map[string]string{"tenant": "eu"}, Payload: []byte(order.cents),
		}
		if err := publisher.Publish(orders, env.Message()); err != nil {
			return err
		}
	}
	select {
	case <-poisoned:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := repair(ctx, broker, publisher, out); err != nil {
		return err
	}
	return billing.show(ctx)
}

// consume has the orders billed until stop is called.
func consume(ctx context.Context, broker backend.Broker, preset *middleware.Preset, b *billing) (stop func() error, err error) {
	subscriber, err := broker.Subscribe("billing")
	if err != nil {
		return nil, err
	}
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 10 * time.Second}, watermill.NopLogger{})
	if err != nil {
		return nil, err
	}
	if err := preset.AddConsumerHandler(router, "bill", orders, subscriber, b.bill); err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- router.Run(ctx) }()
	select {
	case <-router.Running():
	case err := <-done:
		return nil, errors.Join(err, errors.New("the router did not start"))
	}
	return func() error { return errors.Join(router.Close(), <-done, subscriber.Close()) }, nil
}

// repair shows the poison topic, then replays it with the amounts written as they should have been.
func repair(ctx context.Context, broker backend.Broker, publisher message.Publisher, out io.Writer) error {
	operators, err := broker.Subscribe("operators")
	if err != nil {
		return err
	}
	idle := middleware.ReplayIdle(time.Second)
	fmt.Fprintln(out, "\nin the poison topic:")
	_, err = middleware.Replay(ctx, operators, publisher, poison, idle, middleware.ReplayDryRunThrough(),
		middleware.ReplayEach(func(msg *message.Message, f middleware.Failure, _ middleware.ReplayResult) {
			fmt.Fprintf(out, "  %s from %q, group %q, key %q, tenant %q: %d attempts, %d replays\n  reason: %s\n", msg.UUID, f.Topic,
				f.Group, msg.Metadata[reliable.HeaderKey], msg.Metadata["tenant"], f.Attempts, f.Replays, f.Reason)
		}))
	if err != nil {
		return errors.Join(err, operators.Close())
	}
	report, err := middleware.Replay(ctx, operators, publisher, poison, idle,
		middleware.ReplayRepair(func(msg *message.Message, _ middleware.Failure) error {
			msg.Payload = []byte("1250")
			return nil
		}))
	fmt.Fprintf(out, "\nreplayed %d of %d\n", report.Replayed, report.Entries)
	return errors.Join(err, operators.Close())
}

// billing is the business.
type billing struct {
	db  *sql.DB
	out io.Writer
}

// bill writes an invoice. The ID of the order is that of the invoice, so that a message which comes twice has one effect.
func (b *billing) bill(msg *message.Message) error {
	cents, err := strconv.Atoi(string(msg.Payload))
	if err != nil {
		return fmt.Errorf("read the amount: %w", err)
	}
	_, err = b.db.ExecContext(msg.Context(), `INSERT INTO invoices (id, cents) VALUES (?, ?) ON CONFLICT (id) DO NOTHING`, msg.UUID, cents)
	return err
}

// show waits until the three orders are billed, and prints their invoices.
func (b *billing) show(ctx context.Context) error {
	for {
		var count int
		if err := b.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM invoices`).Scan(&count); err != nil {
			return err
		}
		if count == 3 {
			break
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), fmt.Errorf("%d of 3 orders are billed", count))
		}
	}
	rows, err := b.db.QueryContext(ctx, `SELECT id, cents FROM invoices ORDER BY id`)
	if err != nil {
		return err
	}
	defer rows.Close()
	fmt.Fprintln(b.out, "\ninvoices:")
	for rows.Next() {
		var id string
		var cents int
		if err := rows.Scan(&id, &cents); err != nil {
			return err
		}
		fmt.Fprintf(b.out, "  %s %d.%02d\n", id, cents/100, cents%100)
	}
	return rows.Err()
}
