package memstore

import (
	"context"
	"fmt"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// mark is a transaction that was marked. Its fate is the transaction's own, so that a mark needs no tombstone.
type mark struct {
	tx *Tx
	at time.Time
}

var _ reliable.Remembering = (*markerWitness)(nil)

type markerWitness struct {
	store   *Store
	horizon time.Duration
}

// MarkerWitness returns a witness of the transactions of this store; see [reliable.Marker]. It needs no horizon to tell the
// fate of one: what was purged is unknown to it.
func (s *Store) MarkerWitness(horizon time.Duration) (reliable.Witness, error) {
	if horizon <= 0 {
		return nil, fmt.Errorf("memstore: marker witness: %w", reliable.Invalid("horizon", "is %v, must be above 0", horizon))
	}
	return &markerWitness{s, horizon}, nil
}

func (w *markerWitness) Mark(ctx context.Context, tx any) (reliable.Token, error) {
	own, ok := tx.(*Tx)
	if !ok || own == nil || own.store != w.store {
		return "", fmt.Errorf("memstore: mark: %w", reliable.Invalid("tx", "is a %T, must be a *memstore.Tx of this store", tx))
	}
	token := reliable.Token("mem1:" + reliable.NewID())
	err := w.store.do(ctx, OpMark, nil, func(now time.Time) error {
		if own.isEnded() {
			return reliable.ErrClosed
		}
		w.store.marks[token] = mark{own, now}
		return nil
	})
	if err != nil {
		return "", err
	}
	return token, nil
}

func (w *markerWitness) Ask(ctx context.Context, id reliable.ID, token reliable.Token) (reliable.Fate, error) {
	fate := reliable.FateUnknowable
	err := w.store.do(ctx, OpAsk, func() []reliable.ID { return []reliable.ID{id} }, func(time.Time) error {
		m, known := w.store.marks[token]
		switch {
		case !known:
		case !m.tx.isEnded():
			fate = reliable.FateOpen
		case m.tx.committed:
			fate = reliable.FateCommitted
		default:
			fate = reliable.FateAborted
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return fate, nil
}

// Horizon implements [reliable.Remembering].
func (w *markerWitness) Horizon() time.Duration { return w.horizon }

// Forget implements [reliable.Remembering].
func (w *markerWitness) Forget(ctx context.Context, olderThan time.Duration, limit int) (int, error) {
	if olderThan <= w.horizon {
		err := reliable.Invalid("olderThan", "is %v, must be above the horizon of %v", olderThan, w.horizon)
		return 0, fmt.Errorf("memstore: forget: %w", err)
	}
	return w.store.PurgeMarkers(ctx, olderThan, limit)
}

// Unwrap returns the store.
func (w *markerWitness) Unwrap() any { return w.store }

// PurgeMarkers forgets old marks; see [reliable.Marker].
func (s *Store) PurgeMarkers(ctx context.Context, olderThan time.Duration, limit int) (deleted int, err error) {
	err = s.do(ctx, OpPurge, nil, func(now time.Time) (err error) {
		deleted, err = purgeOldest(s.marks, func(m mark) time.Time { return m.at }, now, olderThan, limit)
		return err
	})
	return deleted, err
}
