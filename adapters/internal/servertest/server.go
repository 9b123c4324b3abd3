// Package servertest is the suite of the stores whose database is a server: what storetest cannot ask, because it takes a
// network that fails, several processes, and the server's own handles.
package servertest

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/reliable"
)

// Store is what the stores of this suite can do.
type Store interface {
	reliable.Store
	reliable.Transactor
	reliable.Checker
	reliable.Inspector
	reliable.Holder
	Migrate(ctx context.Context) error
	WithTx(tx *sql.Tx) (reliable.Enqueuer, error)
}

// Server is a kind of database server and the store for it.
type Server struct {
	// Database makes an empty database, and returns its address as the driver takes it.
	Database func(t testing.TB) string
	// Host is the host and port in an address.
	Host func(t testing.TB, address string) string
	// At is an address with another host and port, and unless it is empty another password.
	At func(t testing.TB, address, host, password string) string
	// Open opens a handle, which is closed when the test ends.
	Open func(t testing.TB, address string) *sql.DB
	// On is the store on a handle; prefix is that of its tables, empty for the default.
	On func(t testing.TB, db *sql.DB, prefix string) Store
	// Clients are the ways in which a store reaches its server, by name.
	Clients map[string]func(t testing.TB, address string) Store
	// Schema prints the tables.
	Schema func() (string, error)
	// Version is the statement that records a schema version: the version, and the oldest that can use it.
	Version string
	// ReadOnly is the statement that makes a session refuse to write.
	ReadOnly string
	// Commit is how COMMIT looks on the wire, apart from "read committed".
	Commit string
}

// Run runs the suite.
func Run(t *testing.T, s Server) {
	t.Run("schema", s.schema)
	t.Run("what commits late is claimed beside a backlog", s.claimLate)
	t.Run("faults", func(t *testing.T) {
		for name, open := range s.Clients {
			t.Run(name, func(t *testing.T) { s.faults(t, open) })
		}
		t.Run("enqueue in a read-only session is not stored", s.readOnly)
	})
}

// onNew is a store with its tables on an empty database, and its handle.
func (s Server) onNew(t testing.TB) (*sql.DB, Store) {
	t.Helper()
	db := s.Open(t, s.Database(t))
	store := s.On(t, db, "")
	require.NoError(t, store.Migrate(t.Context()))
	return db, store
}

// BehindProxy is a store whose connections go through a proxy, and one that has a way of its own to the same tables.
func (s Server) BehindProxy(
	t testing.TB, open func(t testing.TB, address string) Store,
) (through, direct Store, proxy *faultproxy.Proxy) {
	t.Helper()
	address := s.Database(t)
	proxy = faultproxy.New(t, s.Host(t, address))
	direct = s.On(t, s.Open(t, address), "")
	require.NoError(t, direct.Migrate(t.Context()))
	through = open(t, s.At(t, address, proxy.Addr(), ""))
	require.NoError(t, through.Check(t.Context()))
	return through, direct, proxy
}

// Envelope is a message.
func Envelope(id string) reliable.Envelope {
	return reliable.Envelope{ID: reliable.ID(id), Topic: "orders", Payload: []byte("payload of " + id)}
}

// Keyed is a message whose order matters.
func Keyed(id, key string) reliable.Envelope {
	env := Envelope(id)
	env.Key = key
	return env
}

// Stored says whether the store has the message.
func Stored(t testing.TB, store reliable.Inspector, id string) bool {
	t.Helper()
	records, err := store.Lookup(t.Context(), reliable.ID(id))
	require.NoError(t, err)
	return len(records) == 1
}
