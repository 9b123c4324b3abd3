//go:build services

package faults

import (
	"context"
	"database/sql"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// handlerLease is the lease under which handlers run: where one is killed, another process must have looked before it ends.
const handlerLease = 12 * time.Second

// failures is a database with messages that have failed, and what handlers wrote about them.
type failures struct {
	*rig
	database database
}

func newFailures(t *testing.T, d database) *failures {
	t.Helper()
	db, store, err := d.open(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	require.NoError(t, createRefunds(t.Context(), db))
	return &failures{rig: &rig{t: t, db: db, kind: d.kind(), store: store}, database: d}
}

// fail stores n messages and fails them, as a relay does with what its broker rejects.
func (f *failures) fail(prefix string, n int) []reliable.ID {
	f.t.Helper()
	ids, envs := make([]reliable.ID, n), make([]reliable.Envelope, n)
	for i := range envs {
		ids[i] = reliable.ID(fmt.Sprintf("%s-%04d", prefix, i))
		envs[i] = reliable.Envelope{ID: ids[i], Topic: failedTopic, Payload: []byte("x")}
	}
	stored, err := f.store.Enqueue(f.t.Context(), reliable.EnqueueRequest{Worker: "relay", Lease: time.Minute}, envs...)
	require.NoError(f.t, err)
	settlements := make([]reliable.Settlement, n)
	for i := range stored {
		settlements[i] = reliable.Settlement{
			ID: stored[i].ID, Fence: stored[i].Fence, Topic: failedTopic,
			Sent: true, Outcome: reliable.Rejected, To: reliable.Failed, Charge: true, Reason: "too large",
		}
	}
	results, err := f.store.Settle(f.t.Context(), settlements...)
	require.NoError(f.t, err)
	for _, result := range results {
		require.Equal(f.t, reliable.Applied, result)
	}
	return ids
}

// startHandlers starts a child that compensates.
func (f *failures) startHandlers(stand point, inTx bool) *child {
	f.t.Helper()
	return startChild(f.t, job{Database: f.database, Stand: stand, Lease: handlerLease, Compensate: true, InTx: inTx})
}

func (f *failures) eventuallyCompensated(ids []reliable.ID, within time.Duration) {
	f.t.Helper()
	require.Eventually(f.t, func() bool { return f.hasAll(reliable.Compensated, ids) }, within, 100*time.Millisecond,
		"what failed must be compensated")
}

// effects returns how many effects each message has.
func (f *failures) effects() map[string]int {
	f.t.Helper()
	rows, err := f.db.Query("SELECT id, COUNT(*) FROM refunds GROUP BY id")
	require.NoError(f.t, err)
	defer func() { require.NoError(f.t, rows.Close()) }()
	counts := make(map[string]int)
	for rows.Next() {
		var id string
		var n int
		require.NoError(f.t, rows.Scan(&id, &n))
		counts[id] = n
	}
	require.NoError(f.t, rows.Err())
	return counts
}

// now is the database's clock.
func (f *failures) now() (micros int64) {
	f.t.Helper()
	require.NoError(f.t, f.db.QueryRow("SELECT "+clock(f.kind)).Scan(&micros))
	return micros
}

// assertOneAtATime fails if a run of a message began before the one before it had ended, and returns how many runs each
// message had. A run without an end that another one follows was killed, before killed.
func (f *failures) assertOneAtATime(killed int64) map[string]int {
	f.t.Helper()
	rows, err := f.db.Query("SELECT id, began, ended FROM runs ORDER BY id, fence")
	require.NoError(f.t, err)
	defer func() { require.NoError(f.t, rows.Close()) }()
	counts := make(map[string]int)
	var before string
	var until int64
	for rows.Next() {
		var id string
		var began int64
		var ended sql.NullInt64
		require.NoError(f.t, rows.Scan(&id, &began, &ended))
		if id == before {
			assert.GreaterOrEqual(f.t, began, until, "%s was compensated by two at the same time", id)
		}
		before, until = id, killed
		if ended.Valid {
			until = ended.Int64
		}
		counts[id]++
	}
	require.NoError(f.t, rows.Err())
	return counts
}

// killAt kills the process that compensates a message at a point, beside another one, and waits until that one has
// compensated.
func (f *failures) killAt(stand point, inTx bool) {
	f.t.Helper()
	second := f.startHandlers(nowhere, inTx) // at once: the first one's lease must outlast what comes before the kill
	f.eventuallyCompensated(f.fail("before", 1), patience)
	second.signal(syscall.SIGSTOP)
	ids := f.fail("order", 1)
	first := f.startHandlers(stand, inTx)
	first.await("at " + string(stand))
	second.signal(syscall.SIGCONT)
	f.eventuallyCompensated(f.fail("beside", 1), patience) // it looks, and takes nothing that is leased
	first.kill()
	killed := f.now()
	f.eventuallyCompensated(ids, patience)
	second.kill()
	assert.Equal(f.t, map[string]int{"before-0000": 1, "order-0000": 2, "beside-0000": 1}, f.assertOneAtATime(killed))
}

func TestCompensation_aHandlerKilledAnywhereRunsAgainAndNeverBesideItself(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		for _, c := range []struct {
			stand   point
			effects int
		}{{beforeEffect, 1}, {afterEffect, 2}, {beforeStatus, 2}} {
			t.Run(kind+"/"+string(c.stand), func(t *testing.T) {
				t.Parallel()
				f := newFailures(t, makeDatabase(t))
				f.killAt(c.stand, false)
				assert.Equal(t, c.effects, f.effects()["order-0000"], "at least one; two where the first one was not recorded")
			})
		}
	}
}

func TestCompensation_anEffectInTheTransactionOfTheStatusHappensOnceWhereverTheHandlerIsKilled(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		for _, stand := range []point{beforeEffect, afterEffect, beforeStatus, beforeCommit} {
			t.Run(kind+"/"+string(stand), func(t *testing.T) {
				t.Parallel()
				f := newFailures(t, makeDatabase(t))
				f.killAt(stand, true)
				assert.Equal(t, 1, f.effects()["order-0000"])
			})
		}
	}
}

