// Package testservers starts servers that belong to one test, which may kill, pause and restart them: RabbitMQ, Kafka, MariaDB
// and PostgreSQL from the programs that `make services-up` installs. Tests that only need a server use testenv.
//
// Each listens on loopback only, with ports and data of its own, and syncs to disk as it would in production, so several
// may run at once and what they confirmed must survive Kill. However the test ends, even killed itself, its servers end
// with it.
//
// It works on Linux only, where it finds and signals all processes of a server. Methods of one server are to be called
// one at a time, from the test's own goroutine: they fail the test when the server does not do as it is told.
package testservers
