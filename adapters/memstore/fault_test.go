package memstore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
)

var errFault = errors.New("the disk is full")

// faulty returns a store in which fault befalls every op.
func faulty(op memstore.Op, fault memstore.Fault) *memstore.Store {
	return memstore.New(memstore.WithFault(func(at memstore.Op, _ []reliable.ID) memstore.Fault {
		if at == op {
			return fault
		}
		return memstore.Fault{}
	}))
}

func envelope(id reliable.ID) reliable.Envelope {
	return reliable.Envelope{ID: id, Topic: "orders", Payload: []byte("payload")}
}

func statuses(store *memstore.Store) map[reliable.ID]reliable.Status {
	all := make(map[reliable.ID]reliable.Status)
	for _, r := range store.Records() {
		all[r.ID] = r.Status
	}
	return all
}

func TestFault_beforeHasNoEffect(t *testing.T) {
	store := faulty(memstore.OpEnqueue, memstore.Fault{Before: errFault})
	_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
	require.ErrorIs(t, err, errFault)
	require.ErrorIs(t, err, reliable.ErrNotStored)
	require.NotErrorIs(t, err, reliable.ErrUnknown)
	require.Empty(t, store.Records())
}

func TestFault_afterHasItsEffectAndLosesTheAnswer(t *testing.T) {
	store := faulty(memstore.OpEnqueue, memstore.Fault{After: errFault})
	_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
	require.ErrorIs(t, err, errFault)
	require.ErrorIs(t, err, reliable.ErrUnknown)
	require.NotErrorIs(t, err, reliable.ErrNotStored)
	require.Len(t, store.Records(), 1)
}

func TestFault_afterClaimLeavesTheLease(t *testing.T) {
	store := faulty(memstore.OpClaim, memstore.Fault{After: errFault})
	_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
	require.NoError(t, err)
	attempts, err := store.Claim(t.Context(), reliable.ClaimRequest{Max: 1, Lease: time.Minute})
	require.ErrorIs(t, err, errFault)
	require.Empty(t, attempts)
	require.EqualValues(t, 1, store.Records()[0].Fence)
}

func TestFault_afterSettleIsFoundRepeated(t *testing.T) {
	lost := true
	store := memstore.New(memstore.WithFault(func(op memstore.Op, ids []reliable.ID) memstore.Fault {
		if op == memstore.OpSettle && lost {
			require.Equal(t, []reliable.ID{"a"}, ids)
			return memstore.Fault{After: errFault}
		}
		return memstore.Fault{}
	}))
	stored, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{Lease: time.Minute}, envelope("a"))
	require.NoError(t, err)
	ack := reliable.Settlement{
		ID: "a", Fence: stored[0].Fence, Sent: true, Outcome: reliable.Acked, To: reliable.Confirmed,
	}
	_, err = store.Settle(t.Context(), ack)
	require.ErrorIs(t, err, errFault)
	lost = false
	results, err := store.Settle(t.Context(), ack)
	require.NoError(t, err)
	require.Equal(t, []reliable.SettleResult{reliable.Repeated}, results)
}

func TestFault_delayPassesFirst(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := faulty(memstore.OpEnqueue, memstore.Fault{Delay: time.Minute})
		start := time.Now()
		_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
		require.NoError(t, err)
		require.Equal(t, time.Minute, time.Since(start))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = store.Enqueue(ctx, reliable.EnqueueRequest{}, envelope("b"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Len(t, store.Records(), 1, "a context that ends during the delay leaves no effect")
	})
}

func TestFault_hangsUntilTheContextEnds(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			fault memstore.Fault
			kept  int
			is    error
		}{
			{memstore.Fault{HangBefore: true}, 0, reliable.ErrNotStored},
			{memstore.Fault{HangAfter: true}, 1, reliable.ErrUnknown},
		} {
			store := faulty(memstore.OpEnqueue, c.fault)
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			start := time.Now()
			_, err := store.Enqueue(ctx, reliable.EnqueueRequest{}, envelope("a"))
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, c.is)
			require.Equal(t, time.Hour, time.Since(start))
			require.Len(t, store.Records(), c.kept)
		}
	})
}

