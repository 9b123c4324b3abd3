//go:build services

package faults

import (
	"context"
	"database/sql"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

// database is where orders and messages are kept; a child process gets it as JSON.
type database struct {
	Driver string // mysql or pgx
	DSN    string
	Roomy  bool // stores metadata that no broker takes
}

func mariaDB(t testing.TB) database  { return database{Driver: "mysql", DSN: testenv.MariaDB(t)} }
func postgres(t testing.TB) database { return database{Driver: "pgx", DSN: testenv.Postgres(t)} }

// databases are the makers of the shared servers' databases, by name.
var databases = map[string]func(testing.TB) database{"mariadb": mariaDB, "postgres": postgres}

func (d database) kind() string {
	if d.Driver == "pgx" {
		return "postgres"
	}
	return "mariadb"
}

// open connects and brings the tables up to date.
func (d database) open(ctx context.Context) (*sql.DB, reliable.Store, error) {
	db, err := sql.Open(d.Driver, d.DSN)
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(20)
	db.SetMaxIdleConns(20)
	limits := reliable.DefaultLimits()
	if d.Roomy {
		limits.Metadata = 1 << 20
	}
	if d.Driver == "pgx" {
		store, err := postgresstore.New(db, postgresstore.WithLimits(limits))
		if err != nil {
			return nil, nil, err
		}
		return db, store, store.Migrate(ctx)
	}
	store, err := mysqlstore.New(db, mysqlstore.WithLimits(limits))
	if err != nil {
		return nil, nil, err
	}
	return db, store, store.Migrate(ctx)
}
