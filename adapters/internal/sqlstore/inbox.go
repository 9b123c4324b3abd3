package sqlstore

import (
	"context"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Receive records in a consumer's own transaction that a group processes a message; see [reliable.Inbox].
func (s *Store) Receive(ctx context.Context, tx any, group string, id reliable.ID) (bool, error) {
	conn, err := ConnOf(tx)
	if err != nil {
		return false, s.fail("receive", err)
	}
	return s.ReceiveOn(ctx, conn, group, id)
}

// ReceiveOn is Receive on a transaction's connection.
func (s *Store) ReceiveOn(ctx context.Context, conn Conn, group string, id reliable.ID) (bool, error) {
	p := reliable.Processed{ID: id, Group: group}
	if err := p.Check(); err != nil {
		return false, s.fail("receive", err)
	}
	n, err := s.exec(ctx, conn, s.dialect.Receive, group, string(id))
	if err != nil && s.dialect.Classify(err) == Duplicate {
		return false, nil
	}
	return n == 1 && err == nil, s.fail("receive", err)
}

// PurgeInbox deletes old entries; see [reliable.Inbox].
func (s *Store) PurgeInbox(ctx context.Context, olderThan time.Duration, limit int) (int, error) {
	return s.purgeOldest(ctx, "purge inbox", s.dialect.PurgeInbox, olderThan, limit)
}

// purgeOldest deletes up to limit rows that are old enough, in one short transaction.
func (s *Store) purgeOldest(
	ctx context.Context, op string, statement Statement, olderThan time.Duration, limit int,
) (int, error) {
	switch {
	case olderThan < 0:
		return 0, s.fail(op, reliable.Invalid("olderThan", "is %v, must be 0 or more", olderThan))
	case limit < 1:
		return 0, s.fail(op, reliable.Invalid("limit", "is %d, must be at least 1", limit))
	}
	var deleted int64
	err := s.write(ctx, func(tx Tx) (err error) {
		deleted, err = s.exec(ctx, tx, statement, micros(olderThan), int64(limit))
		return err
	})
	if err != nil {
		return 0, s.fail(op, err)
	}
	return int(deleted), nil
}
