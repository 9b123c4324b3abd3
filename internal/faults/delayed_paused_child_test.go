//go:build services

package faults

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

const (
	// pausedDelay is when the check of a transaction comes due whose process is stopped meanwhile.
	pausedDelay = time.Second
	// idleLimit is how long the server leaves a transaction alone that a function is the witness of.
	idleLimit = time.Second
)

// premises are a business database and the kind of its witness.
type premises struct {
	Witness  string // "transaction id", "row", "marker" or "function"
	Database database
	SQLite   string // the file of a SQLite database, in place of Database
}

func (p premises) insert() string {
	if p.Database.Driver == "pgx" {
		return "INSERT INTO orders (id) VALUES ($1)"
	}
	return "INSERT INTO orders (id) VALUES (?)"
}

// open returns the business database, its transactions and its witness.
func (p premises) open(ctx context.Context) (*sql.DB, reliable.Transactor, reliable.Witness, error) {
	if p.SQLite == "" && p.Witness != "function" {
		return shop{Database: p.Database, Marker: p.Witness == "marker"}.open(ctx)
	}
	if p.SQLite == "" {
		db, transactor, _, err := shop{Database: p.Database}.open(ctx)
		if err != nil {
			return nil, nil, nil, err
		}
		limit := mysqlstore.LimitIdle
		if p.Database.Driver == "pgx" {
			limit = postgresstore.LimitIdle
		}
		witness, err := delayedcheck.NewFuncWitness(p.exists(db), delayedcheck.IdleLimit{Limit: idleLimit, Set: limit}, 4*idleLimit)
		return db, transactor, witness, err
	}
	store, err := sqlitestore.Open(ctx, p.SQLite)
	if err != nil {
		return nil, nil, nil, err
	}
	if p.Witness == "marker" {
		witness, err := store.MarkerWitness(time.Hour)
		return store.DB(), store, witness, err
	}
	witness, err := sqlitestore.NewRowWitness(store.DB(), sqlitestore.WitnessRow{Table: "orders", Column: "id", Promise: sqlitestore.RowPromise{
		TransactionInserts: true, KeyIsUnique: true, NeverDeletedInTime: true, SameWritableNode: true, IDDerivesFromRow: true,
	}})
	return store.DB(), store, witness, err
}

func (p premises) exists(db *sql.DB) func(context.Context, reliable.ID) (bool, error) {
	query := "SELECT COUNT(*) FROM orders WHERE id = ?"
	if p.Database.Driver == "pgx" {
		query = "SELECT COUNT(*) FROM orders WHERE id = $1"
	}
	return func(ctx context.Context, id reliable.ID) (bool, error) {
		var n int
		err := db.QueryRowContext(ctx, query, string(id)).Scan(&n)
		return n > 0, err
	}
}

// sender returns a sender with checks that come due soon, and what closes it.
func (p premises) sender(
	ctx context.Context, amqpURL string, wrap func(reliable.Transactor) reliable.Transactor,
) (*sql.DB, *delayedcheck.Sender, *rabbitmqbroker.Broker, *rabbitmqbroker.Scheduler, error) {
	db, transactor, witness, err := p.open(ctx)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	broker, err := rabbitmqbroker.NewFromURL(amqpURL, brokerOptions...)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	scheduler, err := broker.Scheduler([]time.Duration{pausedDelay}, rabbitmqbroker.WithShards(1))
	if err != nil {
		return nil, nil, nil, nil, err
	}
	sender, err := delayedcheck.NewSender(broker, broker, hasty{scheduler}, delayedcheck.WithGroups(billing), delayedcheck.WithCheckTimeout(patience),
		delayedcheck.WithTransactions(wrap(transactor)), delayedcheck.WithWitness(witness),
		delayedcheck.WithSenderLogger(slog.New(slog.DiscardHandler)))
	return db, sender, broker, scheduler, err
}

// hasty delivers checks before their time, so that no busy machine makes a transaction too old for its check.
type hasty struct{ reliable.Scheduler }

func (h hasty) Schedule(ctx context.Context, _ time.Duration, envs ...reliable.Envelope) error {
	return h.Scheduler.Schedule(ctx, pausedDelay, envs...)
}

// pausing places the orders that it is told, one after the other, and stops itself before the COMMIT of each.
type pausing struct {
	Premises premises
	AMQPURL  string
}

func (p pausing) run(ctx context.Context) error {
	db, sender, _, _, err := p.Premises.sender(ctx, p.AMQPURL, func(t reliable.Transactor) reliable.Transactor { return stopping{t} })
	if err != nil {
		return err
	}
	go func() { fmt.Println("ended:", sender.Run(ctx)) }()
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		id := orders.Text()
		if err := placeChecked(ctx, sender, db, p.Premises.insert(), id); err == nil {
			fmt.Println("committed", id)
		} else {
			fmt.Println("refused", id)
		}
	}
	return errors.New("nobody tells it anything more")
}

// stopping stops the process before each COMMIT.
type stopping struct{ reliable.Transactor }

func (s stopping) Begin(ctx context.Context, db any) (reliable.Tx, error) {
	tx, err := s.Transactor.Begin(ctx, db)
	return stoppingTx{tx}, err
}

type stoppingTx struct{ reliable.Tx }

func (tx stoppingTx) Commit(ctx context.Context) error {
	goesOn := make(chan os.Signal, 1)
	signal.Notify(goesOn, syscall.SIGCONT)
	fmt.Println("stops")
	_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	<-goesOn // the signal stops one thread after the other, this one perhaps later
	return tx.Tx.Commit(ctx)
}
