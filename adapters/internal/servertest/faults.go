package servertest

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/reliable"
)

// On makes the proxy do something the first time that a client sends text.
func On(proxy *faultproxy.Proxy, text string, action faultproxy.Action) {
	var done atomic.Bool
	proxy.OnClientBytes(func(chunk []byte) faultproxy.Action {
		if bytes.Contains(chunk, []byte(text)) && done.CompareAndSwap(false, true) {
			return action
		}
		return faultproxy.Forward
	})
}

// faulty is a test of a store behind a proxy.
type faulty struct {
	Server
	through, direct Store
	proxy           *faultproxy.Proxy
}

func (s Server) faults(t *testing.T, open func(t testing.TB, address string) Store) {
	for name, test := range map[string]func(f faulty, t *testing.T){
		"an enqueue whose answer is cut off is unknown":              faulty.enqueueWithoutAnswer,
		"an enqueue whose commit is cut off is unknown":              faulty.enqueueWithoutCommit,
		"an enqueue that is cut off before its commit is not stored": faulty.enqueueCutOff,
		"a commit that is cut off is unknown":                        faulty.commitCutOff,
		"a commit after its context ended did not commit":            faulty.commitTooLate,
		"a commit on a server that hangs returns with the context":   faulty.commitHangs,
		"each call on a server that hangs returns with the context":  faulty.callsHang,
		"dead connections of the pool are passed over":               faulty.deadConnections,
		"errors of wrong passwords and addresses keep their secrets": func(_ faulty, t *testing.T) { s.secrets(t, open) },
	} {
		t.Run(name, func(t *testing.T) {
			f := faulty{Server: s}
			f.through, f.direct, f.proxy = s.BehindProxy(t, open)
			test(f, t)
		})
	}
}

func (f faulty) enqueueWithoutAnswer(t *testing.T) {
	// Where the statement is prepared, it has been before, so that what is lost is the answer to its execution.
	_, err := f.through.Enqueue(t.Context(), reliable.EnqueueRequest{}, Envelope("first"))
	require.NoError(t, err)
	On(f.proxy, "payload of a", faultproxy.LoseAnswer)
	_, err = f.through.Enqueue(t.Context(), reliable.EnqueueRequest{}, Envelope("a"))
	require.ErrorIs(t, err, reliable.ErrUnknown)
	require.NotErrorIs(t, err, reliable.ErrNotStored)
	require.True(t, Stored(t, f.direct, "a"))

	results, err := f.through.Enqueue(t.Context(), reliable.EnqueueRequest{}, Envelope("a"))
	require.NoError(t, err, "repeating it with the same id is safe")
	require.False(t, results[0].New)
}

func (f faulty) enqueueWithoutCommit(t *testing.T) {
	On(f.proxy, f.Commit, faultproxy.LoseAnswer)
	_, err := f.through.Enqueue(t.Context(), reliable.EnqueueRequest{}, Keyed("a", "k"))
	require.ErrorIs(t, err, reliable.ErrUnknown)
	require.True(t, Stored(t, f.direct, "a"))
}

func (f faulty) enqueueCutOff(t *testing.T) {
	On(f.proxy, "_lane", faultproxy.CutBefore)
	_, err := f.through.Enqueue(t.Context(), reliable.EnqueueRequest{}, Keyed("a", "k"))
	require.ErrorIs(t, err, reliable.ErrNotStored)
	require.NotErrorIs(t, err, reliable.ErrUnknown)
	require.False(t, Stored(t, f.direct, "a"))
}

// begun is a transaction that has stored a message.
func (f faulty) begun(ctx context.Context, t *testing.T) reliable.Tx {
	t.Helper()
	tx, err := f.through.Begin(ctx, nil)
	require.NoError(t, err)
	_, err = tx.Enqueue(ctx, reliable.EnqueueRequest{}, Envelope("a"))
	require.NoError(t, err)
	return tx
}

func (f faulty) commitCutOff(t *testing.T) {
	tx := f.begun(t.Context(), t)
	On(f.proxy, f.Commit, faultproxy.LoseAnswer)
	require.ErrorIs(t, tx.Commit(t.Context()), reliable.ErrUnknown)
	require.NoError(t, tx.Rollback(t.Context()))
	require.True(t, Stored(t, f.direct, "a"))
}

func (f faulty) commitTooLate(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	tx := f.begun(ctx, t)
	cancel()
	err := tx.Commit(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, reliable.ErrUnknown)
	require.NoError(t, tx.Rollback(t.Context()))
	require.False(t, Stored(t, f.direct, "a"))
}

func (f faulty) commitHangs(t *testing.T) {
	tx := f.begun(t.Context(), t)
	f.proxy.Stall(faultproxy.Both, true)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, tx.Commit(ctx), reliable.ErrUnknown)
	f.proxy.CutAll()
	f.proxy.Stall(faultproxy.Both, false)
}

func (f faulty) callsHang(t *testing.T) {
	f.proxy.Stall(faultproxy.Both, true)
	defer f.proxy.CutAll()
	for name, call := range map[string]func(ctx context.Context) error{
		"enqueue": func(ctx context.Context) error {
			_, err := f.through.Enqueue(ctx, reliable.EnqueueRequest{}, Envelope("a"))
			return err
		},
		"claim": func(ctx context.Context) error {
			_, err := f.through.Claim(ctx, reliable.ClaimRequest{Max: 1, Lease: time.Minute})
			return err
		},
		"settle": func(ctx context.Context) error {
			_, err := f.through.Settle(ctx, reliable.Settlement{ID: "a", Fence: 1, To: reliable.Pending})
			return err
		},
		"check": f.through.Check,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		require.ErrorIs(t, call(ctx), context.DeadlineExceeded, name)
		cancel()
	}
}

func (f faulty) deadConnections(t *testing.T) {
	f.proxy.CutAll()
	_, err := f.through.Enqueue(t.Context(), reliable.EnqueueRequest{}, Envelope("a"))
	require.NoError(t, err)
}

func (s Server) secrets(t *testing.T, open func(t testing.TB, address string) Store) {
	const password = "s3cret"
	address := s.Database(t)
	for _, host := range []string{s.Host(t, address), "127.0.0.1:1"} {
		store := open(t, s.At(t, address, host, password))
		_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, Envelope("a"))
		require.ErrorIs(t, err, reliable.ErrNotStored)
		require.NotErrorIs(t, err, reliable.ErrUnknown, "a connection that was never made has sent nothing")
		for _, err := range []error{err, store.Migrate(t.Context()), store.Check(t.Context())} {
			require.Error(t, err)
			require.NotContains(t, err.Error(), password)
			require.NotContains(t, err.Error(), "payload of")
		}
	}
}

func (s Server) readOnly(t *testing.T) {
	db, store := s.onNew(t)
	db.SetMaxOpenConns(1)
	_, err := db.ExecContext(t.Context(), s.ReadOnly)
	require.NoError(t, err)
	_, err = store.Enqueue(t.Context(), reliable.EnqueueRequest{}, Envelope("a"))
	require.ErrorIs(t, err, reliable.ErrNotStored)
	require.NotErrorIs(t, err, reliable.ErrUnknown)
}
