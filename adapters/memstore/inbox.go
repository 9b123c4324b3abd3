package memstore

import (
	"context"
	"fmt"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Receive records in tx, a *[Tx] of this store, that a group processes a message; see [reliable.Inbox].
func (s *Store) Receive(ctx context.Context, tx any, group string, id reliable.ID) (first bool, err error) {
	own, ok := tx.(*Tx)
	if !ok || own == nil || own.store != s {
		return false, fmt.Errorf("memstore: receive: %w", reliable.Invalid("tx", "is a %T, must be a *memstore.Tx of this store", tx))
	}
	entry := reliable.Processed{ID: id, Group: group}
	if err := entry.Check(); err != nil {
		return false, fmt.Errorf("memstore: receive: %w", err)
	}
	var fault Fault
	if s.inject != nil {
		fault = s.inject(OpReceive, []reliable.ID{id})
	}
	if err := fault.before(ctx); err != nil {
		return false, fmt.Errorf("memstore: receive: %w", err)
	}
	inTheWay := func() *Tx {
		if other := s.receiving[entry]; other != own {
			return other
		}
		return nil
	}
	err = own.inTurn(ctx, inTheWay, func() error {
		_, known := s.inbox[entry]
		switch {
		case own.isEnded():
			return reliable.ErrClosed
		case known || s.receiving[entry] == own:
			return nil
		}
		first = true
		s.receiving[entry] = own
		own.received = append(own.received, entry)
		return nil
	})
	if err == nil {
		err = fault.after(ctx)
	}
	if err != nil {
		return false, fmt.Errorf("memstore: receive: %w", err)
	}
	return first, nil
}

// forgetReceived takes back all entries but the first keep, under the store's lock.
func (tx *Tx) forgetReceived(keep int) {
	for _, entry := range tx.received[keep:] {
		delete(tx.store.receiving, entry)
	}
	tx.received = tx.received[:keep]
}

// PurgeInbox deletes old entries; see [reliable.Inbox].
func (s *Store) PurgeInbox(ctx context.Context, olderThan time.Duration, limit int) (deleted int, err error) {
	err = s.do(ctx, OpPurge, nil, func(now time.Time) (err error) {
		deleted, err = purgeOldest(s.inbox, func(at time.Time) time.Time { return at }, now, olderThan, limit)
		return err
	})
	return deleted, err
}

// purgeOldest deletes up to limit entries that are old enough, in no particular order.
func purgeOldest[K comparable, V any](
	entries map[K]V, since func(V) time.Time, now time.Time, olderThan time.Duration, limit int,
) (int, error) {
	switch {
	case olderThan < 0:
		return 0, reliable.Invalid("olderThan", "is %v, must be 0 or more", olderThan)
	case limit < 1:
		return 0, reliable.Invalid("limit", "is %d, must be at least 1", limit)
	}
	deleted := 0
	for key, value := range entries {
		if deleted < limit && now.Sub(since(value)) >= olderThan {
			delete(entries, key)
			deleted++
		}
	}
	return deleted, nil
}