func TestFault_ofACommitDecidesWhetherItCommitted(t *testing.T) {
	for _, c := range []struct {
		name      string
		fault     memstore.Fault
		committed bool
	}{
		{"before", memstore.Fault{Before: errFault}, false},
		{"after", memstore.Fault{After: errFault}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := faulty(memstore.OpCommit, c.fault)
			tx, err := store.Begin(t.Context(), nil)
			require.NoError(t, err)
			require.NoError(t, tx.Native().(*memstore.Tx).Put("order", 1))
			_, err = tx.Enqueue(t.Context(), reliable.EnqueueRequest{}, envelope("a"))
			require.NoError(t, err)
			err = tx.Commit(t.Context())
			require.ErrorIs(t, err, errFault)
			require.Equal(t, c.committed, errors.Is(err, reliable.ErrUnknown))
			require.NoError(t, tx.Rollback(t.Context()))
			_, there := store.Business("order")
			require.Equal(t, c.committed, there, "the business row")
			require.Equal(t, c.committed, len(store.Records()) == 1, "the envelope")
		})
	}
}

func TestWithFault_asksForEveryOperation(t *testing.T) {
	asked := make(map[memstore.Op]bool)
	store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
		asked[op] = true
		return memstore.Fault{Before: errFault}
	}))
	ctx, claim := t.Context(), reliable.ClaimRequest{Max: 1, Lease: time.Minute}
	for op, call := range map[memstore.Op]func() error{
		memstore.OpEnqueue: func() error {
			_, err := store.Enqueue(ctx, reliable.EnqueueRequest{}, envelope("a"))
			return err
		},
		memstore.OpClaim:  func() error { _, err := store.Claim(ctx, claim); return err },
		memstore.OpSettle: func() error { _, err := store.Settle(ctx); return err },
		memstore.OpBegin:  func() error { _, err := store.Begin(ctx, nil); return err },
		memstore.OpHold:   func() error { _, err := store.Hold(ctx, "orders", 0); return err },
		memstore.OpHolds:  func() error { _, err := store.Holds(ctx); return err },
		memstore.OpProbe:  func() error { _, err := store.Probe(ctx, "orders", claim); return err },
		memstore.OpUnhold: func() error { _, err := store.Unhold(ctx, "orders", 1); return err },
		memstore.OpFailHeld: func() error {
			_, err := store.FailHeld(ctx, "orders", reliable.FailHeldRequest{Limit: 1})
			return err
		},
		memstore.OpClaimFailed: func() error {
			_, err := store.ClaimFailed(ctx, claim, "orders")
			return err
		},
		memstore.OpSettleCompensation: func() error {
			_, err := store.SettleCompensation(ctx, reliable.Compensation{ID: "a"})
			return err
		},
		memstore.OpStats:  func() error { _, err := store.Stats(ctx); return err },
		memstore.OpLookup: func() error { _, err := store.Lookup(ctx, "a"); return err },
		memstore.OpPurge:  func() error { _, err := store.Purge(ctx, reliable.Confirmed, 0, 1); return err },
		memstore.OpElect:  func() error { _, err := store.Elect(ctx, "purge", "a", time.Minute); return err },
		memstore.OpPace: func() error {
			_, _, err := store.Pace(ctx, "resends", reliable.Pace{Every: time.Second, Burst: 1}, 1)
			return err
		},
		memstore.OpWake:  func() error { return store.Wake(ctx) },
		memstore.OpCheck: func() error { return store.Check(ctx) },
	} {
		require.ErrorIs(t, call(), errFault, op)
		require.True(t, asked[op], op)
	}
}
