package storetest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

var fleetChecks = []Check{
	{Name: "one worker at a time is elected", Needs: needs(Election), run: electOne},
	{Name: "of concurrent candidates one is elected", Needs: needs(Election), run: electConcurrently},
	{Name: "a term ends with its lease", Needs: needs(Election), run: electLeaseRunsOut},
	{Name: "who resigns makes room, and only for itself", Needs: needs(Election), run: electResign},
	{Name: "a wake-up reaches who waits", Needs: needs(WakeUps), run: wakeReaches},
	{Name: "waiting for a wake-up ends with its context", Needs: needs(WakeUps), run: wakeCanceled},
	{Name: "a wake-up with nobody waiting is no error", Needs: needs(WakeUps), run: wakeNobody},
	{Name: "a fresh store finds nothing wrong with itself", Needs: needs(SelfCheck), run: checkFresh},
	{Name: "its limits hold what the wire needs", Needs: needs(OwnLimits), run: limitsPositive},
}

func (t *T) elects(chore, worker string, lease time.Duration) bool {
	t.Helper()
	elected, err := able[reliable.Elector](t).Elect(t.Context(), chore, worker, lease)
	require.NoError(t, err, "elect")
	return elected
}

func electOne(t *T) {
	require.True(t, t.elects("purge", "a", long))
	require.False(t, t.elects("purge", "b", long))
	require.True(t, t.elects("purge", "a", long), "who holds the term extends it")
	require.True(t, t.elects("Purge", "b", long), "another chore")
	require.False(t, t.elects("purge", "A", long), "workers are compared byte by byte")
	other, _ := reliable.Ability[reliable.Elector](t.other())
	elected, err := other.Elect(t.Context(), "purge", "c", long)
	require.NoError(t, err)
	require.False(t, elected, "the term holds for the whole fleet")
}

func electConcurrently(t *T) {
	var elected atomic.Int32
	store := t.handles()
	t.together(8, func(i int) error {
		elector, _ := reliable.Ability[reliable.Elector](store(i))
		ok, err := elector.Elect(t.Context(), "purge", number("worker-", i), long)
		if ok {
			elected.Add(1)
		}
		return err
	})
	require.EqualValues(t, 1, elected.Load())
}

func electLeaseRunsOut(t *T) {
	before := time.Now()
	require.True(t, t.elects("purge", "a", t.h.Lease))
	t.until("the term ends", func() bool { return t.elects("purge", "b", long) })
	require.GreaterOrEqual(t, time.Since(before)+grain, t.h.Lease, "the term had not ended")
	require.False(t, t.elects("purge", "a", long))

	require.True(t, t.elects("other", "a", t.h.Lease))
	require.True(t, t.elects("other", "a", long), "extended")
	t.pass(t.h.Lease + grain)
	require.False(t, t.elects("other", "b", long), "the extended term goes on")
}

func electResign(t *T) {
	require.True(t, t.elects("purge", "a", long))
	t.elects("purge", "b", 0)
	require.False(t, t.elects("purge", "b", long), "nobody resigns for another")
	t.elects("purge", "a", 0)
	require.True(t, t.elects("purge", "b", long))
	t.elects("never held", "a", 0)
}

func wakeReaches(t *T) {
	waiting, _ := reliable.Ability[reliable.Waker](t.other())
	told := make(chan error, 1)
	go func() { told <- waiting.AwaitWake(t.Context()) }()
	t.until("the wake-up arrives", func() bool {
		require.NoError(t, able[reliable.Waker](t).Wake(t.Context()))
		t.pass(grain) // a wake-up may be lost: one that comes before the other waits, for example
		select {
		case err := <-told:
			require.NoError(t, err)
			return true
		default:
			return false
		}
	})
}

func wakeCanceled(t *T) {
	ctx, cancel := context.WithTimeout(t.Context(), t.h.Lease)
	defer cancel()
	t.until("waiting ends", func() bool {
		err := able[reliable.Waker](t).AwaitWake(ctx) // it may return nil for no reason
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		return err != nil
	})
}

func wakeNobody(t *T) {
	for range 100 {
		require.NoError(t, able[reliable.Waker](t).Wake(t.Context()))
	}
}

func checkFresh(t *T) {
	require.NoError(t, able[reliable.Checker](t).Check(t.Context()))
}

func limitsPositive(t *T) {
	limits := able[reliable.Limited](t).Limits()
	for name, limit := range map[string]int{
		"payload": limits.Payload, "metadata": limits.Metadata, "metadata pairs": limits.MetadataPairs,
		"topic": limits.Topic, "key": limits.Key, "id": limits.ID,
	} {
		require.GreaterOrEqual(t, limit, 0, name)
	}
	e := env("a")
	require.NoError(t, limits.Check(&e), "an ordinary envelope fits")
}
