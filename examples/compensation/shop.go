package main

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// shop is the business: tables of orders and refunds, and an outbox in the same file.
type shop struct {
	db     *sql.DB
	store  *sqlitestore.Store
	sender *tagging.Sender
	sent   []reliable.ID
}

func newShop(ctx context.Context, store *sqlitestore.Store) (*shop, error) {
	sender, err := tagging.NewSender(store)
	if err != nil {
		return nil, err
	}
	for _, statement := range []string{
		`CREATE TABLE orders (id TEXT PRIMARY KEY)`,
		`CREATE TABLE refunds (order_id TEXT, reason TEXT)`,
	} {
		if _, err := store.DB().ExecContext(ctx, statement); err != nil {
			return nil, fmt.Errorf("create tables: %w", err)
		}
	}
	return &shop{db: store.DB(), store: store, sender: sender}, nil
}

// place stores an order, or an invoice, with its message: both, or neither.
func (s *shop) place(ctx context.Context, id reliable.ID, topic string, size int) error {
	err := tagging.InTx(ctx, s.sender, s.db, func(tx *sql.Tx, out *tagging.Scope) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO orders (id) VALUES (?)`, string(id)); err != nil {
			return err
		}
		return out.Send(reliable.Envelope{ID: id, Topic: topic, Payload: bytes.Repeat([]byte("x"), size)})
	})
	if err != nil {
		return fmt.Errorf("place %s: %w", id, err)
	}
	s.sent = append(s.sent, id)
	return nil
}

// refund is the handler of failed orders. What it writes commits with the message's status, or not at all.
func (s *shop) refund(ctx context.Context, tx *sql.Tx, record *reliable.Record) error {
	why := "unknown"
	if n := len(record.History); n > 0 {
		why = record.History[n-1].Reason
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO refunds (order_id, reason) VALUES (?, ?)`, string(record.ID), why)
	return err
}

// refunds returns how often each order was refunded.
func (s *shop) refunds(ctx context.Context) (map[reliable.ID]int, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT order_id, COUNT(*) FROM refunds GROUP BY order_id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	counts := make(map[reliable.ID]int)
	for rows.Next() {
		var id reliable.ID
		var n int
		if err := rows.Scan(&id, &n); err != nil {
			return nil, err
		}
		counts[id] = n
	}
	return counts, rows.Err()
}

// await waits until all messages of ids have one of the statuses.
func (s *shop) await(ctx context.Context, status reliable.Status, ids ...reliable.ID) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		records, err := s.store.Lookup(ctx, ids...)
		if err != nil {
			return err
		}
		there := 0
		for i := range records {
			if records[i].Status == status {
				there++
			}
		}
		if there == len(ids) {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d messages to be %v, and %d are: %w", len(ids), status, there, ctx.Err())
		}
	}
}

// consumer is another service. It counts what it gets.
type consumer struct {
	mu       sync.Mutex
	receipts map[reliable.ID]int
	came     chan struct{} // something came
	closers  []func() error
	done     sync.WaitGroup
}

func newConsumer() *consumer {
	return &consumer{receipts: make(map[reliable.ID]int), came: make(chan struct{}, 1)}
}

func (c *consumer) consume(ctx context.Context, queues *natsbroker.Broker, topic string) error {
	subscriber, err := queues.Subscriber("warehouse")
	if err != nil {
		return err
	}
	c.closers = append(c.closers, subscriber.Close)
	messages, err := subscriber.Subscribe(ctx, topic)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", topic, err)
	}
	c.done.Go(func() {
		for msg := range messages {
			c.receive(msg)
		}
	})
	return nil
}

func (c *consumer) receive(msg *message.Message) {
	c.mu.Lock()
	c.receipts[reliable.ID(msg.UUID)]++
	c.mu.Unlock()
	msg.Ack()
	select {
	case c.came <- struct{}{}:
	default:
	}
}

// got waits until n different messages were received, but not for long, and returns what was.
func (c *consumer) got(ctx context.Context, n int) map[reliable.ID]int {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for {
		c.mu.Lock()
		receipts := maps.Clone(c.receipts)
		c.mu.Unlock()
		if len(receipts) >= n {
			return receipts
		}
		select {
		case <-c.came:
		case <-ctx.Done():
			return receipts
		}
	}
}

func (c *consumer) close() (err error) {
	for _, closer := range c.closers {
		if closing := closer(); closing != nil {
			err = closing
		}
	}
	c.done.Wait()
	return err
}
