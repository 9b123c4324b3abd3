//go:build services && soak

package sqlbroker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/assert"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/schedulertest"
)

// soaking reads topics by plain SELECTs: watermill-sql's subscriber reads hundreds a second, and what is measured is when
// messages are in their topic.
func soaking(makeDatabase func(testing.TB) *database, delay time.Duration) schedulertest.Harness {
	return schedulertest.Harness{Delay: delay, Open: func(t testing.TB) schedulertest.Subject {
		d := makeDatabase(t)
		s := d.scheduling(t)
		s.Subscribe = d.tail
		return s
	}}
}

// tail returns what is in a topic's table, as fast as it can be read, until the test ends. What it has read it deletes, in the
// same transaction, so that it misses nothing that commits late.
func (d *database) tail(t testing.TB, topic string) <-chan *message.Message {
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	messages, ended := make(chan *message.Message), make(chan error, 1)
	go func() {
		defer close(messages)
		for ctx.Err() == nil {
			n, err := d.take(ctx, topic, messages)
			if deadlocked(err) {
				continue
			}
			if err != nil && ctx.Err() == nil {
				ended <- err
				return
			}
			if n == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		ended <- nil
	}()
	t.Cleanup(func() {
		stop()
		assert.NoError(t, <-ended)
	})
	return messages
}

// deadlocked reports whether the database chose this transaction to let another one go on: nothing of it has happened.
func deadlocked(err error) bool {
	const deadlock = 1213
	var refused *mysql.MySQLError
	return errors.As(err, &refused) && refused.Number == deadlock
}

func (d *database) take(ctx context.Context, topic string, to chan<- *message.Message) (int, error) {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback() }()
	table, column := d.quoted("watermill_"+topic), d.quoted("offset")
	rows, err := tx.QueryContext(ctx, "SELECT "+column+", uuid FROM "+table+" ORDER BY "+column+" LIMIT 5000 FOR UPDATE SKIP LOCKED")
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var ids []string
	var list strings.Builder
	for rows.Next() {
		var offset int64
		var id string
		if err := rows.Scan(&offset, &id); err != nil {
			return 0, err
		}
		ids = append(ids, id)
		fmt.Fprint(&list, ",", offset)
	}
	if err := rows.Err(); err != nil || len(ids) == 0 {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM "+table+" WHERE "+column+" IN ("+list.String()[1:]+")"); err != nil {
		return 0, err
	}
	if err := tx.Commit(); err != nil {
		return 0, err
	}
	for _, id := range ids {
		env := reliable.Envelope{ID: reliable.ID(id), Topic: topic}
		select {
		case to <- env.Message():
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return len(ids), nil
}

func TestSoakScheduler_keepsTenThousandASecondOnTime(t *testing.T) {
	const delay = 5 * time.Second
	for name, makeDatabase := range databases {
		t.Run(name, func(t *testing.T) {
			schedulertest.Sustain(t, soaking(makeDatabase, delay), schedulertest.Load{
				Rate: 10_000, For: time.Minute, Delay: delay, Late: 5 * time.Second,
			})
		})
	}
}

func TestSoakScheduler_deliversAHundredThousandThatWaitTogether(t *testing.T) {
	const delay = 60 * time.Second
	for name, makeDatabase := range databases {
		t.Run(name, func(t *testing.T) {
			schedulertest.Pending(t, soaking(makeDatabase, delay), 100_000, schedulertest.Load{Delay: delay, Late: 30 * time.Second})
		})
	}
}
