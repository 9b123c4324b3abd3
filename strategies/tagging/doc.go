// Package tagging is the strategy that stores a message beside the business data and tags its row with what came of it.
//
// Guarantees. A message of a committed transaction is delivered to the broker at least once; one of a transaction that
// rolled back is never sent. Its status is 1 (confirmed) only where the broker confirmed it and did not return it. An
// outage, of the broker or of the database, never turns messages into failed ones: only definite refusals count, and what
// is wrong with a destination is held apart from what is wrong with a message. Messages with one Topic and Key are first
// delivered in the order in which they were stored, for transactions that did not overlap. Duplicates happen when an
// outcome is unknown or a lease runs out, with the same ID, for the consumer to recognise.
//
// Sending, three ways, each of which fails fast: an error means that nothing was stored and nothing is sent, the one
// exception being an error that is [reliable.ErrUnknown] (the answer to a COMMIT was cut off: repeat with the same IDs).
//
//   - [InTx] runs business writes and messages in one transaction and hands the messages to the broker from memory right
//     after COMMIT.
//   - [Sender.Send] stores messages in a transaction that the caller owns; the relay picks them up.
//   - [Sender.Publish] stores messages without a business transaction, many callers in one statement, and gives a
//     [Receipt] on which the outcome can be awaited.
//
// An [Outbox] sends and, in [Outbox.Run], relays: what it leased itself, and what no other process of the fleet settles.
// A process that only stores uses a [Sender]. [Outbox.SweepOnce] makes one pass, for cron.
package tagging
