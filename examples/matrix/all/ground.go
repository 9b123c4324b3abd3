//go:build linux

package main

import (
	"context"
	"path/filepath"
	"sync"

	"github.com/go-sql-driver/mysql"

	"github.com/waybillmq/waybill/examples/internal/backends"
	"github.com/waybillmq/waybill/internal/testservers"
)

// ground is what the rows run on. Each server is started when it is first asked for, and serves all rows: those that are
// brokers one row at a time, since it stops them. It is safe for concurrent use.
type ground struct {
	h   *hall
	dir string

	storeMariaDB, brokerMariaDB   func() *testservers.MariaDB
	storePostgres, brokerPostgres func() *testservers.Postgres
	rabbit                        func() *testservers.RabbitMQ
	kafkaNode                     func() *testservers.Kafka
}

func newGround(h *hall, dir string) *ground {
	mariaDB := func() *testservers.MariaDB { return testservers.StartMariaDB(h) }
	postgres := func() *testservers.Postgres { return testservers.StartPostgres(h) }
	return &ground{
		h: h, dir: dir,
		storeMariaDB: sync.OnceValue(mariaDB), brokerMariaDB: sync.OnceValue(mariaDB),
		storePostgres: sync.OnceValue(postgres), brokerPostgres: sync.OnceValue(postgres),
		rabbit:    sync.OnceValue(func() *testservers.RabbitMQ { return testservers.StartRabbitMQ(h) }),
		kafkaNode: sync.OnceValue(func() *testservers.Kafka { return testservers.StartKafka(h) }),
	}
}

func (g *ground) mariaDB(own string) string    { return g.database(g.mariaDBURL(g.storeMariaDB()), own) }
func (g *ground) postgreSQL(own string) string { return g.database(g.storePostgres().URL(), own) }
func (g *ground) sqlite(own string) string     { return "sqlite:" + filepath.Join(g.dir, own+".db") }

func (g *ground) mariaDBBroker(own string) (string, server) {
	s := g.brokerMariaDB()
	return g.database(g.mariaDBURL(s), own), s
}

func (g *ground) postgreSQLBroker(own string) (string, server) {
	s := g.brokerPostgres()
	return g.database(s.URL(), own), s
}

// What is made on these two has a name of the run's own.
func (g *ground) rabbitMQ(string) (string, server) {
	s := g.rabbit()
	return s.URL() + "?groups=shipping&queue_type=quorum", s
}

func (g *ground) kafka(string) (string, server) {
	s := g.kafkaNode()
	return "kafka://" + s.Addr() + "?partitions=4", s
}

// nats runs inside the binary, which stops and starts it itself.
func (g *ground) nats(own string) (string, server) {
	return "nats-embedded:" + filepath.Join(g.dir, own+".nats"), nil
}

// database makes a database of one play's own.
func (g *ground) database(serverURL, own string) string {
	made, err := backends.MakeDatabase(context.Background(), serverURL, own)
	if err != nil {
		g.h.Fatalf("make database %s: %v", own, err)
	}
	return made
}

func (g *ground) mariaDBURL(s *testservers.MariaDB) string {
	config, err := mysql.ParseDSN(s.DSN())
	if err != nil {
		g.h.Fatalf("parse the DSN: %v", err)
	}
	return "mariadb://" + config.User + ":" + config.Passwd + "@" + config.Addr + "/" + config.DBName
}
