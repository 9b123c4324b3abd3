package orders

import (
	"context"
	"database/sql"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
	_ "modernc.org/sqlite" // the consumer's log is a SQLite file, whatever the shop uses
)

// consumer is another service: it knows the broker, and has a database of its own.
type consumer struct {
	log  *sql.DB
	done sync.WaitGroup
}

// newConsumer makes the log in a new file.
func newConsumer(ctx context.Context, file string) (*consumer, error) {
	const settings = "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)"
	log, err := sql.Open("sqlite", "file:"+file+settings)
	if err != nil {
		return nil, fmt.Errorf("open the consumer's log: %w", err)
	}
	log.SetMaxOpenConns(2) // SQLite has one writer; the other connection reads
	if _, err := log.ExecContext(ctx, `CREATE TABLE receipts (number INTEGER PRIMARY KEY, id TEXT NOT NULL)`); err != nil {
		_ = log.Close()
		return nil, fmt.Errorf("create the consumer's log: %w", err)
	}
	return &consumer{log: log}, nil
}

// start hands what comes to handle until ctx ends.
func (c *consumer) start(ctx context.Context, subscriber message.Subscriber, topic string, handle message.NoPublishHandlerFunc) error {
	messages, err := subscriber.Subscribe(ctx, topic)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", topic, err)
	}
	c.done.Go(func() {
		for msg := range messages {
			if err := handle(msg); err != nil {
				msg.Nack()
				continue
			}
			msg.Ack()
		}
	})
	return nil
}

// note writes one row per receipt, so that duplicates can be counted; only what is in the log is acked.
func (c *consumer) note(msg *message.Message) error {
	_, err := c.log.ExecContext(msg.Context(), `INSERT INTO receipts (id) VALUES (?)`, msg.UUID)
	return err
}

// delivered returns how many different messages the log holds.
func (c *consumer) delivered(ctx context.Context) (n int, err error) {
	err = c.log.QueryRowContext(ctx, `SELECT COUNT(DISTINCT id) FROM receipts`).Scan(&n)
	return n, err
}

// receipts returns how often each message was received.
func (c *consumer) receipts(ctx context.Context) (map[string]int, error) {
	rows, err := c.log.QueryContext(ctx, `SELECT id, COUNT(*) FROM receipts GROUP BY id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	counts := make(map[string]int)
	for rows.Next() {
		var id string
		var n int
		if err := rows.Scan(&id, &n); err != nil {
			return nil, err
		}
		counts[id] = n
	}
	return counts, rows.Err()
}

// close waits for the consumer's end, which its context or its subscriber has brought about, and closes the log.
func (c *consumer) close() error {
	c.done.Wait()
	return c.log.Close()
}
