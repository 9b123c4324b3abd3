//go:build services

package postgresstore_test

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

var stores = backend.Stores{postgresstore.Backend()}

func TestBackend_opensAStoreOnAServer(t *testing.T) {
	u := serverURL(t)
	u.RawQuery += "&table_prefix=shop_&pool=3"
	store, err := stores.Open(t.Context(), u.String())
	require.NoError(t, err)

	checker, ok := reliable.Ability[reliable.Checker](store)
	require.True(t, ok)
	require.ErrorIs(t, checker.Check(t.Context()), reliable.ErrSchema, "opening migrated")
	migrator, ok := reliable.Ability[backend.Migrator](store)
	require.True(t, ok)
	require.NoError(t, migrator.Migrate(t.Context()))
	pinger, ok := reliable.Ability[backend.Pinger](store)
	require.True(t, ok)
	require.NoError(t, pinger.Ping(t.Context()))

	transactor, ok := reliable.Ability[reliable.Transactor](store)
	require.True(t, ok, "the store's abilities are hidden")
	db, ok := reliable.Ability[backend.SQL](store)
	require.True(t, ok)
	assert.Equal(t, 3, db.DB().Stats().MaxOpenConnections)
	tx, err := db.DB().BeginTx(t.Context(), nil)
	require.NoError(t, err)
	enqueuer, err := transactor.Bind(tx)
	require.NoError(t, err)
	stored, err := enqueuer.Enqueue(t.Context(), reliable.EnqueueRequest{},
		reliable.Envelope{ID: "a", Topic: "orders", Payload: []byte{0, 255}})
	require.NoError(t, err)
	assert.True(t, stored[0].New)
	require.NoError(t, tx.Commit())

	require.NoError(t, store.Close())
	require.Error(t, db.DB().PingContext(t.Context()), "the database is still open")
}

func TestBackend_neverTellsThePassword(t *testing.T) {
	for name, change := range map[string]func(u *url.URL){
		"wrong password":  func(u *url.URL) { u.User = url.UserPassword(u.User.Username(), "s3cret/wrong") },
		"no such user":    func(u *url.URL) { u.User = url.UserPassword("nobody", "s3cret/wrong") },
		"no such host":    func(u *url.URL) { u.User, u.Host = url.UserPassword("shop", "s3cret/wrong"), "nowhere.invalid" },
		"nobody listens":  func(u *url.URL) { u.User, u.Host = url.UserPassword("shop", "s3cret/wrong"), "127.0.0.1:1" },
		"another service": func(u *url.URL) { u.User, u.Host = url.UserPassword("shop", "s3cret/wrong"), "127.0.0.1:15720" },
	} {
		t.Run(name, func(t *testing.T) {
			u := serverURL(t)
			change(u)
			u.RawQuery += "&timeout=3s"
			store, err := stores.Open(t.Context(), u.String())
			if err == nil {
				require.NoError(t, store.Close())
			}
			require.Error(t, err)
			t.Log(err)
			assert.NotContains(t, err.Error(), "s3cret")
			assert.NotErrorIs(t, err, reliable.ErrInvalid)
		})
	}
}

func serverURL(t *testing.T) *url.URL {
	t.Helper()
	u, err := url.Parse(testenv.Postgres(t))
	require.NoError(t, err)
	return u
}
