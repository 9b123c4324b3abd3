//go:build services && soak

package benchmarks

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// fill stores n messages, all like the one that the store itself stores first, which takes a database seconds for a million.
// Settled ones are confirmed.
func fill(b *testing.B, d database, db *sql.DB, store reliable.Store, n int, settled bool) {
	b.Helper()
	ctx := context.Background()
	env := reliable.Envelope{ID: reliable.NewID(), Topic: topic, Payload: make([]byte, payloadBytes)}
	req := reliable.EnqueueRequest{Worker: "a-host/12345/0123456789ab"}
	if settled {
		req.Lease = time.Minute
	}
	stored, err := store.Enqueue(ctx, req, env)
	require.NoError(b, err)
	if settled {
		confirm(b, store, []reliable.Attempt{stored[0].Attempt})
	}

	others := strings.Join(otherColumns(b, db), ", ")
	for done := 1; done < n; done += numbered {
		// The IDs are as long as others, and in the order in which they are stored.
		_, err := db.Exec(fmt.Sprintf(`
INSERT INTO waybill_outbox (id, %s)
SELECT CONCAT('%s', LPAD(CAST(number AS CHAR(12)), 12, '0')), %s FROM waybill_outbox CROSS JOIN (%s) numbers
WHERE id = '%s' AND number < %d`, others, env.ID[:24], others, numbers(done), env.ID, n))
		require.NoError(b, err)
	}
	tidy(b, d, db)
}

// tidy does what a database would do by itself before long, in the middle of what is measured.
func tidy(b *testing.B, d database, db *sql.DB) {
	b.Helper()
	statement := "ANALYZE TABLE waybill_outbox"
	if d.name == postgres.name {
		statement = "VACUUM (ANALYZE) waybill_outbox"
	}
	_, err := db.Exec(statement)
	require.NoError(b, err)
}

// onDisk is how many bytes the outbox takes, indexes included.
func (d database) onDisk(b *testing.B, db *sql.DB) (bytes int64) {
	b.Helper()
	tidy(b, d, db) // MariaDB knows by that
	query := "SELECT data_length + index_length FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'waybill_outbox'"
	if d.name == postgres.name {
		query = "SELECT pg_total_relation_size('waybill_outbox')"
	}
	require.NoError(b, db.QueryRow(query).Scan(&bytes))
	return bytes
}

// numbered is how many rows numbers has.
const numbered = 100_000

// numbers is a query for the numbers from first on, in SQL that all databases have.
func numbers(first int) string {
	digits := "(SELECT 0 AS n"
	for digit := 1; digit < 10; digit++ {
		digits += fmt.Sprint(" UNION ALL SELECT ", digit)
	}
	digits += ")"
	return fmt.Sprintf("SELECT %d + a.n + 10 * b.n + 100 * c.n + 1000 * d.n + 10000 * e.n AS number "+
		"FROM %[2]s a CROSS JOIN %[2]s b CROSS JOIN %[2]s c CROSS JOIN %[2]s d CROSS JOIN %[2]s e", first, digits)
}

// otherColumns are all columns of the outbox but the id.
func otherColumns(b *testing.B, db *sql.DB) []string {
	b.Helper()
	rows, err := db.Query("SELECT * FROM waybill_outbox WHERE id = ''") //nolint:unqueryvet // which columns there are is the question
	require.NoError(b, err)
	defer rows.Close()
	columns, err := rows.Columns()
	require.NoError(b, err)
	var others []string
	for _, column := range columns {
		if column != "id" {
			others = append(others, column)
		}
	}
	require.NoError(b, rows.Err())
	return others
}
