package sqlstore

import (
	"context"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// pacePrefix keeps the names of what is paced apart from those of chores, whose table they share: for both a row says
	// until when something is taken.
	pacePrefix = "pace of "
	pacer      = "fleet"
)

// Pace books turns; see [reliable.Pacer].
func (s *Store) Pace(ctx context.Context, name string, pace reliable.Pace, n int) (booked int, first time.Duration, err error) {
	if err := pace.Check(name, n); err != nil {
		return 0, 0, s.fail("pace", err)
	}
	book := func(tx Tx) (err error) {
		booked, first, err = s.pace(ctx, tx, pacePrefix+name, pace, n)
		return err
	}
	if err = s.write(ctx, book); err != nil && s.dialect.Classify(err) == Duplicate {
		err = s.write(ctx, book) // another one has just booked the first turn of all
	}
	if err != nil {
		return 0, 0, s.fail("pace", err)
	}
	return booked, first, nil
}

func (s *Store) pace(ctx context.Context, tx Conn, name string, pace reliable.Pace, n int) (int, time.Duration, error) {
	var ahead time.Duration
	known := false
	err := s.query(ctx, tx, func(rows Rows) error {
		var worker string
		var until, now int64
		err := rows.Scan(&worker, &until, &now)
		known, ahead = true, duration(until-now)
		return err
	}, s.dialect.LockChore, name)
	if err != nil {
		return 0, 0, err
	}
	booked, first, then := pace.Book(ahead, n)
	switch {
	case booked == 0:
	case known:
		_, err = s.exec(ctx, tx, s.dialect.SetChore, pacer, micros(then), name)
	default:
		_, err = s.exec(ctx, tx, s.dialect.AddChore, name, pacer, micros(then))
	}
	return booked, first, err
}
