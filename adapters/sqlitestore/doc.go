// Package sqlitestore keeps envelopes in SQLite, beside the business data of a program that needs no database server.
//
// An envelope that was stored in a business transaction is there if and only if that transaction committed, after a
// crash of the process or the machine too (see [WithSynchronousNormal] for the exception one may choose). Every process
// that opens the file may store and relay; SQLite has one writer at a time, so the store keeps its transactions short
// and never writes when there is nothing to do.
//
// [Open] is the short way: it opens the file, sets it up and creates the tables. [New] takes a database that the
// program has opened with the driver of modernc.org/sqlite, which is pure Go. Business transactions are of the same
// database file, begun through the store, or by hand and bound with [Store.WithTx].
//
// Wake-ups reach the relays on the same *sql.DB, in the same process; relays of other processes find out when they
// look.
package sqlitestore
