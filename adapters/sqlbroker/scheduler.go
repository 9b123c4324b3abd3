package sqlbroker

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Scheduler delivers messages later. They wait in a table of their own, with their due time on the database's clock, and a
// mover ([Scheduler.Run]) puts those that are due into the tables of their topics, in one transaction: a message is in
// exactly one of the two, whatever dies when. So any of watermill-sql's subscribers reads the topics.
//
// A message is accepted once its transaction has committed; that takes no mover. Movers may run in any number of processes,
// and share the work; while none runs, messages wait. It is safe for concurrent use, and works as long as its [Broker].
type Scheduler struct {
	b *Broker
	schedulerSettings
	table string // quoted
}

var _ reliable.Scheduler = (*Scheduler)(nil)

// SchedulerOption changes how a Scheduler works.
type SchedulerOption func(*schedulerSettings)

type schedulerSettings struct {
	movers int
	poll   time.Duration
	pause  time.Duration
}

// WithMovers sets how many transactions of one [Scheduler.Run] move due messages at a time; default 2, 1 to 64. Each takes
// a connection of the pool. With one a topic whose table is locked, by a subscriber on MySQL that takes its time, holds up
// the others for half of the confirm timeout; many wait for each other.
func WithMovers(transactions int) SchedulerOption {
	return func(s *schedulerSettings) { s.movers = transactions }
}

// WithDuePollInterval sets the pause of a mover that found nothing due; default 100 ms. It is how late messages are, and
// one short statement each time.
func WithDuePollInterval(d time.Duration) SchedulerOption {
	return func(s *schedulerSettings) { s.poll = d }
}

// WithTopicRetryInterval sets how much later messages are tried again whose topic's table could not take them; default
// 5 s. Too short lets a missing table take the movers' time; too long delays what was due meanwhile.
func WithTopicRetryInterval(d time.Duration) SchedulerOption {
	return func(s *schedulerSettings) { s.pause = d }
}

// longestDelay is as long as stores keep a message back.
const longestDelay = 10 * 365 * 24 * time.Hour

// delayedTable is the name, after the prefix, of the table in which messages wait; no topic has it.
const delayedTable = "waybill_delayed"

// Scheduler returns a scheduler on this broker's database and tables; its own must exist, see [Scheduler.Declare]. It does
// no I/O and starts nothing.
func (b *Broker) Scheduler(opts ...SchedulerOption) (*Scheduler, error) {
	s := schedulerSettings{movers: 2, poll: 100 * time.Millisecond, pause: 5 * time.Second}
	for _, opt := range opts {
		opt(&s)
	}
	var problems []error
	if s.movers < 1 || s.movers > 64 {
		problems = append(problems, reliable.Invalid("WithMovers", "is %d, must lie between 1 and 64", s.movers))
	}
	if s.poll <= 0 {
		problems = append(problems, reliable.Invalid("WithDuePollInterval", "is %v, must be above 0", s.poll))
	}
	if s.pause <= 0 {
		problems = append(problems, reliable.Invalid("WithTopicRetryInterval", "is %v, must be above 0", s.pause))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("sqlbroker: scheduler: %w", err)
	}
	return &Scheduler{b: b, schedulerSettings: s, table: b.tables.delayed()}, nil
}

// Declare makes the table in which messages wait, if it is not there. Several processes may call it at once, and again.
func (s *Scheduler) Declare(ctx context.Context) error {
	err := s.b.dialect.declare(ctx, s.b.db, s.b.dialect.delayedSchema(s.b.tables), s.table)
	if err != nil {
		return fmt.Errorf("sqlbroker: declare scheduler: %w", s.b.told(err))
	}
	return nil
}

// SchedulerSchema returns the SQL that makes the table of schedulers, for those who apply it themselves.
func SchedulerSchema(kind Dialect, opts ...Option) (string, error) {
	s, err := configure(opts)
	if err != nil {
		return "", fmt.Errorf("sqlbroker: scheduler schema: %w", err)
	}
	d := dialectOf(kind)
	if d == nil {
		return "", fmt.Errorf("sqlbroker: scheduler schema: %w",
			reliable.Invalid("kind", "is %d, which is none of the constants", kind))
	}
	return strings.Join(d.delayedSchema(d.tables(s.prefix)), ";\n") + ";\n", nil
}

// Schedule implements [reliable.Scheduler]. All messages of a call are stored in one transaction, all or none; it waits for
// the database no longer than ctx and the confirm timeout. Errors: [reliable.ErrInvalid]; [reliable.ErrNotStored]; after a
// COMMIT whose answer was cut off, [reliable.ErrUnknown]; [reliable.ErrClosed] after the broker's Close. Any delay up to
// ten years is kept.
func (s *Scheduler) Schedule(ctx context.Context, after time.Duration, envs ...reliable.Envelope) error {
	if err := s.schedule(ctx, after, envs); err != nil {
		return fmt.Errorf("sqlbroker: schedule: %w", err)
	}
	return nil
}

func (s *Scheduler) schedule(ctx context.Context, after time.Duration, envs []reliable.Envelope) error {
	if after < 0 || after > longestDelay {
		return reliable.Invalid("after", "is %v, must lie between 0 and %v", after, longestDelay)
	}
	ctx, cancel := context.WithTimeout(ctx, s.b.confirmTimeout)
	defer cancel()
	if err := s.b.awaitReachable(ctx); err != nil {
		return err
	}
	if s.b.life.Err() != nil {
		return reliable.ErrClosed
	}
	limits := s.b.Limits()
	fs := make([]*flight, len(envs))
	for i := range envs {
		f := &flight{}
		if s.b.encode(f, &reliable.Attempt{Envelope: envs[i]}, limits); f.refused != nil {
			return f.refused
		}
		fs[i] = f
	}
	if len(fs) == 0 {
		return nil
	}
	return s.store(ctx, after, fs)
}

func (s *Scheduler) store(ctx context.Context, after time.Duration, fs []*flight) error {
	failed := func(err error) error {
		if s.b.classify(err) == lost {
			s.b.unreachable(s.b.told(err))
		}
		return s.b.told(err)
	}
	tx, err := s.b.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return fmt.Errorf("%w: %w", reliable.ErrNotStored, failed(err))
	}
	defer func() { _ = tx.Rollback() }()
	for _, portion := range portions(fs, s.b.batch) {
		insert := s.b.dialect.delay(s.b.tables, after, portion)
		if _, err := tx.ExecContext(ctx, insert.text, insert.args...); err != nil {
			return fmt.Errorf("%w in table %s: call the scheduler's Declare if it is missing: %w",
				reliable.ErrNotStored, s.table, failed(err))
		}
	}
	if err := tx.Commit(); err != nil {
		told := failed(err)
		if s.b.classify(err) == lost {
			return fmt.Errorf("%w: %w", reliable.ErrUnknown, told)
		}
		return fmt.Errorf("%w: %w", reliable.ErrNotStored, told)
	}
	return nil
}

// portions cuts flights into what one statement stores.
func portions(fs []*flight, most int) (cut [][]*flight) {
	for len(fs) > 0 {
		n, size := 0, 0
		for n < len(fs) && n < most {
			if size += fs[n].size; n > 0 && size > batchBytes {
				break
			}
			n++
		}
		cut, fs = append(cut, fs[:n]), fs[n:]
	}
	return cut
}
