package sqlbroker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/waybillmq/waybill/reliable"
)

var _ reliable.Joiner = (*Broker)(nil)

// sameness says whether a store is in the broker's database.
type sameness uint8

const (
	undecided sameness = iota
	here
	elsewhere
)

// Join implements [reliable.Joiner].
func (b *Broker) Join(m reliable.Mover) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mover, b.same = m, undecided
	if b.apart {
		b.mover = nil
	}
}

// joined returns the store to hand over with, nil if there is none in the same database. It is asked again after each
// loss of a connection: the address may lead to another server then.
func (b *Broker) joined(ctx context.Context) (reliable.Mover, error) {
	b.mu.Lock()
	mover, known, own := b.mover, b.same, b.facts.identity
	b.mu.Unlock()
	switch {
	case mover == nil || known == elsewhere:
		return nil, nil
	case known == here:
		return mover, nil
	}
	theirs, err := mover.Database(ctx)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mover != mover || b.facts.identity != own || !b.reachable { // it changed meanwhile: look again
		return nil, fmt.Errorf("looking for the store's database: %w", errNotYet)
	}
	if own == "" || own != theirs {
		b.same = elsewhere
		return nil, nil
	}
	b.same = here
	b.logger.LogAttrs(ctx, slog.LevelInfo, "messages are handed over in the store's own transactions")
	return mover, nil
}

// errOvertaken is why an attempt was not handed over: its lease has passed to another holder, or its outcome is known.
var errOvertaken = errors.New("sqlbroker: not sent: another process holds the message, or has settled it")

// move hands a batch over in a transaction of the store, and confirms it if that committed.
//
// The messages are inserted first and the envelopes are recorded after that, so that no row of the outbox is locked while
// the insert waits for a lock of a subscriber.
func (b *Broker) move(ctx context.Context, mover reliable.Mover, l *lane, batch []*flight) error {
	moves := make([]reliable.Move, len(batch))
	for i, f := range batch {
		moves[i] = reliable.Move{ID: f.id, Fence: f.fence, Topic: f.topic, Key: f.key}
	}
	var refused error // why the last insert was not possible
	moved, err := mover.Move(ctx, moves, func(ctx context.Context, tx reliable.MoveTx, which []int) error {
		refused = b.insertIn(ctx, tx, l, pick(batch, which))
		return refused
	})
	switch {
	case err == nil:
	case refused != nil && !errors.Is(err, reliable.ErrUnknown):
		return refused
	default:
		return &storeError{err}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, f := range batch {
		if moved[i] {
			b.confirm(f, reliable.Acked, nil, true)
		} else {
			b.confirm(f, reliable.Unknown, errOvertaken, false)
		}
	}
	return nil
}

// insertIn stores flights in a transaction of the store.
func (b *Broker) insertIn(ctx context.Context, tx reliable.MoveTx, l *lane, fs []*flight) error {
	on := execer(func(ctx context.Context, statement string, args ...any) error {
		_, err := tx.Exec(ctx, statement, args...)
		return err
	})
	if err := b.dialect.bound(ctx, on, true, b.lockWait()); err != nil {
		return err
	}
	if err := on.all(ctx, b.dialect.insert(b.tables, l.topic, fs)); err != nil {
		if b.classify(err) != lost {
			_ = b.dialect.bound(ctx, on, true, 0) // or the rollback ends the connection, too
		}
		return err
	}
	return b.dialect.bound(ctx, on, true, 0)
}

func pick(batch []*flight, which []int) []*flight {
	if len(which) == len(batch) {
		return batch
	}
	picked := make([]*flight, len(which))
	for n, i := range which {
		picked[n] = batch[i]
	}
	return picked
}

// storeError is why a store could not move a batch; it says nothing about the messages.
type storeError struct{ cause error }

func (e *storeError) Error() string { return "the store did not hand over: " + e.cause.Error() }

func (e *storeError) Unwrap() error { return e.cause }
