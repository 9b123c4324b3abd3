package memstore

import (
	"context"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// term is who does a chore, and until when.
type term struct {
	worker string
	until  time.Time
}

// Elect makes worker the one that does chore; see [reliable.Elector].
func (s *Store) Elect(ctx context.Context, chore, worker string, lease time.Duration) (bool, error) {
	elected := false
	err := s.do(ctx, OpElect, nil, func(now time.Time) error {
		switch {
		case chore == "":
			return reliable.Invalid("chore", "is empty")
		case lease < 0:
			return reliable.Invalid("lease", "is %v, must be 0 (resign) or more", lease)
		}
		if err := checkWorker(worker); err != nil {
			return err
		}
		current, taken := s.terms[chore]
		if taken && current.worker != worker && current.until.After(now) {
			return nil
		}
		if lease == 0 {
			delete(s.terms, chore)
			return nil
		}
		s.terms[chore] = term{worker, now.Add(lease)}
		elected = true
		return nil
	})
	return elected, err
}

// Pace books turns; see [reliable.Pacer].
func (s *Store) Pace(ctx context.Context, name string, pace reliable.Pace, n int) (booked int, first time.Duration, err error) {
	err = s.do(ctx, OpPace, nil, func(now time.Time) error {
		if err := pace.Check(name, n); err != nil {
			return err
		}
		var then time.Duration
		booked, first, then = pace.Book(s.paces[name].Sub(now), n)
		if booked > 0 {
			s.paces[name] = now.Add(then)
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	return booked, first, nil
}

// wakeUp is guarded by Store.mu. A wake-up that finds nobody waiting is kept for the next to wait, so that a relay
// which was claiming meanwhile looks again.
type wakeUp struct {
	kept bool
	told chan struct{} // closed by the next wake-up; nil while nobody waits
}

// Wake tells all who wait; see [reliable.Waker].
func (s *Store) Wake(ctx context.Context) error {
	return s.do(ctx, OpWake, nil, func(time.Time) error {
		if s.wake.told == nil {
			s.wake.kept = true
			return nil
		}
		close(s.wake.told)
		s.wake.told = nil
		return nil
	})
}

// AwaitWake waits for a wake-up; see [reliable.Waker].
func (s *Store) AwaitWake(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.wake.kept {
		s.wake.kept = false
		s.mu.Unlock()
		return nil
	}
	if s.wake.told == nil {
		s.wake.told = make(chan struct{})
	}
	told := s.wake.told
	s.mu.Unlock()
	select {
	case <-told:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
