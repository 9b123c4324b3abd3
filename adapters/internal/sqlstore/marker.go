package sqlstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

var _ reliable.Remembering = (*MarkerWitness)(nil)

// MarkerWitness tells the fate of a transaction by a row that was inserted in it.
type MarkerWitness struct {
	store   *Store
	horizon time.Duration
	conn    func(tx any) (Conn, error)
	ask     func(ctx context.Context, look func(context.Context, Conn) (reliable.Fate, error)) (reliable.Fate, error)
}

const (
	minHorizon = time.Minute
	maxHorizon = 365 * 24 * time.Hour
	// markerVersion begins every token.
	markerVersion = "mk1"
	markerBytes   = 16
)

// NewMarkerWitness returns a witness on the store's markers. conn runs statements in a business transaction. ask runs look
// in a transaction of the store's own, in which nothing waits long for a lock, and commits it; a lock that is taken is
// [reliable.FateOpen].
func (s *Store) NewMarkerWitness(
	horizon time.Duration, conn func(tx any) (Conn, error),
	ask func(ctx context.Context, look func(context.Context, Conn) (reliable.Fate, error)) (reliable.Fate, error),
) (*MarkerWitness, error) {
	if horizon < minHorizon || horizon > maxHorizon {
		return nil, s.fail("marker witness", reliable.Invalid("horizon", "is %v, must lie between %v and %v: it is how long after "+
			"a transaction somebody may still ask about it", horizon, minHorizon, maxHorizon))
	}
	return &MarkerWitness{s, horizon, conn, ask}, nil
}

// Mark inserts a marker in tx. The token holds when, on the database's clock.
func (w *MarkerWitness) Mark(ctx context.Context, tx any) (reliable.Token, error) {
	conn, err := w.conn(tx)
	if err != nil {
		return "", w.store.fail("mark", err)
	}
	now, err := w.now(ctx, conn)
	if err != nil {
		return "", w.store.fail("mark", err)
	}
	token := make([]byte, markerBytes)
	_, _ = rand.Read(token) // never fails
	if _, err := w.store.exec(ctx, conn, w.store.dialect.Mark, token, now); err != nil {
		return "", w.store.fail("mark", err)
	}
	return reliable.Token(fmt.Sprintf("%s:%s:%d", markerVersion, hex.EncodeToString(token), now)), nil
}

func (w *MarkerWitness) now(ctx context.Context, conn Conn) (now int64, err error) {
	err = w.store.query(ctx, conn, func(rows Rows) error { return rows.Scan(&now) }, w.store.dialect.Clock)
	return now, err
}

// Ask implements [reliable.Witness]; the id is not needed.
func (w *MarkerWitness) Ask(ctx context.Context, _ reliable.ID, token reliable.Token) (reliable.Fate, error) {
	marker, at, ok := parseMarker(token)
	if !ok {
		return reliable.FateUnknowable, nil
	}
	fate, err := w.ask(ctx, func(ctx context.Context, conn Conn) (reliable.Fate, error) { return w.look(ctx, conn, marker, at) })
	return fate, w.store.fail("ask", err)
}

// look finds the marker, or makes sure that it never comes.
func (w *MarkerWitness) look(ctx context.Context, conn Conn, marker []byte, at int64) (reliable.Fate, error) {
	fate, err := w.marked(ctx, conn, marker)
	if err != nil || fate != reliable.FateOpen {
		return fate, err
	}
	now, err := w.now(ctx, conn)
	if err != nil {
		return 0, err
	}
	if age := duration(now - at); age < 0 || age > w.horizon {
		return reliable.FateUnknowable, nil // it may have been there, and been purged
	}
	buried, err := w.store.exec(ctx, conn, w.store.dialect.Bury, marker)
	switch {
	case err != nil && w.store.dialect.Classify(err) != Duplicate:
		return 0, err
	case err == nil && buried == 1:
		return reliable.FateAborted, nil
	}
	return w.marked(ctx, conn, marker) // somebody was quicker
}

// marked is FateOpen if there is neither a marker nor a tombstone.
func (w *MarkerWitness) marked(ctx context.Context, conn Conn, marker []byte) (reliable.Fate, error) {
	fate := reliable.FateOpen
	err := w.store.query(ctx, conn, func(rows Rows) error {
		var dead int
		err := rows.Scan(&dead)
		fate = reliable.FateCommitted
		if dead != 0 {
			fate = reliable.FateAborted
		}
		return err
	}, w.store.dialect.Marked, marker)
	return fate, err
}

func parseMarker(token reliable.Token) (marker []byte, at int64, ok bool) {
	part := strings.Split(string(token), ":")
	if len(token) > reliable.MaxTokenBytes || len(part) != 3 || part[0] != markerVersion {
		return nil, 0, false
	}
	marker, err := hex.DecodeString(part[1])
	if err != nil || len(marker) != markerBytes {
		return nil, 0, false
	}
	at, err = strconv.ParseInt(part[2], 10, 64)
	return marker, at, err == nil && at > 0
}

// errOpen ends the transaction of a question whose answer is that the lock is taken.
var errOpen = errors.New("the transaction is open")

// AskWithLocks runs a question of a [MarkerWitness] where locks belong to rows. impatient, which may be nil, makes the
// transaction give up a lock soon; taken tells the error by which it does.
func (s *Store) AskWithLocks(
	ctx context.Context, look func(context.Context, Conn) (reliable.Fate, error),
	impatient func(context.Context, Conn) error, taken func(error) bool,
) (reliable.Fate, error) {
	var fate reliable.Fate
	err := s.write(ctx, func(tx Tx) (err error) {
		if impatient != nil {
			if err := impatient(ctx, tx); err != nil {
				return err
			}
		}
		if fate, err = look(ctx, tx); err != nil && taken(err) {
			return errOpen
		}
		return err
	})
	if errors.Is(err, errOpen) {
		return reliable.FateOpen, nil
	}
	return fate, err
}

// Horizon implements [reliable.Remembering].
func (w *MarkerWitness) Horizon() time.Duration { return w.horizon }

// Forget implements [reliable.Remembering].
func (w *MarkerWitness) Forget(ctx context.Context, olderThan time.Duration, limit int) (int, error) {
	if olderThan <= w.horizon {
		return 0, w.store.fail("forget", reliable.Invalid("olderThan", "is %v, must be above the horizon of %v", olderThan, w.horizon))
	}
	return w.store.PurgeMarkers(ctx, olderThan, limit)
}

// Unwrap returns the store, whose abilities are found through the witness.
func (w *MarkerWitness) Unwrap() any { return w.store }

// PurgeMarkers deletes old markers and tombstones; see [reliable.Marker].
func (s *Store) PurgeMarkers(ctx context.Context, olderThan time.Duration, limit int) (int, error) {
	return s.purgeOldest(ctx, "purge markers", s.dialect.PurgeMarkers, olderThan, limit)
}
