package servertest

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

// Backend is how a store is opened by its URL.
type Backend struct {
	Stores backend.Stores
	// URL is that of an empty database on the server, with at least one parameter.
	URL func(t testing.TB) *url.URL
}

// RunBackend runs the suite of what is opened by a URL.
func RunBackend(t *testing.T, b Backend) {
	t.Run("it opens a store", b.opens)
	t.Run("it never tells the password", b.keepsThePassword)
}

func (b Backend) opens(t *testing.T) {
	u := b.URL(t)
	u.RawQuery += "&table_prefix=shop_&pool=3"
	store, err := b.Stores.Open(t.Context(), u.String())
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

func (b Backend) keepsThePassword(t *testing.T) {
	for name, change := range map[string]func(u *url.URL){
		"wrong password":  func(u *url.URL) { u.User = url.UserPassword(u.User.Username(), "s3cret/wrong") },
		"no such user":    func(u *url.URL) { u.User = url.UserPassword("nobody", "s3cret/wrong") },
		"no such host":    func(u *url.URL) { u.User, u.Host = url.UserPassword("shop", "s3cret/wrong"), "nowhere.invalid" },
		"nobody listens":  func(u *url.URL) { u.User, u.Host = url.UserPassword("shop", "s3cret/wrong"), "127.0.0.1:1" },
		"another service": func(u *url.URL) { u.User, u.Host = url.UserPassword("shop", "s3cret/wrong"), "127.0.0.1:15720" },
	} {
		t.Run(name, func(t *testing.T) {
			u := b.URL(t)
			change(u)
			u.RawQuery += "&timeout=3s"
			store, err := b.Stores.Open(t.Context(), u.String())
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
