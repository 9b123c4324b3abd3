//go:build services

package postgresstore_test

import (
	"bytes"
	"context"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

// behindProxy is a store whose connections go through a proxy, and one that has a way of its own to the same tables.
func behindProxy(t *testing.T, native bool) (through, direct *postgresstore.Store, proxy *faultproxy.Proxy) {
	t.Helper()
	address := testenv.Postgres(t)
	server, err := url.Parse(address)
	require.NoError(t, err)
	proxy = faultproxy.New(t, server.Host)
	direct, err = postgresstore.New(openDB(t, address))
	require.NoError(t, err)
	require.NoError(t, direct.Migrate(t.Context()))
	server.Host = proxy.Addr()
	if native {
		through, err = postgresstore.NewPgx(openPool(t, server.String()))
	} else {
		through, err = postgresstore.New(openDB(t, server.String()))
	}
	require.NoError(t, err)
	require.NoError(t, through.Check(t.Context()))
	return through, direct, proxy
}

// both runs a test on a store on pgxpool and on one on database/sql.
func both(t *testing.T, test func(t *testing.T, through, direct *postgresstore.Store, proxy *faultproxy.Proxy)) {
	for name, native := range map[string]bool{"pgx": true, "database/sql": false} {
		t.Run(name, func(t *testing.T) {
			through, direct, proxy := behindProxy(t, native)
			test(t, through, direct, proxy)
		})
	}
}

// commit is how the statement ends on the wire: "read committed" does not.
const commit = "commit\x00"

// on makes the proxy do something the first time that a client sends text.
func on(proxy *faultproxy.Proxy, text string, action faultproxy.Action) {
	var done atomic.Bool
	proxy.OnClientBytes(func(chunk []byte) faultproxy.Action {
		if bytes.Contains(chunk, []byte(text)) && done.CompareAndSwap(false, true) {
			return action
		}
		return faultproxy.Forward
	})
}

func envelope(id string) reliable.Envelope {
	return reliable.Envelope{ID: reliable.ID(id), Topic: "orders", Payload: []byte("payload of " + id)}
}

func keyed(id, key string) reliable.Envelope {
	env := envelope(id)
	env.Key = key
	return env
}

func stored(t *testing.T, store *postgresstore.Store, id string) bool {
	t.Helper()
	records, err := store.Lookup(t.Context(), reliable.ID(id))
	require.NoError(t, err)
	return len(records) == 1
}

func TestEnqueue_whoseAnswerIsCutOffIsUnknown(t *testing.T) {
	both(t, func(t *testing.T, through, direct *postgresstore.Store, proxy *faultproxy.Proxy) {
		// The statement has been prepared before, so that what is lost is the answer to its execution.
		_, err := through.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("first"))
		require.NoError(t, err)
		on(proxy, "payload of a", faultproxy.LoseAnswer)
		_, err = through.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
		require.ErrorIs(t, err, reliable.ErrUnknown)
		require.NotErrorIs(t, err, reliable.ErrNotStored)
		require.True(t, stored(t, direct, "a"))

		results, err := through.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
		require.NoError(t, err, "repeating it with the same id is safe")
		require.False(t, results[0].New)
	})
}

func TestEnqueue_whoseCommitIsCutOffIsUnknown(t *testing.T) {
	both(t, func(t *testing.T, through, direct *postgresstore.Store, proxy *faultproxy.Proxy) {
		on(proxy, commit, faultproxy.LoseAnswer)
		_, err := through.Enqueue(t.Context(), reliable.EnqueueRequest{}, keyed("a", "k"))
		require.ErrorIs(t, err, reliable.ErrUnknown)
		require.True(t, stored(t, direct, "a"))
	})
}

func TestEnqueue_thatIsCutOffBeforeItsCommitIsNotStored(t *testing.T) {
	both(t, func(t *testing.T, through, direct *postgresstore.Store, proxy *faultproxy.Proxy) {
		on(proxy, "_lane", faultproxy.CutBefore)
		_, err := through.Enqueue(t.Context(), reliable.EnqueueRequest{}, keyed("a", "k"))
		require.ErrorIs(t, err, reliable.ErrNotStored)
		require.NotErrorIs(t, err, reliable.ErrUnknown)
		require.False(t, stored(t, direct, "a"))
	})
}

