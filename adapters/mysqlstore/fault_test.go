//go:build services

package mysqlstore_test

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

// behindProxy is a store whose connections go through a proxy, and one that has a way of its own to the same tables.
func behindProxy(t *testing.T) (through, direct *mysqlstore.Store, proxy *faultproxy.Proxy) {
	t.Helper()
	dsn := testenv.MariaDB(t)
	config, err := mysql.ParseDSN(dsn)
	require.NoError(t, err)
	proxy = faultproxy.New(t, config.Addr)
	direct, err = mysqlstore.New(openDB(t, dsn, recommended))
	require.NoError(t, err)
	require.NoError(t, direct.Migrate(t.Context()))
	through, err = mysqlstore.New(openDB(t, dsn, func(c *mysql.Config) {
		recommended(c)
		c.Addr = proxy.Addr()
	}))
	require.NoError(t, err)
	require.NoError(t, through.Check(t.Context()))
	return through, direct, proxy
}

// commit is how the statement begins on the wire: "READ COMMITTED" does not.
const commit = "\x03COMMIT"

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

func stored(t *testing.T, store *mysqlstore.Store, id string) bool {
	t.Helper()
	records, err := store.Lookup(t.Context(), reliable.ID(id))
	require.NoError(t, err)
	return len(records) == 1
}

func TestEnqueue_whoseAnswerIsCutOffIsUnknown(t *testing.T) {
	through, direct, proxy := behindProxy(t)
	on(proxy, "payload of a", faultproxy.LoseAnswer) // the text was sent before, to be prepared
	_, err := through.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
	require.ErrorIs(t, err, reliable.ErrUnknown)
	require.NotErrorIs(t, err, reliable.ErrNotStored)
	require.True(t, stored(t, direct, "a"))

	results, err := through.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
	require.NoError(t, err, "repeating it with the same id is safe")
	require.False(t, results[0].New)
}

func TestEnqueue_whoseStatementCannotBePreparedIsNotStored(t *testing.T) {
	for _, action := range []faultproxy.Action{faultproxy.LoseAnswer, faultproxy.CutBefore} {
		through, direct, proxy := behindProxy(t)
		on(proxy, "INSERT INTO", action)
		_, err := through.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
		require.ErrorIs(t, err, reliable.ErrNotStored)
		require.NotErrorIs(t, err, reliable.ErrUnknown, "what is prepared is not carried out")
		require.False(t, stored(t, direct, "a"))

		results, err := through.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
		require.NoError(t, err)
		require.True(t, results[0].New)
	}
}

func TestEnqueue_whoseCommitIsCutOffIsUnknown(t *testing.T) {
	through, direct, proxy := behindProxy(t)
	on(proxy, commit, faultproxy.LoseAnswer)
	_, err := through.Enqueue(t.Context(), reliable.EnqueueRequest{}, keyed("a", "k"))
	require.ErrorIs(t, err, reliable.ErrUnknown)
	require.True(t, stored(t, direct, "a"))
}

func TestEnqueue_thatIsCutOffBeforeItsCommitIsNotStored(t *testing.T) {
	through, direct, proxy := behindProxy(t)
	on(proxy, "_lane", faultproxy.CutBefore)
	_, err := through.Enqueue(t.Context(), reliable.EnqueueRequest{}, keyed("a", "k"))
	require.ErrorIs(t, err, reliable.ErrNotStored)
	require.NotErrorIs(t, err, reliable.ErrUnknown)
	require.False(t, stored(t, direct, "a"))
}

func TestEnqueue_withoutAServerIsNotStoredAndKeepsSecrets(t *testing.T) {
	db := openDB(t, "someone:s3cret@tcp(127.0.0.1:1)/nowhere", recommended)
	store, err := mysqlstore.New(db)
	require.NoError(t, err)
	_, err = store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
	require.ErrorIs(t, err, reliable.ErrNotStored)
	require.NotErrorIs(t, err, reliable.ErrUnknown, "a connection that was never made has sent nothing")
	require.NotContains(t, err.Error(), "s3cret")
	require.NotContains(t, err.Error(), "payload of")
}

