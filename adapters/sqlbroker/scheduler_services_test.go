//go:build services

package sqlbroker_test

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/schedulertest"
)

// mover is a scheduler on a pool of its own with a Run in the background, as another process is.
type mover struct {
	*sqlbroker.Scheduler
	close func()
}

func (d *database) mover(t testing.TB, db *sql.DB, opts ...sqlbroker.SchedulerOption) *mover {
	t.Helper()
	b := d.broker(t, db, nil)
	s, err := b.Scheduler(append([]sqlbroker.SchedulerOption{sqlbroker.WithDuePollInterval(20 * time.Millisecond)}, opts...)...)
	require.NoError(t, err)
	require.NoError(t, s.Declare(within(t)))
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	m := &mover{s, sync.OnceFunc(func() {
		stop()
		assert.NoError(t, <-ended)
		assert.NoError(t, b.Close())
	})}
	t.Cleanup(m.close)
	return m
}

// scheduling is a subject on a database; its movers and subscribers are of as many pools as there would be processes.
func (d *database) scheduling(t testing.TB) schedulertest.Subject {
	current := d.mover(t, d.db)
	admin := d.broker(t, d.db, nil)
	return schedulertest.Subject{
		Scheduler: current,
		Topic: func(t testing.TB) string {
			name := topicName("checks")
			require.NoError(t, admin.Declare(within(t), name))
			return name
		},
		Subscribe: func(t testing.TB, topic string) <-chan *message.Message {
			sub, err := admin.Subscriber("suite", sqlbroker.WithFetch(100), sqlbroker.WithPollInterval(20*time.Millisecond),
				sqlbroker.WithResendInterval(50*time.Millisecond))
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, sub.Close()) })
			messages, err := sub.Subscribe(t.Context(), topic)
			require.NoError(t, err)
			return messages
		},
		Reopen: func(t testing.TB) reliable.Scheduler {
			current.close()
			return d.mover(t, d.db)
		},
	}
}

// privately returns an empty database on a server that the test may kill.
var privately = map[string]func(testing.TB) (*database, interface {
	Kill()
	Start()
}){
	"MariaDB": func(t testing.TB) (*database, interface {
		Kill()
		Start()
	}) {
		server := testservers.StartMariaDB(t)
		config, err := mysql.ParseDSN(server.DSN())
		require.NoError(t, err)
		config.InterpolateParams = true
		return newDatabase(t, sqlbroker.MySQL, "mysql", config.FormatDSN(), config.FormatDSN(), nil), server
	},
	"PostgreSQL": func(t testing.TB) (*database, interface {
		Kill()
		Start()
	}) {
		server := testservers.StartPostgres(t)
		return newDatabase(t, sqlbroker.Postgres, "pgx", server.URL(), server.URL(), nil), server
	},
}

func TestScheduler_conforms(t *testing.T) {
	for name, makeDatabase := range databases {
		t.Run(name, func(t *testing.T) {
			schedulertest.Run(t, schedulertest.Harness{
				Delay: time.Second, Tolerance: time.Second, TooLong: 20 * 365 * 24 * time.Hour,
				Volume: 400, // watermill-sql's subscriber reads hundreds a second, and shares the machine
				Open:   func(t testing.TB) schedulertest.Subject { return makeDatabase(t).scheduling(t) },
				OpenToCrash: func(t testing.TB) schedulertest.Subject {
					d, server := privately[name](t)
					s := d.scheduling(t)
					s.Crash = func(testing.TB) {
						server.Kill()
						server.Start()
					}
					return s
				},
			})
		})
	}
}

func TestScheduler_severalMoversMoveEachMessageOnce(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		topics := []string{topicName("a"), topicName("b"), topicName("c")}
		d.broker(t, d.db, topics)
		movers := make([]*mover, 3)
		for i := range movers {
			pool := d.another()
			t.Cleanup(func() { assert.NoError(t, pool.Close()) })
			movers[i] = d.mover(t, pool, sqlbroker.WithMovers(3))
		}
		const batches, batch = 30, 40
		var all sync.WaitGroup
		for i, m := range movers {
			all.Go(func() {
				for n := range batches {
					envs := make([]reliable.Envelope, batch)
					for j := range envs {
						envs[j] = reliable.Envelope{ID: reliable.NewID(), Topic: topics[(n+j)%3], Payload: fmt.Append(nil, i, n, j)}
					}
					assert.NoError(t, m.Schedule(within(t), time.Duration(n%3)*100*time.Millisecond, envs...))
				}
			})
		}
		all.Wait()
		require.EventuallyWithT(t, func(t *assert.CollectT) {
			assert.Equal(t, 0, d.waiting(t))
		}, 2*patience, 50*time.Millisecond)
		distinct, copies := 0, 0
		for _, topic := range topics {
			for _, n := range d.stored(t, topic) {
				distinct++
				copies += n
			}
		}
		assert.Equal(t, len(movers)*batches*batch, distinct)
		assert.Equal(t, distinct, copies, "moved in one transaction, so once")
	})
}

