// Gormsqlx stores messages in transactions that GORM and sqlx began. It is a module of its own, so that nobody who uses
// Waybill gets these libraries with it.
//
//	cd examples/gormsqlx && go run .
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/jmoiron/sqlx"
	"gorm.io/driver/sqlite"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// Order is the business row.
type Order struct {
	ID   string `gorm:"primaryKey" db:"id"`
	Item string `db:"item"`
}

func (o Order) placed() reliable.Envelope {
	return reliable.Envelope{ID: reliable.ID(o.ID), Topic: "orders.placed", Payload: []byte(o.Item)}
}

// placeWithGORM stores an order and its message in a transaction of GORM. What GORM calls the connection pool is, inside a
// transaction, that transaction.
func placeWithGORM(ctx context.Context, outbox *tagging.Outbox, db *gorm.DB, order Order, declined error) error {
	err := db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		if err := tx.Create(&order).Error; err != nil {
			return err
		}
		if _, err := outbox.Send(ctx, tx.Statement.ConnPool, order.placed()); err != nil {
			return err
		}
		return declined
	})
	if err != nil {
		return err
	}
	return outbox.Wake(ctx)
}

// placeWithSQLX stores an order and its message in a transaction of sqlx.
func placeWithSQLX(ctx context.Context, outbox *tagging.Outbox, db *sqlx.DB, order Order, declined error) error {
	tx, err := db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after the commit
	if _, err := tx.NamedExecContext(ctx, `INSERT INTO orders (id, item) VALUES (:id, :item)`, order); err != nil {
		return err
	}
	if _, err := outbox.Send(ctx, tx, order.placed()); err != nil {
		return err
	}
	if declined != nil {
		return declined
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	return outbox.Wake(ctx)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "gormsqlx:", err)
		os.Exit(1)
	}
}

// run places two orders and fails to place two, with each library one, and tells what is received.
func run(ctx context.Context, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "waybill-gormsqlx-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	store, err := sqlitestore.Open(ctx, filepath.Join(dir, "shop.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	// Both libraries work on the database that is open already.
	viaGORM, err := gorm.Open(sqlite.New(sqlite.Config{Conn: store.DB()}), &gorm.Config{Logger: logger.Discard})
	if err != nil {
		return err
	}
	if err := viaGORM.AutoMigrate(&Order{}); err != nil {
		return err
	}
	viaSQLX := sqlx.NewDb(store.DB(), "sqlite")

	broker := membroker.New()
	defer func() { err = errors.Join(err, broker.Close()) }()
	messages, err := broker.Subscribe(ctx, "orders.placed")
	if err != nil {
		return err
	}
	outbox, err := tagging.New(store, broker, broker, tagging.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	relaying, stopRelaying := context.WithCancel(ctx)
	relayed := make(chan error, 1)
	go func() { relayed <- outbox.Run(relaying) }()
	defer func() {
		stopRelaying()
		err = errors.Join(err, <-relayed)
	}()

	declined := errors.New("card declined")
	withGORM := func(o Order, declined error) error { return placeWithGORM(ctx, outbox, viaGORM, o, declined) }
	withSQLX := func(o Order, declined error) error { return placeWithSQLX(ctx, outbox, viaSQLX, o, declined) }
	for _, attempt := range []struct {
		library string
		place   func(Order, error) error
		order   Order
		err     error
	}{
		{"GORM", withGORM, Order{"order-1", "teapot"}, declined},
		{"GORM", withGORM, Order{"order-2", "kettle"}, nil},
		{"sqlx", withSQLX, Order{"order-3", "cup"}, declined},
		{"sqlx", withSQLX, Order{"order-4", "saucer"}, nil},
	} {
		err := attempt.place(attempt.order, attempt.err)
		if !errors.Is(err, attempt.err) {
			return err
		}
		fmt.Fprintf(out, "%s: %s: %v\n", attempt.library, attempt.order.ID, err)
		if attempt.err != nil {
			continue
		}
		select {
		case msg := <-messages:
			msg.Ack()
			fmt.Fprintf(out, "received %s: %s\n", msg.UUID, msg.Payload)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
