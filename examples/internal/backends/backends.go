// Package backends is what the examples link that run on any database and broker: the adapters, opened by URL, and what the
// delayed check needs of them that no URL says.
package backends

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

// What a binary can run on. A program links the adapters that it lists.
var (
	Stores  = backend.Stores{mysqlstore.Backend(), postgresstore.Backend(), sqlitestore.Backend()}
	Brokers = backend.Brokers{
		rabbitmqbroker.Backend(), kafkabroker.Backend(), natsbroker.Backend(), embedded.Backend(), sqlbroker.Backend(),
	}
)

// Database returns the database of an opened store.
func Database(store backend.Store) (*sql.DB, error) {
	lender, ok := reliable.Ability[backend.SQL](store)
	if !ok {
		return nil, errors.New("the store lends no database")
	}
	return lender.DB(), nil
}

// Exec runs a statement on the store's database, outside of transactions.
func Exec(ctx context.Context, store backend.Store, statement string, args ...any) (sql.Result, error) {
	db, err := Database(store)
	if err != nil {
		return nil, err
	}
	return db.ExecContext(ctx, Query(store, statement), args...)
}

// DatabaseURL is the URL of another database on the same server.
func DatabaseURL(server, name string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", fmt.Errorf("a database's URL cannot be parsed: %s", backend.Redact(server))
	}
	u.Path = "/" + name
	return u.String(), nil
}

// MakeDatabase makes another database on the server and returns its URL.
func MakeDatabase(ctx context.Context, server, name string) (made string, err error) {
	if made, err = DatabaseURL(server, name); err != nil {
		return "", err
	}
	store, err := Stores.Open(ctx, server)
	if err != nil {
		return "", err
	}
	_, err = Exec(ctx, store, "CREATE DATABASE "+name)
	return made, errors.Join(err, store.Close())
}

// Query writes a statement's placeholders, each a question mark, as the store's database wants them.
func Query(store backend.Store, statement string) string {
	if _, numbered := reliable.Ability[*postgresstore.Store](store); !numbered {
		return statement
	}
	parts := strings.Split(statement, "?")
	var out strings.Builder
	for i, part := range parts {
		if i > 0 {
			fmt.Fprintf(&out, "$%d", i)
		}
		out.WriteString(part)
	}
	return out.String()
}

// WitnessOf returns who tells whether a transaction on the store's database committed, and writes nothing for it.
// PostgreSQL knows its transactions; elsewhere the row is looked at that each of them inserts into table. It has the
// message's ID in column, a unique key, and nothing deletes it.
func WitnessOf(store backend.Store, table, column string) (reliable.Witness, error) {
	db, err := Database(store)
	if err != nil {
		return nil, err
	}
	if _, ok := reliable.Ability[*postgresstore.Store](store); ok {
		return postgresstore.NewWitness(db)
	}
	row := mysqlstore.WitnessRow{Table: table, Column: column, Promise: mysqlstore.RowPromise{
		TransactionInserts: true, KeyIsUnique: true, NeverDeletedInTime: true, SameWritableNode: true, IDDerivesFromRow: true,
	}}
	if _, ok := reliable.Ability[*mysqlstore.Store](store); ok {
		return mysqlstore.NewRowWitness(db, row)
	}
	return sqlitestore.NewRowWitness(db, row)
}
