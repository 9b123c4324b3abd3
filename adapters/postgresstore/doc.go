// Package postgresstore keeps envelopes in PostgreSQL (12 or newer), in the business database.
//
// An envelope that was stored in a business transaction is there if and only if that transaction committed. Any number
// of processes store and relay side by side: a claim skips what another one has locked, takes rows for a lease and
// commits before anything is sent, so no lock is held while talking to a broker.
//
// The store works on a *sql.DB ([New]), whose driver must be pgx (github.com/jackc/pgx/v5/stdlib, because lists are
// passed as arrays), or on a *pgxpool.Pool ([NewPgx]). Business transactions may be of either kind, whatever the store
// itself was made with; see [Store.WithTx] and [Store.WithPgxTx]. At REPEATABLE READ or above, storing an ID a second
// time may fail the business transaction with a serialization error; at READ COMMITTED, the default, it is skipped.
//
// The tables change a lot. Autovacuum is set to keep up; what defeats it is a transaction that somebody leaves open for
// hours, anywhere in the database. Wake-ups travel by NOTIFY, sent on its own after the commit and never with a
// payload; a relay that waits for one holds one connection for as long as it waits.
package postgresstore
