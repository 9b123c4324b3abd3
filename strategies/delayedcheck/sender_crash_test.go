package delayedcheck_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// point is a place in the life of a transaction at which its process can be killed.
type point string

const (
	beforeMark    point = "before the mark"
	afterMark     point = "after the mark"
	beforeChecks  point = "before the checks"
	afterChecks   point = "after the checks"
	beforeCommit  point = "before COMMIT"
	afterCommit   point = "after COMMIT"
	beforePublish point = "before the message"
	afterPublish  point = "after the message"
)

// mortal is everything that a sender works with, in a process that is killed at one point: what it does there never
// returns to the sender, and the database rolls back what was open.
type mortal struct {
	dies    point
	store   *memstore.Store
	witness reliable.Witness
	conn    *membroker.Conn
	later   reliable.Scheduler
}

type killed struct{}

func (killed) Error() string { return "killed" }

func (m *mortal) at(here point) {
	if here == m.dies {
		panic(killed{})
	}
}

func (m *mortal) Begin(ctx context.Context, db any) (reliable.Tx, error) {
	tx, err := m.store.Begin(ctx, db)
	return mortalTx{tx, m}, err
}

func (m *mortal) Bind(tx any) (reliable.Enqueuer, error) { return m.store.Bind(tx) }

type mortalTx struct {
	reliable.Tx
	m *mortal
}

func (tx mortalTx) Commit(ctx context.Context) error {
	tx.m.at(beforeCommit)
	defer tx.m.at(afterCommit)
	return tx.Tx.Commit(ctx)
}

func (m *mortal) Mark(ctx context.Context, tx any) (reliable.Token, error) {
	m.at(beforeMark)
	defer m.at(afterMark)
	return m.witness.Mark(ctx, tx)
}

func (m *mortal) Ask(ctx context.Context, id reliable.ID, token reliable.Token) (reliable.Fate, error) {
	return m.witness.Ask(ctx, id, token)
}

// Schedule happens on a goroutine of the sender: to the transaction its death is one more way to roll back.
func (m *mortal) Schedule(ctx context.Context, after time.Duration, envs ...reliable.Envelope) error {
	if m.dies == beforeChecks {
		return killed{}
	}
	err := m.later.Schedule(ctx, after, envs...)
	if m.dies == afterChecks {
		return killed{}
	}
	return err
}

// Publish happens on a goroutine of the sender, which ends there as far as anybody can see.
func (m *mortal) Publish(ctx context.Context, batch []reliable.Attempt) (int, error) {
	if m.dies == afterPublish {
		_, _ = m.conn.Publish(ctx, batch)
	}
	if m.dies == beforePublish || m.dies == afterPublish {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return m.conn.Publish(ctx, batch)
}

func (m *mortal) Receive(ctx context.Context, limit int) ([]reliable.Confirm, error) {
	return m.conn.Receive(ctx, limit)
}

// place has the process place an order and be killed; it reports whether the order is there.
func (m *mortal) place(t *testing.T, opts ...delayedcheck.SenderOption) bool {
	sender, err := delayedcheck.NewSender(m, m, m, append([]delayedcheck.SenderOption{
		delayedcheck.WithTransactions(m), delayedcheck.WithWitness(m), delayedcheck.WithGroups("billing"),
		delayedcheck.WithSenderDrainTimeout(0),
	}, opts...)...)
	require.NoError(t, err)
	stop := running(sender)
	func() {
		defer func() {
			if death := recover(); death != nil {
				require.Equal(t, killed{}, death)
			}
		}()
		err := delayedcheck.InTx(t.Context(), sender, nil, func(tx *memstore.Tx, out *delayedcheck.Scope) error {
			require.NoError(t, tx.Put("order-1", "placed"))
			return out.Send(order("order-1"))
		})
		if !errors.Is(err, killed{}) {
			require.NoError(t, err)
		}
	}()
	synctest.Wait()
	_ = stop()
	require.NoError(t, m.conn.Close())
	_, placed := m.store.Business("order-1")
	return placed
}

func TestInTx_killedAnywhereLosesNothing(t *testing.T) {
	for dies, committed := range map[point]bool{
		beforeMark: false, afterMark: false, beforeChecks: false, afterChecks: false, beforeCommit: false,
		afterCommit: true, beforePublish: true, afterPublish: true,
	} {
		t.Run(string(dies), func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				s := open(t, faults{})
				m := &mortal{dies: dies, store: s.store, witness: s.witness, conn: s.broker.Connect(), later: s.broker.Scheduler()}
				require.Equal(t, committed, m.place(t))
				untilDue()
				for _, answer := range s.answers() { // by the process that was started in its place
					assert.Equal(t, committed, answer == delayedcheck.Resent, "answered %v", answer)
				}
				assert.Equal(t, committed, len(s.delivered()) > 0, "delivered %v", s.delivered())
			})
		})
	}
}

// What the order as it is usually described loses.
func TestMessageFirst_losesWhatIsKilledBetweenCommitAndCheck(t *testing.T) {
	for dies, lost := range map[point]bool{
		beforeCommit: false, afterCommit: true, beforeChecks: false, afterChecks: false, beforePublish: false, afterPublish: false,
	} {
		t.Run(string(dies), func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				s := open(t, faults{})
				m := &mortal{dies: dies, store: s.store, witness: s.witness, conn: s.broker.Connect(), later: s.broker.Scheduler()}
				placed := m.place(t, delayedcheck.MessageFirst())
				untilDue()
				s.answers()
				assert.Equal(t, lost, placed && len(s.delivered()) == 0)
			})
		})
	}
}

func TestMessageFirst_losesWhatABrokerThatIsAwayTakesNeitherOf(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{
			broker: func(membroker.Attempt) membroker.Verdict { return membroker.Verdict{Act: membroker.LoseMessage} },
			schedule: func(membroker.Scheduled) membroker.ScheduleVerdict {
				return membroker.ScheduleVerdict{Act: membroker.Refuse}
			},
		}, delayedcheck.MessageFirst())
		require.NoError(t, s.place(t.Context(), "order-1"))
		untilDue()
		assert.True(t, s.placed("order-1"))
		assert.Empty(t, s.delivered())
		assert.Empty(t, s.checks())
		assert.EqualValues(t, 1, s.sender.Stats().ChecksLost)
	})
}

func TestMessageFirst_checkSaysThatItCommitted(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := open(t, faults{}, delayedcheck.MessageFirst(), delayedcheck.WithWitness(nil))
		require.NoError(t, s.place(t.Context(), "order-1"))
		untilDue()
		require.Len(t, s.checks(), 1)
		assert.True(t, s.checks()[0].Committed)
		assert.Equal(t, []delayedcheck.Answer{delayedcheck.Resent}, s.answers())
		assert.Len(t, s.delivered(), 2)
	})
}
