// Package sqlstore is what the SQL stores have in common: which rows an operation reads, what it decides by them and
// what it writes back, in which order it takes locks, and what an error of a database means. The SQL text itself, the
// schema and the driver belong to each store.
//
// # Tables
//
// All names begin with the store's prefix. The outbox holds one row for each envelope. Its column due says when
// something may next be done about the row, in microseconds since 1970 on the database's clock, so that one index on
// (status, due) serves everything: what may be claimed (status 0), compensated (2), or deleted (1, 3, 4: due is when it
// was settled). A claim's whole predicate is therefore one index range, and what must not be claimed is kept out of
// that range by its due: [Parked] waits behind the head of its key, [HeldBase] plus the hold's slot waits behind a held
// topic.
//
// Order per key costs unkeyed envelopes nothing. A keyed envelope is stored parked, with a row in the lane table whose
// number is the order of storing; a business transaction only inserts there, so that two of them never wait for each
// other. The head table has one row for each key that has an unconfirmed envelope at its front; its primary key is what
// makes "one at a time" hold. See promote and advance for how an envelope becomes the head of its key, and why none is
// forgotten.
//
// # Locks
//
// Locks are taken in this order: hold, outbox, head, lane, then the outbox row of a key's next envelope, which nobody
// else has reason to touch. Claims and promotions skip what others have locked. Every transaction of a store's own is
// READ COMMITTED and short, and is repeated when the database broke it off to end a deadlock.
package sqlstore
