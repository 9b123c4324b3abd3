//go:build linux

package main

// row is one combination.
type row struct {
	name   string // broker + store
	store  func(g *ground, own string) string
	broker func(g *ground, own string) (string, server)
}

// server is a testservers one.
type server interface {
	Start()
	Stop()
}

// lanes are all combinations, those with the same broker together: they have a server in common, which each of them stops and
// starts. Where the broker is a database, it is another server than the store's.
func lanes() [][]row {
	var all [][]row
	for _, broker := range []struct {
		name string
		open func(g *ground, own string) (string, server)
	}{
		{"RabbitMQ", (*ground).rabbitMQ}, {"Kafka", (*ground).kafka}, {"MariaDB", (*ground).mariaDBBroker},
		{"PostgreSQL", (*ground).postgreSQLBroker}, {"NATS", (*ground).nats},
	} {
		all = append(all, []row{
			{broker.name + "+MariaDB", (*ground).mariaDB, broker.open},
			{broker.name + "+PostgreSQL", (*ground).postgreSQL, broker.open},
			{broker.name + "+SQLite", (*ground).sqlite, broker.open},
		})
	}
	return all
}

// strategies are what every combination is played with.
var strategies = []string{"tagging", "delayedcheck"}
