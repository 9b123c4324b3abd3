// Package orders is a small shop, the scenario that several examples run over different databases and brokers.
//
// Orders are placed in business transactions from several goroutines, each with its message. In the middle of it the
// broker is stopped, while orders go on being placed, and started again. One order's message goes to a topic that nobody
// can route, and one transaction rolls back. A consumer writes one row per receipt into a log of its own. When all is
// quiet, the committed orders are compared with that log: the numbers come from the outside, not from the outbox.
//
// A [Backend] is all that differs between SQLite with NATS and MariaDB with RabbitMQ; shop.go is the code that a user of
// Waybill would write.
package orders
