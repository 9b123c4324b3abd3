//go:build services && soak && linux

package benchmarks

import (
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
)

// counted is a database server of its own that counts the statements and rows of all its clients. No time is measured on
// it, since counting takes some.
type counted struct {
	database
	admin *sql.DB
	read  func(b *testing.B, admin *sql.DB) cost
}

// cost is how many statements a server ran, and how many rows it inserted, updated and deleted.
type cost struct{ statements, rows float64 }

func (c cost) minus(other cost) cost {
	return cost{c.statements - other.statements, c.rows - other.rows}
}

func newCounted(b *testing.B, d database) counted {
	b.Helper()
	c := counted{database: d}
	if d.name == postgres.name {
		dsn := testservers.StartPostgres(b, "shared_preload_libraries = 'pg_stat_statements'").URL()
		c.open = func(b *testing.B) (*sql.DB, reliable.Store) { b.Helper(); return onPostgres(b, dsn) }
		c.admin, c.read = openSQL(b, "pgx", dsn), readPostgres
		_, err := c.admin.Exec("CREATE EXTENSION pg_stat_statements")
		require.NoError(b, err)
	} else {
		dsn := testservers.StartMariaDB(b).DSN()
		c.open = func(b *testing.B) (*sql.DB, reliable.Store) { b.Helper(); return onMariaDB(b, dsn) }
		c.admin, c.read = openSQL(b, "mysql", dsn), readMariaDB
	}
	db, _ := c.open(b) // what is there from now on is no cost of the first variant
	require.NoError(b, db.Close())
	return c
}

// costs counts what each variant costs a message: the first one in all, the others beside the first.
func (c counted) costs(b *testing.B, goroutines, n int) []cost {
	b.Helper()
	nothing := c.count(b, goroutines, func(s shop) { s.empty(b) })
	found := make([]cost, len(variants))
	for i, v := range variants {
		found[i] = c.count(b, goroutines, func(s shop) { v.sell(s, b, n) }).minus(nothing)
	}
	for i := len(found) - 1; i >= 0; i-- {
		if i > 0 {
			found[i] = found[i].minus(found[0])
		}
		found[i].statements /= float64(n)
		found[i].rows /= float64(n)
	}
	return found
}

// count tells what a shop cost from its opening to its end.
func (c counted) count(b *testing.B, goroutines int, sell func(s shop)) cost {
	b.Helper()
	before := c.read(b, c.admin)
	s := openShop(b, c.database, goroutines)
	sell(s)
	require.NoError(b, s.db.Close())
	s.to.close()
	spent := c.read(b, c.admin).minus(before)
	_, err := c.admin.Exec("DROP TABLE business")
	require.NoError(b, err)
	return spent
}

func readMariaDB(b *testing.B, admin *sql.DB) (c cost) {
	b.Helper()
	rows, err := admin.Query(`SHOW GLOBAL STATUS WHERE Variable_name IN ('Questions', 'Handler_write', 'Handler_update', 'Handler_delete')`)
	require.NoError(b, err)
	defer rows.Close()
	for rows.Next() {
		var name string
		var value float64
		require.NoError(b, rows.Scan(&name, &value))
		if name == "Questions" {
			c.statements = value
		} else {
			c.rows += value
		}
	}
	require.NoError(b, rows.Err())
	return c
}

// readPostgres waits until all others are gone: what they counted is complete then.
func readPostgres(b *testing.B, admin *sql.DB) (c cost) {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		var others int
		require.NoError(b, admin.QueryRow("SELECT /* count */ count(*) FROM pg_stat_activity "+
			"WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()").Scan(&others))
		if others == 0 {
			break
		}
		require.True(b, time.Now().Before(deadline), "clients stay connected")
	}
	require.NoError(b, admin.QueryRow("SELECT /* count */ coalesce(sum(calls), 0) FROM pg_stat_statements "+
		"WHERE query NOT LIKE '%/* count */%'").Scan(&c.statements))
	require.NoError(b, admin.QueryRow("SELECT /* count */ coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) "+
		"FROM pg_stat_user_tables").Scan(&c.rows))
	return c
}