func TestErrors_ofAWrongPasswordKeepIt(t *testing.T) {
	db := openDB(t, testenv.MariaDB(t), func(c *mysql.Config) { c.Passwd = "s3cret" })
	store, err := mysqlstore.New(db)
	require.NoError(t, err)
	for _, err := range []error{store.Migrate(t.Context()), store.Check(t.Context())} {
		require.Error(t, err)
		require.NotContains(t, err.Error(), "s3cret")
	}
}

func TestCommit_thatIsCutOffIsUnknown(t *testing.T) {
	through, direct, proxy := behindProxy(t)
	tx, err := through.Begin(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
	require.NoError(t, err)
	on(proxy, commit, faultproxy.LoseAnswer)
	require.ErrorIs(t, tx.Commit(t.Context()), reliable.ErrUnknown)
	require.NoError(t, tx.Rollback(t.Context()))
	require.True(t, stored(t, direct, "a"))
}

func TestCommit_afterItsContextEndedDidNotCommit(t *testing.T) {
	through, direct, _ := behindProxy(t)
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
}

func TestCommit_onAServerThatHangsReturnsWithTheContext(t *testing.T) {
	through, _, proxy := behindProxy(t)
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
}

func TestStore_onAServerThatHangsReturnsWithTheContext(t *testing.T) {
	through, _, proxy := behindProxy(t)
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
}

func TestStore_passesOverDeadConnectionsOfItsPool(t *testing.T) {
	through, _, proxy := behindProxy(t)
	proxy.CutAll()
	_, err := through.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
	require.NoError(t, err)
}

func TestEnqueue_inAReadOnlyTransactionIsNotStored(t *testing.T) {
	db := openDB(t, testenv.MariaDB(t), recommended)
	store, err := mysqlstore.New(db)
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))
	db.SetMaxOpenConns(1)
	_, err = db.ExecContext(t.Context(), "SET SESSION TRANSACTION READ ONLY")
	require.NoError(t, err)
	_, err = store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
	require.ErrorIs(t, err, reliable.ErrNotStored)
	require.NotErrorIs(t, err, reliable.ErrUnknown)
}

// After a deadlock InnoDB has rolled everything back, and the connection commits each statement by itself: a COMMIT
// that succeeded would be a lie.
func TestCommit_afterADeadlockRefuses(t *testing.T) {
	db := openDB(t, testenv.MariaDB(t), recommended)
	store, err := mysqlstore.New(db)
	require.NoError(t, err)
	require.NoError(t, store.Migrate(t.Context()))

	begin := func() reliable.Tx {
		tx, err := store.Begin(t.Context(), nil)
		require.NoError(t, err)
		return tx
	}
	enqueue := func(tx reliable.Tx, id string) error {
		_, err := tx.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope(id))
		return err
	}
	one, two := begin(), begin()
	require.NoError(t, enqueue(one, "a"))
	require.NoError(t, enqueue(two, "b"))
	answers := make(chan error, 2)
	go func() { answers <- enqueue(one, "b") }()
	go func() { answers <- enqueue(two, "a") }()

	victims := 0
	for range 2 {
		if err := <-answers; err != nil {
			require.ErrorIs(t, err, reliable.ErrNotStored)
			var server *mysql.MySQLError
			require.ErrorAs(t, err, &server)
			require.EqualValues(t, 1213, server.Number)
			victims++
		}
	}
	require.Equal(t, 1, victims)

	ended := 0
	for _, tx := range []reliable.Tx{one, two} {
		if err := tx.Commit(t.Context()); err != nil {
			require.NotErrorIs(t, err, reliable.ErrUnknown)
			require.ErrorContains(t, err, "rolled the transaction back")
			ended++
		}
	}
	require.Equal(t, 1, ended, "transactions that refuse to commit")
}
