// Rabbitmq plays the scenario of the quickstart on servers: the orders and the outbox are in MariaDB, the broker is
// RabbitMQ, and the outage is RabbitMQ really stopped and started again. Only the wiring below differs from the quickstart:
// other adapters are passed on.
//
//	make run-rabbitmq
//
// It makes a database and two queues of its own, and removes them at its end. WAYBILL_TEST_MARIADB (a DSN of
// go-sql-driver/mysql, whose account may create databases) and WAYBILL_TEST_RABBITMQ (an amqp:// URL) name other servers
// than those of `make services-up`; then -stop and -start say how that broker is stopped and started:
//
//	go run ./examples/rabbitmq -stop 'sudo rabbitmqctl stop_app' -start 'sudo rabbitmqctl start_app'
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"time"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	"github.com/go-sql-driver/mysql"
	"github.com/rabbitmq/amqp091-go"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/examples/internal/orders"
	"github.com/waybillmq/waybill/examples/internal/servers"
	"github.com/waybillmq/waybill/reliable"
)

func main() {
	cfg := config{
		mariadb:  servers.Setting("WAYBILL_TEST_MARIADB", "waybill:waybill@tcp(127.0.0.1:13306)/"),
		rabbitmq: servers.Setting("WAYBILL_TEST_RABBITMQ", "amqp://waybill:waybill@127.0.0.1:15720/"),
		plan:     orders.Plan{Outage: 2 * time.Second, Patience: 20 * time.Second},
	}
	flag.IntVar(&cfg.plan.Orders, "orders", 1000, "how many orders to place")
	stop := flag.String("stop", "scripts/services.sh down rabbitmq", "the command that stops the broker")
	start := flag.String("start", "scripts/services.sh up rabbitmq", "the command that starts it, and returns when it answers")
	flag.Parse()
	cfg.stop, cfg.start = servers.Command(*stop), servers.Command(*start)

	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	result, err := run(ctx, cfg, os.Stdout)
	cancel()
	if err = errors.Join(err, result.Err()); err != nil {
		fmt.Fprintln(os.Stderr, "rabbitmq:", err)
		os.Exit(1)
	}
}

type config struct {
	mariadb, rabbitmq string
	stop, start       func(context.Context) error
	plan              orders.Plan
	// wrap puts something between the outbox and the broker; nil puts nothing there.
	wrap func(broker) broker
}

// broker is what the outbox needs of a broker.
type broker interface {
	reliable.Publisher
	reliable.ConfirmSource
}

// run makes a database and a broker connection, and plays the scenario on them.
func run(ctx context.Context, cfg config, out io.Writer) (result orders.Result, err error) {
	cfg.plan.Dir, err = os.MkdirTemp("", "waybill-rabbitmq-")
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(cfg.plan.Dir)) }()
	own := "waybill_example_" + strings.ToLower(string(reliable.NewID()[24:]))

	// The database: the orders and the outbox are in one, made for this run.
	db, drop, err := createDatabase(ctx, cfg.mariadb, own)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	store, err := mysqlstore.New(db)
	if err != nil {
		return result, err
	}
	if err := store.Migrate(ctx); err != nil {
		return result, err
	}

	// The broker: a topic is the name of a durable queue, which the consumer declares. Nobody declares the other one.
	topology := wamqp.NewDurableQueueConfig(cfg.rabbitmq)
	rabbitmq, err := rabbitmqbroker.New(topology, rabbitmqbroker.WithoutDeclaring(),
		rabbitmqbroker.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, rabbitmq.Close()) }()
	consumer, err := rabbitmqbroker.New(topology, rabbitmqbroker.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, consumer.Close()) }()
	shipping, err := consumer.Subscriber(rabbitmqbroker.WithPrefetch(100))
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, shipping.Close()) }()
	topic := own + ".placed"
	defer func() { err = errors.Join(err, deleteQueue(cfg.rabbitmq, topic)) }()

	fmt.Fprintf(out, "MariaDB and RabbitMQ, in database and queue %s\n\n", own)
	var wrapped broker = rabbitmq
	if cfg.wrap != nil {
		wrapped = cfg.wrap(rabbitmq)
	}
	return orders.Run(ctx, orders.Backend{
		DB: db, Store: store,
		Publisher: wrapped, Confirms: wrapped, Subscriber: shipping,
		Topic: topic, Nowhere: own + ".nowhere",
		Stop: cfg.stop, Start: cfg.start,
	}, cfg.plan, out)
}

// createDatabase makes a database of its own on the server of dsn; drop removes it.
func createDatabase(ctx context.Context, dsn, name string) (db *sql.DB, drop func() error, err error) {
	server, err := mysql.ParseDSN(dsn)
	if err != nil {
		return nil, nil, fmt.Errorf("the DSN of MariaDB cannot be parsed: %w", err)
	}
	connector, err := mysql.NewConnector(server)
	if err != nil {
		return nil, nil, err
	}
	admin := sql.OpenDB(connector)
	if _, err := admin.ExecContext(ctx, "CREATE DATABASE "+name); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("create database: %w", err), admin.Close())
	}
	server.DBName = name
	if connector, err = mysql.NewConnector(server); err != nil {
		return nil, nil, errors.Join(err, admin.Close())
	}
	db = sql.OpenDB(connector)
	return db, func() error {
		err := db.Close()
		_, dropped := admin.ExecContext(context.WithoutCancel(ctx), "DROP DATABASE "+name)
		return errors.Join(err, dropped, admin.Close())
	}, nil
}

// deleteQueue removes what the subscriber declared.
func deleteQueue(url, name string) error {
	conn, err := amqp091.Dial(url)
	if err != nil {
		return err
	}
	channel, err := conn.Channel()
	if err == nil {
		_, err = channel.QueueDelete(name, false, false, false)
	}
	return errors.Join(err, conn.Close())
}
