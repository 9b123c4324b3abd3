// Package reliable is the vocabulary of Waybill and the interfaces between its parts.
//
// What the parts promise together: every message of a committed transaction reaches the message broker at least once, as
// long as the database keeps what it committed and the broker keeps what it confirmed; no message of a transaction that
// rolled back is sent; an envelope is [Confirmed] only where the broker took responsibility for it. Duplicates happen, and
// are bounded: copies - 1 <= unknown outcomes + expired leases + resends.
//
// Data flows one way. An [Envelope] is stored in the business transaction through an [Enqueuer]. The relay leases it from
// the [Store] as an [Attempt] and hands it to the [Publisher]; the broker's [Confirm] comes back through the
// [ConfirmSource], and a [Settlement] records what came of it. A [Scheduler] delivers later. That is all an adapter has to
// implement; what else one can do are abilities, small interfaces that [Ability] finds through wrappers.
//
// The package starts no goroutine, holds no global state but the last UUID made, and imports the standard library and
// watermill/message only. The packages storetest, brokertest and schedulertest below it hold the suites by which an adapter
// proves itself.
package reliable