func TestCompensation_ofFourProcessesLosesNothingAndNothingIsStuck(t *testing.T) {
	t.Parallel()
	const sound = 1000
	for kind, makeDatabase := range databases {
		for _, inTx := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/in transaction %t", kind, inTx), func(t *testing.T) {
				t.Parallel()
				f := newFailures(t, makeDatabase(t))
				bad := append(f.fail(alwaysFails, 10), f.fail(alwaysHangs, 2)...) // the oldest: all others come behind them
				ids := f.fail("order", sound)
				children := make([]*child, 4)
				for i := range children {
					children[i] = f.startHandlers(nowhere, inTx)
				}
				require.Eventually(t, func() bool { return f.count(reliable.Compensated, ids) > sound/10 }, patience, 10*time.Millisecond)
				children[0].kill()
				killed := f.now()
				f.eventuallyCompensated(ids, 2*patience)
				require.Eventually(t, func() bool { return f.runsOf(bad[0]) >= 3 }, patience, 100*time.Millisecond,
					"what fails is tried again and again")
				for _, c := range children {
					c.kill()
				}
				f.assertOneAtATime(killed)
				assert.Equal(t, len(bad), f.count(reliable.Failed, bad), "nothing of what failed is forgotten")
				effects, twice := f.effects(), 0
				for _, id := range ids {
					require.NotZero(t, effects[string(id)], "%s is compensated, and has no effect", id)
					twice += effects[string(id)] - 1
				}
				most := 0
				if !inTx {
					most = 4 // what the killed process had done and not recorded
				}
				assert.LessOrEqual(t, twice, most, "effects that happened twice")
				assert.Len(t, effects, sound)
			})
		}
	}
}

func (f *failures) runsOf(id reliable.ID) (n int) {
	f.t.Helper()
	require.NoError(f.t, f.db.QueryRowContext(context.Background(), fmt.Sprintf("SELECT COUNT(*) FROM runs WHERE id = '%s'", id)).Scan(&n))
	return n
}
