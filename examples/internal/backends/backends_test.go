package backends

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/reliable/backend"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// onPostgres is a store whose adapter is PostgreSQL's.
type onPostgres struct {
	backend.Store
	store *postgresstore.Store
}

func (o onPostgres) Unwrap() any { return o.store }

func TestQuery_writesPlaceholdersAsTheDatabaseWantsThem(t *testing.T) {
	const statement = `INSERT INTO orders (id, quantity) VALUES (?, ?)`
	assert.Equal(t, `INSERT INTO orders (id, quantity) VALUES ($1, $2)`, Query(onPostgres{store: &postgresstore.Store{}}, statement))
	store, err := Stores.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "shop.db"))
	require.NoError(t, err)
	assert.Equal(t, statement, Query(store, statement))
	require.NoError(t, store.Close())
}

func TestDatabaseURL_keepsAllButTheDatabase(t *testing.T) {
	other, err := DatabaseURL("postgres://shop:s%2Fcret@host:5432/postgres?sslmode=disable", "orders")
	require.NoError(t, err)
	assert.Equal(t, "postgres://shop:s%2Fcret@host:5432/orders?sslmode=disable", other)
	_, err = DatabaseURL("postgres://shop:s3cret@ho st/postgres", "orders")
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "s3cret")
}

// A broker that moves nothing itself has its Run wait, as the others' do.
func TestDelay_runsUntilItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- (&Delay{}).Run(ctx) }()
	cancel()
	require.NoError(t, <-ran)
	require.NoError(t, (&Delay{}).Close())
}
