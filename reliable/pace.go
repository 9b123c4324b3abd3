package reliable

import (
	"context"
	"time"
)

// Pacer is the ability of a store to keep what a whole fleet does to one pace: whoever wants to do it books a turn first.
type Pacer interface {
	// Pace books up to n turns of what goes by name, a name of at most [MaxPaceBytes]. It returns how many it booked and how
	// long from now the first of them is, 0 or less at once; each further one is pace.Every after the one before. With none
	// booked, first is when the next one would have been. Turns are in the order of booking, whichever instance of the
	// store books, and each is booked once; one that is not used is lost.
	Pace(ctx context.Context, name string, pace Pace, n int) (booked int, first time.Duration, err error)
}

// MaxPaceBytes is how long the name of what is paced is at most.
const MaxPaceBytes = 100

// Pace is how often something may happen. The turns of one name should all be booked at the same pace.
type Pace struct {
	// Every is the time from one turn to the next; Burst is how many may be taken at once after a quiet time.
	Every time.Duration
	Burst int
	// Within is how far ahead turns are booked; what would have to wait for longer is not booked.
	Within time.Duration
}

// maxPace bounds the times that a pace reckons with.
const maxPace = 30 * 24 * time.Hour

// Check says what is wrong with a pace, or with the name or number that go with it, as an error that is [ErrInvalid].
func (p Pace) Check(name string, n int) error {
	switch {
	case name == "" || len(name) > MaxPaceBytes:
		return Invalid("name", "has %d bytes, must have 1 to %d", len(name), MaxPaceBytes)
	case n < 1:
		return Invalid("n", "is %d, must be 1 or more", n)
	case p.Every <= 0 || p.Every > maxPace:
		return Invalid("Every", "is %v, must be above 0 and at most %v", p.Every, maxPace)
	case p.Burst < 1 || int64(p.Burst) > int64(maxPace/p.Every):
		return Invalid("Burst", "is %d, must be 1 or more, and what %v give at most", p.Burst, maxPace)
	case p.Within < 0 || p.Within > maxPace:
		return Invalid("Within", "is %v, must lie between 0 and %v", p.Within, maxPace)
	}
	return nil
}

// Book reckons for stores: where the turns booked so far are used up after ahead, 0 if they are already, it books up to n
// more. They are used up after then. The first is after first, also where none is booked.
func (p Pace) Book(ahead time.Duration, n int) (booked int, first, then time.Duration) {
	ahead = max(0, ahead)
	first = ahead - time.Duration(p.Burst-1)*p.Every
	if first <= p.Within {
		booked = int(min(int64(n), int64((p.Within-first)/p.Every)+1))
	}
	return booked, first, ahead + time.Duration(booked)*p.Every
}
