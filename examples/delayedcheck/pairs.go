package main

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/waybillmq/waybill/examples/internal/servers"
)

// pair is a broker and a database server: all that differs from one run to another. Everything behind it opens what these
// URLs name.
type pair struct {
	name string // broker+database
	// database is the URL of a database on the server in which each process is given one of its own; empty for SQLite files.
	database string
	// broker is the URL of the broker; empty for the embedded one, in a process of its own.
	broker string
	// stop and start are the broker's; nil for the embedded one.
	stop, start func(ctx context.Context) error
	// delay is when checks come due. What takes longer than that is sent again, so it should outlast an outage.
	delay time.Duration
}

// embeddedPair needs nothing installed.
var embeddedPair = pair{name: "NATS+SQLite", delay: 4 * time.Second}

// serverDelay outlasts the restart of a server, and Kafka's wait of ten seconds for a consumer that was killed.
const serverDelay = 15 * time.Second

// serverPair is a pair on the servers of `make services-up`, or on those that the variables of `scripts/services.sh env`
// name.
type serverPair struct {
	name, service string // the service that is stopped and started
	urls          func() (database, broker string, err error)
}

var serverPairs = []serverPair{
	{"RabbitMQ+MariaDB", "rabbitmq", func() (database, broker string, err error) {
		database, err = mariaDBURL(servers.Setting("WAYBILL_TEST_MARIADB", "waybill:waybill@tcp(127.0.0.1:13306)/"))
		return database, rabbitMQURL(servers.Setting("WAYBILL_TEST_RABBITMQ", "amqp://waybill:waybill@127.0.0.1:15720/")), err
	}},
	{"Kafka+PostgreSQL", "kafka", func() (database, broker string, err error) {
		return postgreSQLURL(), kafkaURL(servers.Setting("WAYBILL_TEST_KAFKA", "127.0.0.1:15730")), nil
	}},
	// One server is both: when it is stopped, nothing can be committed either.
	{"PostgreSQL+PostgreSQL", "postgres", func() (database, broker string, err error) {
		return postgreSQLURL(), postgreSQLURL(), nil
	}},
}

func postgreSQLURL() string {
	return servers.Setting("WAYBILL_TEST_POSTGRES", "postgres://waybill:waybill@127.0.0.1:15432/postgres?sslmode=disable")
}

// rabbitMQURL adds to a server's URL what the example wants of it: queues that live on several nodes, where there are any,
// and several messages at a time for each consumer.
func rabbitMQURL(server string) string { return server + "?queue_type=quorum&concurrency=16" }

func kafkaURL(address string) string { return "kafka://" + address + "?partitions=4" }

// mariaDBURL makes a URL of a DSN of go-sql-driver/mysql.
func mariaDBURL(dsn string) (string, error) {
	config, err := mysql.ParseDSN(dsn)
	if err != nil {
		return "", fmt.Errorf("the DSN of MariaDB cannot be parsed: %w", err)
	}
	u := url.URL{Scheme: "mariadb", User: url.UserPassword(config.User, config.Passwd), Host: config.Addr, Path: "/mysql"}
	return u.String(), nil
}

func pairNames() string {
	names := []string{embeddedPair.name}
	for _, p := range serverPairs {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}

// choose returns the pairs whose names are given, separated by commas. stop and start are commands, for a shell; the name of
// a service is appended.
func choose(names, stop, start string) (chosen []pair, err error) {
	for name := range strings.SplitSeq(names, ",") {
		if name == embeddedPair.name {
			chosen = append(chosen, embeddedPair)
			continue
		}
		at := slices.IndexFunc(serverPairs, func(p serverPair) bool { return p.name == name })
		if at < 0 {
			return nil, fmt.Errorf("there is no %q to run on; possible are %s", name, pairNames())
		}
		p := pair{
			name: name, delay: serverDelay,
			stop: servers.Command(stop + " " + serverPairs[at].service), start: servers.Command(start + " " + serverPairs[at].service),
		}
		if p.database, p.broker, err = serverPairs[at].urls(); err != nil {
			return nil, err
		}
		chosen = append(chosen, p)
	}
	return chosen, nil
}
