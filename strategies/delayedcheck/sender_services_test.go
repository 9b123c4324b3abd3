//go:build services

package delayedcheck_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	_ "github.com/go-sql-driver/mysql" // the driver "mysql"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

// premises are a database with the table "orders", who begins transactions in it, and who tells their fate.
type premises struct {
	db         *sql.DB
	insert     string
	transactor reliable.Transactor
	witness    reliable.Witness
}

func opened(t *testing.T, driver, dsn, insert string) premises {
	db, err := sql.Open(driver, dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return premises{db: db, insert: insert}
}

func promised() mysqlstore.WitnessRow {
	return mysqlstore.WitnessRow{Table: "orders", Column: "id", Promise: mysqlstore.RowPromise{
		TransactionInserts: true, KeyIsUnique: true, NeverDeletedInTime: true, SameWritableNode: true, IDDerivesFromRow: true,
	}}
}

var everyWitness = map[string]func(t *testing.T) premises{
	"postgres": func(t *testing.T) premises {
		p := opened(t, "pgx", testenv.Postgres(t), "INSERT INTO orders (id) VALUES ($1)")
		store, err := postgresstore.New(p.db)
		require.NoError(t, err)
		p.transactor = store
		p.witness, err = postgresstore.NewWitness(p.db)
		require.NoError(t, err)
		return p
	},
	"mariadb row": func(t *testing.T) premises {
		p := opened(t, "mysql", testenv.MariaDB(t), "INSERT INTO orders (id) VALUES (?)")
		store, err := mysqlstore.New(p.db)
		require.NoError(t, err)
		p.transactor = store
		p.witness, err = mysqlstore.NewRowWitness(p.db, promised())
		require.NoError(t, err)
		return p
	},
	"mariadb marker": func(t *testing.T) premises {
		p := opened(t, "mysql", testenv.MariaDB(t), "INSERT INTO orders (id) VALUES (?)")
		store, err := mysqlstore.New(p.db)
		require.NoError(t, err)
		require.NoError(t, store.Migrate(t.Context()))
		p.transactor = store
		p.witness, err = store.MarkerWitness(time.Hour)
		require.NoError(t, err)
		return p
	},
	"sqlite row": func(t *testing.T) premises {
		store, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "shop.db"))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, store.Close()) })
		witness, err := sqlitestore.NewRowWitness(store.DB(), promised())
		require.NoError(t, err)
		return premises{store.DB(), "INSERT INTO orders (id) VALUES (?)", store, witness}
	},
}

// atCommit has something happen in the place of each COMMIT.
type atCommit struct {
	reliable.Transactor
	commit func(ctx context.Context, tx reliable.Tx) error
}

func (a *atCommit) Begin(ctx context.Context, db any) (reliable.Tx, error) {
	tx, err := a.Transactor.Begin(ctx, db)
	return atCommitTx{tx, a}, err
}

type atCommitTx struct {
	reliable.Tx
	a *atCommit
}

func (tx atCommitTx) Commit(ctx context.Context) error {
	if tx.a.commit != nil {
		return tx.a.commit(ctx, tx.Tx)
	}
	return tx.Tx.Commit(ctx)
}

// soon delivers checks long before their time.
type soon struct{ reliable.Scheduler }

func (s soon) Schedule(ctx context.Context, _ time.Duration, envs ...reliable.Envelope) error {
	return s.Scheduler.Schedule(ctx, 100*time.Millisecond, envs...)
}

func next(t *testing.T, messages <-chan *message.Message) *message.Message {
	select {
	case msg := <-messages:
		require.NotNil(t, msg, "the subscription has ended")
		msg.Ack()
		return msg
	case <-time.After(patience):
		require.FailNow(t, "nothing came")
		return nil
	}
}

