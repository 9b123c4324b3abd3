//go:build linux

package main

import (
	"path/filepath"

	"github.com/go-sql-driver/mysql"

	"github.com/waybillmq/waybill/internal/testservers"
)

// row is one combination.
type row struct {
	name  string // broker + store
	stage func(t testservers.T, dir string) stage
}

// stage is what a row runs on.
type stage struct {
	storeURL, brokerURL string
	// broker is the server that is stopped and started; nil if it runs inside the binary.
	broker server
}

// server is a testservers one.
type server interface {
	Start()
	Stop()
}

// rows are all combinations. Every server is made for its row, and ends with it; where the broker is a database, it is
// another server than the store's.
func rows() []row {
	return []row{
		{"RabbitMQ+MariaDB", on(mariaDB, rabbitMQ)},
		{"RabbitMQ+PostgreSQL", on(postgreSQL, rabbitMQ)},
		{"Kafka+MariaDB", on(mariaDB, kafka)},
		{"Kafka+PostgreSQL", on(postgreSQL, kafka)},
		{"MariaDB+MariaDB", on(mariaDB, mariaDB)},
		{"MariaDB+PostgreSQL", on(postgreSQL, mariaDB)},
		{"PostgreSQL+MariaDB", on(mariaDB, postgreSQL)},
		{"PostgreSQL+PostgreSQL", on(postgreSQL, postgreSQL)},
		{"RabbitMQ+SQLite", on(sqlite, rabbitMQ)},
		{"Kafka+SQLite", on(sqlite, kafka)},
		{"MariaDB+SQLite", on(sqlite, mariaDB)},
		{"PostgreSQL+SQLite", on(sqlite, postgreSQL)},
		{"NATS+MariaDB", on(mariaDB, nats)},
		{"NATS+PostgreSQL", on(postgreSQL, nats)},
		{"NATS+SQLite", on(sqlite, nats)},
	}
}

// maker starts a server and returns its URL. What runs inside the binary keeps its data in dir, and has no server.
type maker func(t testservers.T, dir string) (string, server)

func on(store, broker maker) func(testservers.T, string) stage {
	return func(t testservers.T, dir string) stage {
		storeURL, _ := store(t, dir)
		brokerURL, server := broker(t, dir)
		return stage{storeURL, brokerURL, server}
	}
}

func mariaDB(t testservers.T, _ string) (string, server) {
	s := testservers.StartMariaDB(t)
	config, err := mysql.ParseDSN(s.DSN())
	if err != nil {
		t.Fatalf("parse the DSN: %v", err)
	}
	return "mariadb://" + config.User + ":" + config.Passwd + "@" + config.Addr + "/" + config.DBName, s
}

func postgreSQL(t testservers.T, _ string) (string, server) {
	s := testservers.StartPostgres(t)
	return s.URL(), s
}

func rabbitMQ(t testservers.T, _ string) (string, server) {
	s := testservers.StartRabbitMQ(t)
	return s.URL() + "?groups=shipping&queue_type=quorum", s
}

func kafka(t testservers.T, _ string) (string, server) {
	s := testservers.StartKafka(t)
	return "kafka://" + s.Addr() + "?partitions=4", s
}

func sqlite(_ testservers.T, dir string) (string, server) {
	return "sqlite:" + filepath.Join(dir, "orders.db"), nil
}

func nats(_ testservers.T, dir string) (string, server) {
	return "nats-embedded:" + filepath.Join(dir, "nats"), nil
}
