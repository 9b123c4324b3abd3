package sqlstore

import (
	"context"
	"database/sql"
	"errors"

	"github.com/waybillmq/waybill/adapters/internal/sqlidentity"
	"github.com/waybillmq/waybill/reliable"
)

// Identify asks the database who it is.
func (s *Store) Identify(
	ctx context.Context, identify func(context.Context, sqlidentity.Row) (string, error),
) (identity string, err error) {
	err = s.read(ctx, func(c Conn) error {
		identity, err = identify(ctx, func(ctx context.Context, statement string, columns ...*string) error {
			rows, err := c.Query(ctx, statement)
			if err != nil {
				return err
			}
			values, into := make([]sql.NullString, len(columns)), make([]any, len(columns))
			for i := range values {
				into[i] = &values[i]
			}
			if rows.Next() {
				if err := rows.Scan(into...); err != nil {
					return errors.Join(err, rows.Close())
				}
				for i := range values {
					*columns[i] = values[i].String
				}
			}
			return errors.Join(rows.Err(), rows.Close())
		})
		return err
	})
	return identity, s.fail("identify the database", err)
}

// Move records attempts as confirmed in the transaction in which insert stores their messages; see [reliable.Mover].
//
// The first try inserts before it touches a row of the outbox, so that none is locked while insert waits for somebody
// else's lock. Nearly always every row turns out to be the caller's still; where one is not, the transaction starts over,
// locks and looks first, and inserts what it may.
func (s *Store) Move(
	ctx context.Context, moves []reliable.Move, insert func(ctx context.Context, tx reliable.MoveTx, which []int) error,
) ([]bool, error) {
	if err := checkMoves(moves); err != nil {
		return nil, s.fail("move", err)
	}
	if len(moves) == 0 {
		return nil, nil
	}
	moved, err := s.move(ctx, moves, insert, false)
	if errors.Is(err, errNotNewest) {
		moved, err = s.move(ctx, moves, insert, true)
	}
	if err != nil {
		return nil, s.fail("move", err)
	}
	return moved, nil
}

// checkMoves refuses what cannot be recorded by one statement.
func checkMoves(moves []reliable.Move) error {
	seen := make(map[reliable.ID]bool, len(moves))
	for i := range moves {
		switch id := moves[i].ID; {
		case id == "":
			return reliable.Invalid("ID", "is empty")
		case seen[id]:
			return reliable.Invalid("ID", "%q occurs twice", id)
		case moves[i].Fence < 1:
			return reliable.Invalid("Fence", "is %d, must be that of a lease", moves[i].Fence)
		default:
			seen[id] = true
		}
	}
	return nil
}

func (s *Store) move(
	ctx context.Context, moves []reliable.Move, insert func(context.Context, reliable.MoveTx, []int) error, look bool,
) ([]bool, error) {
	var moved []bool
	err := s.write(ctx, func(tx Tx) error {
		moved = make([]bool, len(moves))
		which, err := s.movable(ctx, tx, moves, look)
		if err != nil || len(which) == 0 {
			return err
		}
		if err := insert(ctx, tx, which); err != nil {
			return err
		}
		b := settleBatch{
			store: s, tx: tx, ss: make([]reliable.Settlement, len(which)), results: make([]reliable.SettleResult, len(which)),
			lanes: make(settledIDs),
		}
		for n, i := range which {
			m := &moves[i]
			b.ss[n] = reliable.Settlement{
				ID: m.ID, Fence: m.Fence, Topic: m.Topic, Key: m.Key,
				Sent: true, Outcome: reliable.Acked, To: reliable.Confirmed,
			}
			moved[i] = true
		}
		groups, _ := b.groups() // there is no rest: each is an ack, and none occurs twice
		for _, group := range groups {
			if err := b.confirm(ctx, group); err != nil {
				return err
			}
		}
		return s.advance(ctx, tx, b.lanes, s.dialect.Order)
	})
	return moved, err
}

// movable returns the indexes of what is to be moved: all, or, when it is to look, what is still its caller's.
func (s *Store) movable(ctx context.Context, tx Tx, moves []reliable.Move, look bool) ([]int, error) {
	which := make([]int, 0, len(moves))
	if !look {
		for i := range moves {
			which = append(which, i)
		}
		return which, nil
	}
	ids := make([]string, len(moves))
	for i := range moves {
		ids[i] = string(moves[i].ID)
	}
	states, err := s.lock(ctx, tx, ids)
	if err != nil {
		return nil, err
	}
	for i := range moves {
		r := states[string(moves[i].ID)]
		if r != nil && r.status == reliable.Pending && r.fence == moves[i].Fence && r.has(flagLeased) {
			which = append(which, i)
		}
	}
	return which, nil
}
