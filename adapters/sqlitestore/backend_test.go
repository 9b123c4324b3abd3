package sqlitestore_test

import (
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

func TestBackend_opensAFileByURL(t *testing.T) {
	stores := backend.Stores{sqlitestore.Backend()}
	path := filepath.Join(t.TempDir(), "a name with ? and # and %41.db")
	absolute := (&url.URL{Path: path}).EscapedPath()
	t.Chdir(filepath.Dir(path))
	for _, rawURL := range []string{
		"sqlite:" + absolute + "?synchronous=normal&busy_timeout=3s", "sqlite://" + absolute, "sqlite:" + filepath.Base(absolute),
	} {
		t.Run(rawURL, func(t *testing.T) {
			store, err := stores.Open(t.Context(), rawURL)
			require.NoError(t, err)
			assert.FileExists(t, path)
			_, ok := reliable.Ability[reliable.Writing](store)
			assert.True(t, ok, "the store's abilities are hidden")
			db, ok := reliable.Ability[backend.SQL](store)
			require.True(t, ok)
			require.NoError(t, db.DB().PingContext(t.Context()))
			_, err = store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
			require.NoError(t, err)
			require.NoError(t, store.Close())
			require.Error(t, db.DB().PingContext(t.Context()), "the database is still open")
		})
	}
}

func TestBackend_makesNoFileForATool(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.db")
	_, err := backend.Stores{sqlitestore.Backend()}.Open(t.Context(), "sqlite:"+path+"?create=false")
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.NoFileExists(t, path)
}

func TestBackend_leavesTheTablesAloneForATool(t *testing.T) {
	stores, path := backend.Stores{sqlitestore.Backend()}, filepath.Join(t.TempDir(), "shop.db")
	store, err := stores.Open(t.Context(), "sqlite:"+path+"?migrate=false")
	require.NoError(t, err)
	defer store.Close()
	checker, ok := reliable.Ability[reliable.Checker](store)
	require.True(t, ok)
	require.ErrorIs(t, checker.Check(t.Context()), reliable.ErrSchema)
	migrator, ok := reliable.Ability[backend.Migrator](store)
	require.True(t, ok)
	require.NoError(t, migrator.Migrate(t.Context()))
	require.NoError(t, checker.Check(t.Context()))
}
