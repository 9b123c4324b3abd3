//go:build services

package faults

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// witnesses are the kinds of witness on the databases that have them.
var witnesses = map[string]func(testing.TB) premises{
	"postgres/transaction id": func(t testing.TB) premises { return premises{Witness: "transaction id", Database: postgres(t)} },
	"postgres/marker":         func(t testing.TB) premises { return premises{Witness: "marker", Database: postgres(t)} },
	"postgres/function":       func(t testing.TB) premises { return premises{Witness: "function", Database: postgres(t)} },
	"mariadb/row":             func(t testing.TB) premises { return premises{Witness: "row", Database: mariaDB(t)} },
	"mariadb/marker":          func(t testing.TB) premises { return premises{Witness: "marker", Database: mariaDB(t)} },
	"mariadb/function":        func(t testing.TB) premises { return premises{Witness: "function", Database: mariaDB(t)} },
	"sqlite/row":              func(t testing.TB) premises { return premises{Witness: "row", SQLite: sqliteFile(t)} },
	"sqlite/marker":           func(t testing.TB) premises { return premises{Witness: "marker", SQLite: sqliteFile(t)} },
}

func sqliteFile(t testing.TB) string { return filepath.Join(t.TempDir(), "shop.db") }

func placeChecked(ctx context.Context, sender *delayedcheck.Sender, db *sql.DB, insert, id string) error {
	return delayedcheck.InTx(ctx, sender, db, func(tx *sql.Tx, out *delayedcheck.Scope) error {
		if _, err := tx.ExecContext(ctx, insert, id); err != nil {
			return err
		}
		return out.Send(reliable.Envelope{ID: reliable.ID(id), Topic: queue, Payload: []byte(id)})
	})
}

// A process is stopped between check and COMMIT until its check is due and asked about; then it goes on, or dies.
func TestDelayed_aPausedProcessIsNeitherDroppedWhileItCanCommitNorSentBefore(t *testing.T) {
	t.Parallel()
	for name, makePremises := range witnesses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			premises, amqpURL := makePremises(t), testenv.RabbitMQ(t)
			declare(t, amqpURL, queue, quorum)
			declare(t, amqpURL, delayedcheck.DefaultCheckTopic, quorum)
			db, sender, broker, scheduler, err := premises.sender(t.Context(), amqpURL, func(t reliable.Transactor) reliable.Transactor { return t })
			require.NoError(t, err)
			_, err = db.Exec("CREATE TABLE orders (id VARCHAR(64) PRIMARY KEY)")
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			ran := goRun(ctx, sender.Run)
			defer func() {
				cancel()
				assert.NoError(t, errors.Join(<-ran, scheduler.Close(), broker.Close(), db.Close()))
			}()
			p := &pausedProcess{t: t, sender: sender, dueChecks: dueChecks(t, broker), child: startChild(t, job{Pausing: &pausing{premises, amqpURL}})}

			ends := reliable.FateCommitted
			if premises.Witness == "function" { // the server has ended a transaction that did nothing
				ends = reliable.FateAborted
			}
			resends := p.goesOn("order-1", ends)
			p.dies("order-2")

			copies := consume(t, amqpURL, queue)
			assert.Zero(t, copies["order-2"], "sent, and never committed")
			exists := premises.exists(db)
			for id, want := range map[reliable.ID]bool{"order-1": ends == reliable.FateCommitted, "order-2": false} {
				committed, err := exists(t.Context(), id)
				require.NoError(t, err)
				assert.Equal(t, want, committed, id)
			}
			if ends == reliable.FateCommitted {
				assert.NotZero(t, copies["order-1"])
				assert.LessOrEqual(t, copies["order-1"], 1+resends)
			} else {
				assert.Zero(t, copies["order-1"], "sent, and never committed")
			}
		})
	}
}

// dueChecks returns what waits for the check of a message that is due.
func dueChecks(t *testing.T, broker *rabbitmqbroker.Broker) func(id string) delayedcheck.Check {
	t.Helper()
	subscriber, err := broker.Subscriber()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, subscriber.Close()) })
	due, err := subscriber.Subscribe(t.Context(), delayedcheck.DefaultCheckTopic)
	require.NoError(t, err)
	return func(id string) delayedcheck.Check {
		t.Helper()
		select {
		case msg := <-due:
			msg.Ack()
			check, err := delayedcheck.CheckOf(msg)
			require.NoError(t, err)
			require.Equal(t, reliable.ID(id), check.Message.ID)
			return check
		case <-time.After(patience):
			require.FailNow(t, "no check came due", id)
			panic("not reached")
		}
	}
}

func goRun(ctx context.Context, run func(context.Context) error) <-chan error {
	ran := make(chan error, 1)
	go func() { ran <- run(ctx) }()
	return ran
}

// pausedProcess is a child that stops itself before each COMMIT, beside one that answers its checks.
type pausedProcess struct {
	t         *testing.T
	sender    *delayedcheck.Sender
	dueChecks func(id string) delayedcheck.Check
	child     *child
}

func (p *pausedProcess) answer(check delayedcheck.Check) delayedcheck.Answer {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	answer, err := p.sender.Resend(ctx, check)
	require.NoError(p.t, err)
	return answer
}

// goesOn asks while the child is stopped, and once it has gone on; it returns how often the message was sent again.
func (p *pausedProcess) goesOn(id string, ends reliable.Fate) (resends int) {
	p.t.Helper()
	p.child.tell(id)
	check := p.dueChecks(id) // by now it is stopped for longer than the delay
	if ends == reliable.FateAborted {
		p.aborts(check)
		p.child.await("stops")
		p.child.signal(syscall.SIGCONT)
		p.child.await("refused " + id)
		require.Equal(p.t, delayedcheck.Aborted, p.answer(check))
		return 0
	}
	for range 3 {
		require.Equal(p.t, delayedcheck.StillOpen, p.answer(check), "it can still commit")
	}
	p.child.await("stops")
	p.child.signal(syscall.SIGCONT)
	p.child.await("committed " + id)
	require.Equal(p.t, delayedcheck.Resent, p.answer(check))
	return 1
}

// dies kills the child while it is stopped.
func (p *pausedProcess) dies(id string) {
	p.t.Helper()
	p.child.tell(id)
	check := p.dueChecks(id)
	require.NotEqual(p.t, delayedcheck.Resent, p.answer(check))
	p.child.kill()
	p.aborts(check)
	require.Equal(p.t, delayedcheck.Aborted, p.answer(check), "asked again")
}

// aborts asks until the transaction is aborted.
func (p *pausedProcess) aborts(check delayedcheck.Check) {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		answer := p.answer(check)
		require.Contains(p.t, []delayedcheck.Answer{delayedcheck.StillOpen, delayedcheck.Aborted}, answer)
		return answer == delayedcheck.Aborted
	}, patience, 100*time.Millisecond)
}
