//go:build services

package faults

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// fullStore is a database with little room left in it.
type fullStore struct {
	db    *sql.DB
	store reliable.Store
	// makeRoom ends the shortage.
	makeRoom func(t *testing.T)
}

func fullSQLite(t *testing.T) *fullStore {
	t.Helper()
	path := filepath.Join(t.TempDir(), "full.db")
	roomy, err := sqlitestore.Open(t.Context(), path)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, roomy.Close()) })
	var pages int
	require.NoError(t, roomy.DB().QueryRow("PRAGMA page_count").Scan(&pages))
	db, err := sql.Open("sqlite", fmt.Sprintf("file:%s?_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=max_page_count(%d)", path, pages+100))
	require.NoError(t, err)
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	store, err := sqlitestore.New(db)
	require.NoError(t, err)
	return &fullStore{db, store, func(t *testing.T) {
		t.Helper()
		_, err := db.Exec(fmt.Sprintf("PRAGMA max_page_count(%d)", pages+10_000))
		require.NoError(t, err)
	}}
}

func random(size int) []byte {
	content := make([]byte, size)
	_, _ = rand.Read(content) // it never fails
	return content
}

func TestStoreFault_fullSQLiteFailsAtOnceTakesTheBusinessBackAndGoesOnWithRoom(t *testing.T) {
	t.Parallel()
	full := fullSQLite(t)
	_, err := full.db.Exec("CREATE TABLE orders (id VARCHAR(64) PRIMARY KEY)")
	require.NoError(t, err)
	broker := membroker.New()
	t.Cleanup(func() { assert.NoError(t, broker.Close()) })
	outbox, err := tagging.New(full.store, broker, broker, tagging.WithLogger(quiet(t)))
	require.NoError(t, err)
	place := func(id string) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return tagging.InTx(ctx, outbox, full.db, func(tx *sql.Tx, out *tagging.Scope) error {
			if _, err := tx.ExecContext(ctx, insertOf(id)); err != nil {
				return err
			}
			return out.Send(reliable.Envelope{ID: reliable.ID(id), Topic: queue, Payload: random(40 << 10)})
		})
	}
	// Nobody relays meanwhile: what is stored fills the database.
	stored := 0
	for err = nil; err == nil && stored < 2000; {
		if err = place(fmt.Sprintf("o-%d", stored)); err == nil {
			stored++
		}
	}
	require.Error(t, err, "the database must have become full")
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, reliable.ErrUnknown)
	t.Logf("full after %d orders: %v", stored, err)
	published := 0 // the rollback has left room for some
	for err = nil; err == nil && published < 2000; {
		env := reliable.Envelope{Topic: queue, Payload: random(40 << 10)}
		if _, err = outbox.Publish(t.Context(), env); err == nil {
			published++
		}
	}
	require.ErrorIs(t, err, reliable.ErrNotStored)

	full.makeRoom(t)
	require.NoError(t, place(fmt.Sprintf("o-%d", stored)), "the order that was refused must have left nothing behind")
	var orders int
	require.NoError(t, full.db.QueryRow("SELECT count(*) FROM orders").Scan(&orders))
	assert.Equal(t, stored+1, orders)
	report, err := outbox.SweepOnce(t.Context())
	require.NoError(t, err)
	assert.Equal(t, stored+1+published, report.Confirmed)
	assert.Len(t, broker.Delivered(queue), stored+1+published)
}
