package sqlbroker

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// Run moves what is due into the tables of its topics until ctx ends, and returns nil once the last transaction has ended.
// It may run in several processes, and several times. While the database is away it goes on trying; what a topic's table
// cannot take (because it is missing, full, or locked for too long) is tried again later, and keeps no other topic waiting.
func (s *Scheduler) Run(ctx context.Context) error {
	var movers sync.WaitGroup
	for range s.movers {
		movers.Go(func() { s.move(ctx) })
	}
	movers.Wait()
	return nil
}

func (s *Scheduler) move(ctx context.Context) {
	wait := s.b.reconnectMin
	for ctx.Err() == nil {
		moved, err := s.pass(ctx)
		switch held, isHeld := errors.AsType[*heldError](err); {
		case isHeld:
			err = s.postpone(ctx, held)
		case err == nil && moved < s.b.batch:
			pause(ctx, s.poll)
		}
		if err == nil {
			wait = s.b.reconnectMin
			continue
		}
		s.b.logger.LogAttrs(ctx, slog.LevelWarn, "moving due messages failed, will be tried again", slog.Any("error", s.b.told(err)))
		pause(ctx, wait)
		wait = min(2*wait, s.b.reconnectMax)
	}
}

// dueRow is a message that is due and that this transaction has locked.
type dueRow struct {
	id    int64
	topic string
	size  int
}

// heldError is why messages of one topic could not be moved; nothing was.
type heldError struct {
	topic string
	ids   []int64
	cause error
}

func (h *heldError) Error() string { return fmt.Sprintf("move to topic %q: %v", h.topic, h.cause) }

func (h *heldError) Unwrap() error { return h.cause }

// pass moves up to a batch of what is due, and says how many. The payloads do not leave the database. It ends what it began
// when ctx ends.
func (s *Scheduler) pass(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.b.confirmTimeout)
	defer cancel()
	tx, err := s.b.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback() }()
	rows, err := s.lockDue(ctx, tx)
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	on := execer(func(ctx context.Context, statement string, args ...any) error {
		_, err := tx.ExecContext(ctx, statement, args...)
		return err
	})
	if err := s.b.dialect.bound(ctx, on, true, s.b.lockWait()); err != nil {
		return 0, err
	}
	err = s.handOver(ctx, on, rows)
	if s.b.classify(err) != lost || err == nil {
		_ = s.b.dialect.bound(ctx, on, true, 0) // or the rollback ends the connection, too
	}
	if err != nil {
		return 0, err
	}
	return len(rows), tx.Commit()
}

// lockDue locks messages that are due and that no other mover has, as many as one transaction is to move.
func (s *Scheduler) lockDue(ctx context.Context, tx *sql.Tx) ([]dueRow, error) {
	found, err := tx.QueryContext(ctx, s.b.dialect.lockDue(s.b.tables, s.b.batch))
	if err != nil {
		return nil, err
	}
	defer found.Close()
	var rows []dueRow
	size := 0
	for found.Next() {
		var row dueRow
		if err := found.Scan(&row.id, &row.topic, &row.size); err != nil {
			return nil, err
		}
		if size += row.size; len(rows) == 0 || size <= moveBytes {
			rows = append(rows, row)
		}
	}
	return rows, found.Err()
}

// moveBytes is how large the messages of a mover's transaction are together, unless a single one is larger.
const moveBytes = 16 * batchBytes

// handOver moves rows, topic by topic in one order, so that movers do not wait for each other in a circle.
func (s *Scheduler) handOver(ctx context.Context, on execer, rows []dueRow) error {
	byTopic := make(map[string][]int64)
	all := make([]int64, len(rows))
	for i, row := range rows {
		byTopic[row.topic] = append(byTopic[row.topic], row.id)
		all[i] = row.id
	}
	for _, topic := range slices.Sorted(maps.Keys(byTopic)) {
		err := on.all(ctx, s.b.dialect.moveDue(s.b.tables, topic, byTopic[topic]))
		switch {
		case err == nil:
		case s.b.classify(err) == lost, s.b.dialect.deadlocked(err): // which says nothing of the topic
			return err
		default:
			return &heldError{topic, byTopic[topic], err}
		}
	}
	return on.all(ctx, []statement{s.b.dialect.deleteDelayed(s.b.tables, all)})
}

// postpone makes what its topic could not take due later, so that other messages are moved meanwhile.
func (s *Scheduler) postpone(ctx context.Context, held *heldError) error {
	_, reason := s.b.verdict(ctx, held.topic, held.cause)
	s.b.logger.LogAttrs(ctx, slog.LevelWarn, "topic takes no messages that are due, they are tried again later",
		slog.String("topic", held.topic), slog.Int("messages", len(held.ids)), slog.Any("error", reason))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.b.confirmTimeout)
	defer cancel()
	later := s.b.dialect.postpone(s.b.tables, held.ids, s.pause)
	_, err := s.b.db.ExecContext(ctx, later.text, later.args...)
	return err
}

// micros rounds up to what a database's clock can tell apart.
func micros(d time.Duration) int64 { return int64((d + time.Microsecond - 1) / time.Microsecond) }
