package sqlbroker

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// lane is what is to be stored for one topic, in the order of hand-over. A goroutine stores it, from when something is
// there until nothing is; so a topic whose table is locked keeps the others from nothing.
type lane struct {
	topic string
	queue []*flight // the broker's lock guards it
}

// write stores what a lane holds.
func (b *Broker) write(l *lane) {
	for {
		batch := b.next(l)
		if len(batch) == 0 {
			return
		}
		ctx, cancel := context.WithDeadline(b.life, batch[0].overdue)
		select {
		case b.turn <- struct{}{}:
			b.store(ctx, l, batch)
			<-b.turn
		case <-ctx.Done():
			b.confirmAll(batch, reliable.Unknown, b.unsent(ctx.Err()))
		}
		cancel()
	}
}

// next takes a batch off a lane, and ends the lane if there is none.
func (b *Broker) next(l *lane) []*flight {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, size := 0, 0
	for n < len(l.queue) && n < b.batch {
		f := l.queue[n]
		if size += f.size; n > 0 && (f.alone || l.queue[n-1].alone || size > batchBytes) {
			break
		}
		n++
	}
	if n == 0 {
		delete(b.lanes, l.topic)
		return nil
	}
	batch := l.queue[:n:n]
	l.queue = l.queue[n:]
	return batch
}

// store stores a batch and confirms it. Where the database refuses a value without saying whose it is, the halves are
// stored on their own: nothing of the batch is there then, so this is no repetition.
func (b *Broker) store(ctx context.Context, l *lane, batch []*flight) {
	err := b.transact(ctx, l, batch)
	if err == nil {
		return
	}
	if len(batch) > 1 && b.classify(err) == unfit {
		half := len(batch) / 2
		b.store(ctx, l, batch[:half])
		b.store(ctx, l, batch[half:])
		return
	}
	outcome, reason := b.verdict(ctx, l.topic, err)
	b.confirmAll(batch, outcome, reason)
}

// transact stores a batch in one transaction, and confirms it if that committed. It waits for a connection on which a
// transaction begins; what is returned of that is marked by errUnsent.
func (b *Broker) transact(ctx context.Context, l *lane, batch []*flight) error {
	for {
		if err := b.awaitReachable(ctx); err != nil {
			return errors.Join(errUnsent, err)
		}
		mover, err := b.joined(ctx)
		if err == nil && mover != nil {
			return b.move(ctx, mover, l, batch)
		}
		var conn *sql.Conn
		if err == nil {
			if conn, err = b.open(ctx); err == nil {
				return b.commit(ctx, conn, l, batch)
			}
		}
		if ctx.Err() != nil {
			return errors.Join(errUnsent, b.told(err))
		}
		b.unreachable(b.told(err))
		pause(ctx, b.reconnectMin)
	}
}

// staleConnections is how many dead connections of the pool are passed over before the database counts as out of reach.
const staleConnections = 3

// open begins a transaction. An error means that nothing was sent but that.
func (b *Broker) open(ctx context.Context) (*sql.Conn, error) {
	for try := 1; ; try++ {
		conn, err := b.db.Conn(ctx)
		if err != nil {
			return nil, err
		}
		on := execOn(conn)
		if err = b.dialect.bound(ctx, on, false, b.lockWait()); err == nil {
			err = on(ctx, b.dialect.begin(b.lockWait()))
		}
		if err == nil {
			return conn, nil
		}
		discard(conn)
		if try > staleConnections || ctx.Err() != nil || b.classify(err) != lost {
			return nil, err
		}
	}
}

// lockWait is how long a lock is waited for: the answer is to come before the confirm timeout ends.
func (b *Broker) lockWait() time.Duration { return b.confirmTimeout / 2 }

// commit stores a batch in the transaction that was begun on conn, and ends that.
func (b *Broker) commit(ctx context.Context, conn *sql.Conn, l *lane, batch []*flight) error {
	defer func() { _ = conn.Close() }()
	on := execOn(conn)
	err := on.all(ctx, b.dialect.insert(b.tables, l.topic, batch))
	if err == nil {
		if err = on(ctx, "COMMIT"); err == nil {
			b.confirmAll(batch, reliable.Acked, nil)
			b.release(conn)
			return nil
		}
	}
	if b.classify(err) == lost || on(ctx, "ROLLBACK") != nil {
		discard(conn)
		return err
	}
	b.release(conn)
	return err
}

// release makes conn fit for whoever has it next.
func (b *Broker) release(conn *sql.Conn) {
	ctx, cancel := context.WithTimeout(b.life, b.lockWait())
	defer cancel()
	if b.dialect.bound(ctx, execOn(conn), false, 0) != nil {
		discard(conn)
	}
}

// discard closes a connection rather than give it back: a transaction may be open on it.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
}

// errUnsent marks the errors by which nothing of a batch was sent.
var errUnsent = errors.New("not sent")

// unsent says so.
func (b *Broker) unsent(cause error) error { return fmt.Errorf("sqlbroker: %w: %w", errUnsent, cause) }
