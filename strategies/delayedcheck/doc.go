// Package delayedcheck delivers the messages of business transactions reliably without a message row in the producer.
//
// Guarantees, as long as the broker keeps what it confirmed and the database what it committed:
//
//   - At least once for every committed transaction: a durable check of each message exists before the transaction commits,
//     and a check ends only by the processed confirms of all consumer groups that it names, by a transaction that certainly
//     aborted, or as a failed request that operators see.
//   - Nothing is sent of a transaction that certainly did not commit, by whatever follows a check.
//   - Copies - 1 <= unknown outcomes + resends.
//
// A [Sender] schedules the checks of a transaction, commits, and sends. A consumer confirms what it has processed (package
// middleware). A [Service], the callback service, keeps the confirms in its ledger, and when a check comes due without them
// has a [Resender] ask the witness of the transaction and send again.
package delayedcheck