// Checks through RabbitMQ's delay queues, answered by the witness of each database while the transaction is open, and when
// it has committed, rolled back, or rolled back to a savepoint.
func TestSender_checksAreAnsweredByTheDatabase(t *testing.T) {
	for name, open := range everyWitness {
		t.Run(name, func(t *testing.T) {
			p := open(t)
			_, err := p.db.Exec("CREATE TABLE orders (id VARCHAR(64) PRIMARY KEY)")
			require.NoError(t, err)
			broker, err := rabbitmqbroker.NewFromURL(testenv.RabbitMQ(t), rabbitmqbroker.WithQuorumQueues())
			require.NoError(t, err)
			defer func() { require.NoError(t, broker.Close()) }()
			scheduler, err := broker.Scheduler([]time.Duration{100 * time.Millisecond}, rabbitmqbroker.WithShards(1))
			require.NoError(t, err)
			defer func() { require.NoError(t, scheduler.Close()) }()
			subscriber, err := broker.Subscriber()
			require.NoError(t, err)
			defer func() { require.NoError(t, subscriber.Close()) }()
			due, err := subscriber.Subscribe(t.Context(), delayedcheck.DefaultCheckTopic)
			require.NoError(t, err)
			delivered, err := subscriber.Subscribe(t.Context(), orders)
			require.NoError(t, err)

			transactions := &atCommit{Transactor: p.transactor}
			sender, err := delayedcheck.NewSender(broker, broker, soon{scheduler}, delayedcheck.WithGroups("billing"),
				delayedcheck.WithTransactions(transactions), delayedcheck.WithWitness(p.witness), delayedcheck.WithCheckTimeout(patience))
			require.NoError(t, err)
			stop := running(sender)
			defer func() { require.NoError(t, stop()) }()
			place := func(id reliable.ID) error {
				return delayedcheck.InTx(t.Context(), sender, p.db, func(tx *sql.Tx, out *delayedcheck.Scope) error {
					voucher := out.Nested(func(out *delayedcheck.Scope) error {
						_, err := tx.Exec(p.insert, string(id)+"-voucher")
						return errors.Join(err, out.Send(order(id+"-voucher")), errors.New("expired"))
					})
					assert.ErrorContains(t, voucher, "expired")
					_, err := tx.Exec(p.insert, string(id))
					return errors.Join(err, out.Send(order(id)))
				})
			}
			answer := func(check delayedcheck.Check, id reliable.ID, want delayedcheck.Answer) {
				t.Helper()
				assert.Equal(t, id, check.Message.ID)
				answer, err := sender.Resend(t.Context(), check)
				require.NoError(t, err)
				assert.Equal(t, want, answer)
			}
			dueCheck := func() delayedcheck.Check {
				check, err := delayedcheck.CheckOf(next(t, due))
				require.NoError(t, err)
				return check
			}

			goOn, placed := make(chan struct{}), make(chan error, 1)
			transactions.commit = func(ctx context.Context, tx reliable.Tx) error { <-goOn; return tx.Commit(ctx) }
			go func() { placed <- place("order-1") }()
			check := dueCheck()
			answer(check, "order-1", delayedcheck.StillOpen)
			close(goOn)
			require.NoError(t, <-placed)
			assert.Equal(t, "order-1", next(t, delivered).UUID)
			answer(check, "order-1", delayedcheck.Resent)
			assert.Equal(t, "order-1", next(t, delivered).UUID)

			transactions.commit = func(ctx context.Context, tx reliable.Tx) error {
				return errors.Join(tx.Rollback(ctx), errors.New("not committed"))
			}
			require.ErrorIs(t, place("order-2"), reliable.ErrNotStored)
			answer(dueCheck(), "order-2", delayedcheck.Aborted)

			transactions.commit = nil
			require.NoError(t, place("order-3"))
			assert.Equal(t, "order-3", next(t, delivered).UUID, "nothing came of order-2, nor of a voucher")
			answer(dueCheck(), "order-3", delayedcheck.Resent)
			assert.Equal(t, "order-3", next(t, delivered).UUID)
		})
	}
}
