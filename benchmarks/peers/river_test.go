//go:build services

package peers

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/stretchr/testify/require"
)

// riverJobs is river, a queue of jobs in PostgreSQL, as an outbox: the job is inserted with the business data, and its
// worker publishes the message.
var riverJobs = contender{name: "river", open: openRiver}

// riverWorkers is how many jobs are worked at once, about what river's authors found to be fastest.
const riverWorkers = 1000

type riverOutbox struct {
	t         testing.TB
	database  database
	pool      *pgxpool.Pool
	publisher *confirmed
	inserts   *river.Client[pgx.Tx]
}

// publishJob is a message as a job.
type publishJob struct {
	Queue   string `json:"queue"`
	ID      string `json:"id"`
	Content []byte `json:"content"`
}

// Kind names the jobs.
func (publishJob) Kind() string { return "publish" }

type publishWorker struct {
	river.WorkerDefaults[publishJob]

	publisher *confirmed
}

// Work publishes the message.
func (w *publishWorker) Work(ctx context.Context, job *river.Job[publishJob]) error {
	return w.publisher.publish(ctx, job.Args.Queue, job.Args.ID, job.Args.Content)
}

func openRiver(t testing.TB, d database, to destination) carrier {
	t.Helper()
	require.Equal(t, postgres, d.product)
	queue, ok := to.(*quorumQueue)
	require.True(t, ok, "for RabbitMQ only")
	d.open(t, "")
	config, err := pgxpool.ParseConfig(d.dsn)
	require.NoError(t, err)
	config.MaxConns = connections
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: silent})
	require.NoError(t, err)
	_, err = migrator.Migrate(context.Background(), rivermigrate.DirectionUp, nil)
	require.NoError(t, err)
	inserts, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Logger: silent})
	require.NoError(t, err)
	return &riverOutbox{t, d, pool, newConfirmed(t, queue.url), inserts}
}

func (r *riverOutbox) relay() (stop func()) {
	r.t.Helper()
	workers := river.NewWorkers()
	river.AddWorker(workers, &publishWorker{publisher: r.publisher})
	client, err := river.NewClient(riverpgxv5.New(r.pool), &river.Config{
		// As in the benchmark that river comes with.
		FetchCooldown:     2 * time.Millisecond,
		FetchPollInterval: 20 * time.Millisecond,
		Logger:            silent,
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: riverWorkers}},
		Workers:           workers,
	})
	require.NoError(r.t, err)
	require.NoError(r.t, client.Start(context.Background()))
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(r.t, client.Stop(ctx))
	}
}

func (r *riverOutbox) send(ctx context.Context, topic string, content []byte) error {
	_, err := r.inserts.Insert(ctx, r.job(topic, content), nil)
	return err
}

func (r *riverOutbox) sell(ctx context.Context, sale int, topic string, content []byte) error {
	return pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, r.database.sale(), sale); err != nil {
			return err
		}
		_, err := r.inserts.InsertTx(ctx, tx, r.job(topic, content), nil)
		return err
	})
}

func (r *riverOutbox) job(topic string, content []byte) publishJob {
	return publishJob{Queue: topic, ID: messageID(content), Content: content}
}