func TestErrors_keepSecrets(t *testing.T) {
	server, err := url.Parse(testenv.Postgres(t))
	require.NoError(t, err)
	server.User = url.UserPassword("someone", "s3cret")
	nowhere := *server
	nowhere.Host = "127.0.0.1:1"
	for _, address := range []string{server.String(), nowhere.String()} {
		onSQL, err := postgresstore.New(openDB(t, address))
		require.NoError(t, err)
		onPgx, err := postgresstore.NewPgx(openPool(t, address))
		require.NoError(t, err)
		for _, store := range []*postgresstore.Store{onSQL, onPgx} {
			_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
			require.ErrorIs(t, err, reliable.ErrNotStored)
			require.NotErrorIs(t, err, reliable.ErrUnknown, "a connection that was never made has sent nothing")
			for _, err := range []error{err, store.Migrate(t.Context()), store.Check(t.Context())} {
				require.Error(t, err)
				require.NotContains(t, err.Error(), "s3cret")
				require.NotContains(t, err.Error(), "payload of")
			}
		}
	}
}

func TestCommit_thatIsCutOffIsUnknown(t *testing.T) {
	both(t, func(t *testing.T, through, direct *postgresstore.Store, proxy *faultproxy.Proxy) {
		tx, err := through.Begin(t.Context(), nil)
		require.NoError(t, err)
		_, err = tx.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
		require.NoError(t, err)
		on(proxy, commit, faultproxy.LoseAnswer)
		require.ErrorIs(t, tx.Commit(t.Context()), reliable.ErrUnknown)
		require.NoError(t, tx.Rollback(t.Context()))
		require.True(t, stored(t, direct, "a"))
	})
}

func TestCommit_afterItsContextEndedDidNotCommit(t *testing.T) {
	both(t, func(t *testing.T, through, direct *postgresstore.Store, _ *faultproxy.Proxy) {
		ctx, cancel := context.WithCancel(t.Context())
		tx, err := through.Begin(ctx, nil)
		require.NoError(t, err)
		_, err = tx.Enqueue(ctx, reliable.EnqueueRequest{}, envelope("a"))
		require.NoError(t, err)
		cancel()
		err = tx.Commit(ctx)
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, reliable.ErrUnknown)
		require.NoError(t, tx.Rollback(t.Context()))
		require.False(t, stored(t, direct, "a"))
	})
}

func TestCommit_onAServerThatHangsReturnsWithTheContext(t *testing.T) {
	both(t, func(t *testing.T, through, _ *postgresstore.Store, proxy *faultproxy.Proxy) {
		tx, err := through.Begin(t.Context(), nil)
		require.NoError(t, err)
		_, err = tx.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
		require.NoError(t, err)
		proxy.Stall(faultproxy.Both, true)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, tx.Commit(ctx), reliable.ErrUnknown)
		proxy.CutAll()
		proxy.Stall(faultproxy.Both, false)
	})
}

func TestStore_onAServerThatHangsReturnsWithTheContext(t *testing.T) {
	both(t, func(t *testing.T, through, _ *postgresstore.Store, proxy *faultproxy.Proxy) {
		proxy.Stall(faultproxy.Both, true)
		defer proxy.CutAll()
		for name, call := range map[string]func(ctx context.Context) error{
			"enqueue": func(ctx context.Context) error {
				_, err := through.Enqueue(ctx, reliable.EnqueueRequest{}, envelope("a"))
				return err
			},
			"claim": func(ctx context.Context) error {
				_, err := through.Claim(ctx, reliable.ClaimRequest{Max: 1, Lease: time.Minute})
				return err
			},
			"settle": func(ctx context.Context) error {
				_, err := through.Settle(ctx, reliable.Settlement{ID: "a", Fence: 1, To: reliable.Pending})
				return err
			},
			"check": through.Check,
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			require.ErrorIs(t, call(ctx), context.DeadlineExceeded, name)
			cancel()
		}
	})
}

func TestStore_passesOverDeadConnectionsOfItsPool(t *testing.T) {
	both(t, func(t *testing.T, through, _ *postgresstore.Store, proxy *faultproxy.Proxy) {
		proxy.CutAll()
		_, err := through.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
		require.NoError(t, err)
	})
}

func TestEnqueue_inAReadOnlyTransactionIsNotStored(t *testing.T) {
	db := openDB(t, testenv.Postgres(t))
	store, err := postgresstore.New(db)
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	db.SetMaxOpenConns(1)
	_, err = db.ExecContext(t.Context(), "SET default_transaction_read_only = on")
	require.NoError(t, err)
	_, err = store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
	require.ErrorIs(t, err, reliable.ErrNotStored)
	require.NotErrorIs(t, err, reliable.ErrUnknown)
}
