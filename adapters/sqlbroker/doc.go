// Package sqlbroker publishes to tables of MySQL, MariaDB or PostgreSQL and consumes from them, by watermill-sql.
//
// What it promises. Every attempt that [Broker.Publish] hands over has exactly one confirm, whatever happens to the
// connection. Acked means that the transaction that stored the message committed. Returned means that the topic has no
// table of this package's, or none that this user may write to. Rejected means that the message itself can never be
// stored: too large, or its topic can be no table. Nacked means that no room is left on the server's disk. Everything
// else is Unknown: a connection that died with the transaction open, an answer to COMMIT that was cut off, a lock that
// was not given in time. Nothing is handed over while the database cannot be reached.
//
// Messages of one topic arrive in the order in which one Broker was given them. Different topics do not wait for each
// other.
//
// In one transaction with the outbox. If the outbox is in the same database, the message is stored and its envelope is
// confirmed by one transaction (see [reliable.Joiner]): then no crash makes the relay send a message twice. The databases
// are compared by what their servers say of themselves, so different users, pools and addresses make no difference. It
// is not so, and the ordinary rules hold, on releases of MariaDB that have no server_uid, and for a user of PostgreSQL
// who may not call pg_control_system.
//
// The tables are watermill-sql's, named "watermill_" and the topic, with a payload of LONGBLOB or BYTEA in place of JSON and room
// for IDs of any shape. Its own publishers and subscribers work on them, best with [Adapters]. Tables must exist: make
// them by [Broker.Declare] or print them by [Schema]. Topics are of letters, digits and - $ : . _, with at most 45 bytes.
// Nobody deletes what was consumed: delete rows below the smallest offset_acked of the topic's offsets table yourself.
//
// [Broker.Scheduler] keeps messages in the database until they are due, and then moves them into their topic's table.
//
// What watermill-sql's subscriber costs. It keeps a transaction open while its messages are handled, REPEATABLE READ on
// PostgreSQL and SERIALIZABLE on MySQL; both are what it needs to lose nothing, and are not lowered here.
//
//   - On MySQL it never comes back for a message that commits after one with a higher offset, as messages of concurrent
//     writers do. So brokers of this package write to a topic one at a time; watermill-sql's own publishers do not.
//   - On MySQL it locks the end of the topic if it read up to there, and publishers wait for the handlers. Subscribers of
//     this package read one message at a time by default, and then nobody waits; see [WithFetch]. For others the broker
//     waits for half of its confirm timeout, and the attempt is tried again: Unknown, and charged to nobody.
//   - On PostgreSQL a subscriber sees nothing that is newer than the oldest transaction that writes, anywhere on the
//     server: a handler that takes its time, or a report that was left open, delays all topics. See [WithAckDeadline].
//   - A message that is nacked is delivered again until it is acked, and its topic waits. Give it up in the handler, to a
//     poison queue.
//
// Both drivers are linked. SQLite is not among the databases: watermill-sql has no adapter for it.
package sqlbroker
