package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// maxChoreBytes is what the column holds.
const maxChoreBytes = 128

// Elect makes worker the one that does chore; see [reliable.Elector].
func (s *Store) Elect(ctx context.Context, chore, worker string, lease time.Duration) (bool, error) {
	switch {
	case chore == "" || len(chore) > maxChoreBytes:
		return false, s.fail("elect", reliable.Invalid("chore", "has %d bytes, must have 1 to %d", len(chore), maxChoreBytes))
	case lease < 0:
		return false, s.fail("elect", reliable.Invalid("lease", "is %v, must be 0 (resign) or more", lease))
	}
	if err := checkWorker(worker); err != nil {
		return false, s.fail("elect", err)
	}
	elected := false
	err := s.write(ctx, func(tx Tx) (err error) {
		elected, err = s.elect(ctx, tx, chore, worker, lease)
		return err
	})
	if err != nil && s.dialect.Classify(err) == Duplicate {
		return false, nil // another worker has just been elected
	}
	return elected && err == nil, s.fail("elect", err)
}

func (s *Store) elect(ctx context.Context, tx Conn, chore, worker string, lease time.Duration) (bool, error) {
	var holder string
	var until, now int64
	taken := false
	err := s.query(ctx, tx, func(rows Rows) error {
		taken = true
		return rows.Scan(&holder, &until, &now)
	}, s.dialect.LockChore, chore)
	switch {
	case err != nil || taken && holder != worker && until > now:
		return false, err
	case lease == 0:
		if taken {
			_, err = s.exec(ctx, tx, s.dialect.EndChore, chore)
		}
		return false, err
	case taken:
		_, err = s.exec(ctx, tx, s.dialect.SetChore, worker, micros(lease), chore)
	default:
		_, err = s.exec(ctx, tx, s.dialect.AddChore, chore, worker, micros(lease))
	}
	return err == nil, err
}

// SchemaVersion is the version that this program needs, and the oldest one that it can use is the same.
const SchemaVersion = 4

// Check returns an error that is [reliable.ErrSchema] if the tables do not fit; see [reliable.Checker].
func (s *Store) Check(ctx context.Context) error {
	var version, usableBy int64
	err := s.read(ctx, func(c Conn) error {
		version, usableBy = 0, 0
		return s.query(ctx, c, func(rows Rows) error { return rows.Scan(&version, &usableBy) }, s.dialect.Version)
	})
	if err != nil {
		return s.fail("check", err)
	}
	return s.fail("check", checkVersion(version, usableBy))
}

var errVersion = errors.New("the program and the tables do not fit")

// checkVersion says whether this program can use tables of a version that programs from usableBy on can use: a fleet is
// rolled over with old and new programs side by side.
func checkVersion(version, usableBy int64) error {
	switch {
	case version < SchemaVersion:
		return fmt.Errorf("%w: %w: schema version %d, need %d: run Migrate or apply the output of Schema",
			reliable.ErrSchema, errVersion, version, SchemaVersion)
	case usableBy > SchemaVersion:
		return fmt.Errorf("%w: %w: schema version %d needs a program that knows version %d, this one knows %d: update it",
			reliable.ErrSchema, errVersion, version, usableBy, SchemaVersion)
	}
	return nil
}
