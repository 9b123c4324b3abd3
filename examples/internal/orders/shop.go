package orders

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/waybillmq/waybill/reliable"
)

// clerks is how many goroutines place orders.
const clerks = 8

// errDeclined is why one order is never placed.
var errDeclined = errors.New("card declined")

// order is the business row, and as JSON the payload of its message.
type order struct {
	ID       string `json:"id"`
	Item     string `json:"item"`
	Quantity int    `json:"quantity"`
}

// shop is the business: a table of orders, and what sends their messages.
type shop struct {
	db     *sql.DB
	insert string
	inTx   transaction
	placed atomic.Int64
}

// transaction runs fn in a transaction of the shop's database; messages that fn sends go out if it commits.
type transaction func(ctx context.Context, db *sql.DB, fn func(tx *sql.Tx, send func(...reliable.Envelope) error) error) error

func newShop(ctx context.Context, db *sql.DB, numbered bool, inTx transaction) (*shop, error) {
	_, err := db.ExecContext(ctx, `CREATE TABLE orders (id VARCHAR(64) PRIMARY KEY, item VARCHAR(64), quantity INT)`)
	if err != nil {
		return nil, fmt.Errorf("create table of orders: %w", err)
	}
	insert := `INSERT INTO orders (id, item, quantity) VALUES (?, ?, ?)`
	if numbered {
		insert = `INSERT INTO orders (id, item, quantity) VALUES ($1, $2, $3)`
	}
	return &shop{db: db, insert: insert, inTx: inTx}, nil
}

// place stores the order and sees to its message: both, or neither.
func (s *shop) place(ctx context.Context, topic string, o order) error {
	payload, err := json.Marshal(o)
	if err != nil {
		return err
	}
	err = s.inTx(ctx, s.db, func(tx *sql.Tx, send func(...reliable.Envelope) error) error {
		_, err := tx.ExecContext(ctx, s.insert, o.ID, o.Item, o.Quantity)
		if err != nil {
			return err
		}
		// The ID derives from the order, so that a repeated operation would store its message once.
		if err := send(reliable.Envelope{ID: reliable.ID(o.ID), Topic: topic, Payload: payload}); err != nil {
			return err
		}
		if o.Quantity > 100 {
			return errDeclined
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("place %s: %w", o.ID, err)
	}
	s.placed.Add(1)
	return nil
}

// placeAll places the orders with the numbers first to last from several goroutines; topic says where each one's message
// goes. after is called with each number that was placed.
func (s *shop) placeAll(ctx context.Context, first, last int, topic func(number int) string, after func(number int)) error {
	numbers := make(chan int)
	failed := make(chan error, clerks)
	var workers sync.WaitGroup
	for range clerks {
		workers.Go(func() {
			for number := range numbers {
				o := order{ID: fmt.Sprintf("order-%06d", number), Item: "teapot", Quantity: 1 + number%3}
				if err := s.place(ctx, topic(number), o); err != nil {
					failed <- err
					return
				}
				after(number)
			}
		})
	}
	var err error
	for number := first; number <= last && err == nil; number++ {
		select {
		case numbers <- number:
		case err = <-failed:
		}
	}
	close(numbers)
	workers.Wait()
	close(failed)
	for further := range failed {
		err = errors.Join(err, further)
	}
	return err
}

// placeDeclined tries an order whose transaction rolls back after its message was added.
func (s *shop) placeDeclined(ctx context.Context, topic string) (id string, err error) {
	o := order{ID: "order-declined", Item: "teapot", Quantity: 1000}
	switch err := s.place(ctx, topic, o); {
	case err == nil:
		return o.ID, errors.New("the order that should have been declined was placed")
	case errors.Is(err, errDeclined):
		return o.ID, nil
	default:
		return o.ID, err
	}
}

// committed returns the ids of all orders that the database holds.
func (s *shop) committed(ctx context.Context) ([]reliable.ID, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id FROM orders ORDER BY id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []reliable.ID
	for rows.Next() {
		var id reliable.ID
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}
