package delayedcheck

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// resendPace names the resends of all processes in the ledger.
	resendPace = "resends"
	// turnRetry is how soon a full schedule is looked at again, at the soonest.
	turnRetry = 250 * time.Millisecond
)

// errNoTurn means that the schedule of resends is full.
var errNoTurn = errors.New("more resends are due than their rate allows")

// resendLimit gives out turns to resend. They are booked in the ledger, for the whole fleet; where the ledger cannot keep
// them, in this process. Callers that come together book together.
type resendLimit struct {
	pacer   reliable.Pacer
	pace    reliable.Pace
	timeout time.Duration // of a statement
	booking gather[*turn]

	mu sync.Mutex
	// spare turns were booked and not needed; whoever comes next has them, until they are too old.
	spare      int
	spareUntil time.Time
}

// turn is one resend's place among all.
type turn struct {
	booked bool
	due    time.Time // if it is booked; else when it may be asked for again
	err    error
}

func newResendLimit(ledger reliable.Store, cfg *serviceConfig) *resendLimit {
	l := &resendLimit{timeout: cfg.ledgerTimeout, pace: reliable.Pace{
		Every: cfg.resendInterval(), Burst: cfg.resendBurst, Within: cfg.turnPatience(),
	}}
	var shared bool
	if l.pacer, shared = reliable.Ability[reliable.Pacer](ledger); !shared {
		l.pacer = new(ownPace)
	}
	l.booking = gather[*turn]{do: l.book, size: func(*turn) int { return 1 }, limit: cfg.atOnce, writers: 1}
	return l
}

// longestWait is how long [resendLimit.wait] takes at most, besides the ledger's statements.
func (l *resendLimit) longestWait() time.Duration { return 2 * l.pace.Within }

// wait returns when the turn of its caller has come, and reports whether that took time. Its error is errNoTurn if no turn
// is near enough, ctx's if that ends first, or the ledger's.
func (l *resendLimit) wait(ctx context.Context) (waited bool, err error) {
	if l.takeSpare() {
		return false, ctx.Err()
	}
	for patience := time.Now().Add(l.pace.Within); ; waited = true {
		own := new(turn)
		l.booking.call(own)
		pause := time.Until(own.due)
		switch {
		case own.err != nil:
			return waited, fmt.Errorf("the schedule of resends could not be read: %w", own.err)
		case own.booked && pause <= 0:
			return waited, ctx.Err()
		case own.booked:
			return true, sleep(ctx, pause)
		case own.due.After(patience):
			if err := sleep(ctx, time.Until(patience)); err != nil {
				return true, err
			}
			return true, errNoTurn
		}
		if err := sleep(ctx, pause); err != nil {
			return true, err
		}
	}
}

func (l *resendLimit) book(turns []*turn) {
	ctx, cancel := context.WithTimeout(context.Background(), l.timeout)
	defer cancel()
	booked, first, err := l.pacer.Pace(ctx, resendPace, l.pace, len(turns))
	now := time.Now()
	for i, one := range turns {
		wait := first + time.Duration(i)*l.pace.Every
		if one.booked, one.err = i < booked, err; !one.booked {
			wait = max(wait-l.pace.Within, turnRetry)
		}
		one.due = now.Add(wait)
	}
}

// putBack returns a turn that was not needed.
func (l *resendLimit) putBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.After(l.spareUntil) {
		l.spare = 0
	}
	l.spare++
	l.spareUntil = now.Add(time.Second)
}

func (l *resendLimit) takeSpare() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spare == 0 || time.Now().After(l.spareUntil) {
		return false
	}
	l.spare--
	return true
}

// ownPace is the pace of this process alone.
type ownPace struct {
	mu    sync.Mutex
	until time.Time
}

func (p *ownPace) Pace(_ context.Context, _ string, pace reliable.Pace, n int) (int, time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	booked, first, then := pace.Book(p.until.Sub(now), n)
	p.until = now.Add(then)
	return booked, first, nil
}
