// Package mysqlstore keeps envelopes in MySQL (8.0 or newer) or MariaDB (10.6 or newer), in the business database.
//
// An envelope that was stored in a business transaction is there if and only if that transaction committed. Any number
// of processes store and relay side by side: a claim skips what another one has locked, takes rows for a lease and
// commits before anything is sent, so no lock is held while talking to a broker. The store's own transactions are READ
// COMMITTED, so the server's binlog_format must be ROW or MIXED; the business transactions may have any isolation.
//
// The driver is github.com/go-sql-driver/mysql. Recommended in its DSN, besides time-outs:
//
//	interpolateParams=true      one round trip for a statement, not two: without it, each is prepared first
//	collation=utf8mb4_general_ci (the driver's default) or any other of utf8mb4
//	timeout=5s                  so that a server that cannot be reached fails fast
//	readTimeout, writeTimeout   above the longest business statement, as a last resort behind contexts
//
// Everything works without these, slower. IDs, topics and keys are compared byte by byte whatever the collation.
//
// A payload must fit the server's max_allowed_packet with the rest of its statement (MariaDB's default is 16 MiB;
// escaping can double its size). Storing an ID a second time leaves a shared lock on its row until the business
// transaction ends. After a deadlock the server has rolled the whole business transaction back; a transaction that the
// store began refuses to commit then.
//
// Wake-ups reach the relays on the same *sql.DB, in the same process; relays of other processes find out when they
// look.
package mysqlstore