// waiting counts what is not due or not moved.
func (d *database) waiting(t require.TestingT) (n int) {
	err := d.db.QueryRowContext(context.Background(), "SELECT COUNT(*) FROM "+d.quoted("watermill_waybill_delayed")).Scan(&n)
	require.NoError(t, err)
	return n
}

func TestScheduler_aTopicWithoutTableKeepsNoOtherWaitingAndLosesNothing(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		missing, healthy := topicName("missing"), topicName("healthy")
		d.broker(t, d.db, []string{healthy})
		s := d.mover(t, d.db, sqlbroker.WithTopicRetryInterval(200*time.Millisecond))
		for i := range 10 {
			require.NoError(t, s.Schedule(within(t), 0,
				reliable.Envelope{ID: reliable.ID(fmt.Sprint("missing-", i)), Topic: missing},
				reliable.Envelope{ID: reliable.ID(fmt.Sprint("healthy-", i)), Topic: healthy}))
		}
		require.Eventually(t, func() bool { return len(d.stored(t, healthy)) == 10 }, patience, 50*time.Millisecond)
		assert.Equal(t, 10, d.waiting(t))
		d.broker(t, d.db, []string{missing})
		require.Eventually(t, func() bool { return len(d.stored(t, missing)) == 10 }, patience, 50*time.Millisecond)
	})
}

func TestScheduler_saysWhatItDidNotStore(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		b := d.broker(t, d.db, nil)
		s, err := b.Scheduler()
		require.NoError(t, err)
		check := reliable.Envelope{ID: "1", Topic: "checks"}
		require.ErrorIs(t, s.Schedule(within(t), time.Second, check), reliable.ErrNotStored, "there is no table")
		require.NoError(t, s.Declare(within(t)))
		require.NoError(t, s.Declare(within(t)), "declaring again")
		wrong := check
		wrong.Topic = "no table's name"
		require.ErrorIs(t, s.Schedule(within(t), time.Second, check, wrong), reliable.ErrInvalid)
		assert.Equal(t, 0, d.waiting(t), "all or none")
		wrong.Topic = "waybill_delayed"
		require.ErrorIs(t, s.Schedule(within(t), time.Second, wrong), reliable.ErrInvalid)

		behind := d.broker(t, d.via, nil)
		s, err = behind.Scheduler()
		require.NoError(t, err)
		d.proxy.Refuse(true)
		d.proxy.CutAll()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		require.Error(t, s.Schedule(ctx, time.Second, check))
		d.proxy.Refuse(false)
		require.Eventually(t, func() bool { return s.Schedule(within(t), time.Second, check) == nil }, patience, 50*time.Millisecond)
		require.NoError(t, behind.Close())
		require.ErrorIs(t, s.Schedule(within(t), time.Second, check), reliable.ErrClosed)
	})
}

func TestScheduler_storesALargeCallInOneTransaction(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		topic := topicName("large")
		b := d.broker(t, d.db, []string{topic}, sqlbroker.WithBatch(100))
		s, err := b.Scheduler()
		require.NoError(t, err)
		require.NoError(t, s.Declare(within(t)))
		envs := make([]reliable.Envelope, 1050)
		for i := range envs {
			envs[i] = reliable.Envelope{ID: reliable.NewID(), Topic: topic, Payload: make([]byte, 4<<10)}
		}
		require.NoError(t, s.Schedule(within(t), 0, envs...))
		assert.Equal(t, len(envs), d.waiting(t))
		d.mover(t, d.db)
		require.Eventually(t, func() bool { return len(d.stored(t, topic)) == len(envs) }, patience, 50*time.Millisecond)
	})
}

func TestScheduler_reportsAllThatIsWrongTogether(t *testing.T) {
	b, err := sqlbroker.New(sqlbroker.MySQL, &sql.DB{})
	require.NoError(t, err)
	_, err = b.Scheduler(sqlbroker.WithMovers(0), sqlbroker.WithDuePollInterval(0), sqlbroker.WithTopicRetryInterval(-1))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, option := range []string{"WithMovers", "WithDuePollInterval", "WithTopicRetryInterval"} {
		assert.ErrorContains(t, err, option)
	}
	for _, kind := range []sqlbroker.Dialect{sqlbroker.MySQL, sqlbroker.Postgres} {
		script, err := sqlbroker.SchedulerSchema(kind, sqlbroker.WithTablePrefix("shop_"))
		require.NoError(t, err)
		assert.Contains(t, script, "shop_waybill_delayed")
	}
	_, err = sqlbroker.SchedulerSchema(0)
	require.ErrorIs(t, err, reliable.ErrInvalid)
}
