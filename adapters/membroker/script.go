package membroker

import (
	"errors"
	"fmt"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Attempt is what a script decides on.
type Attempt struct {
	reliable.Attempt
	// Number counts the attempts that scripts were asked about, over all connections, from 1.
	Number int
	// OfID counts those of this ID, from 1.
	OfID int
	// Conn is the number of the connection, 1 being the broker's own.
	Conn int
}

// Verdict says what becomes of one attempt. The zero Verdict is what a healthy broker does.
type Verdict struct {
	// Act is what happens.
	Act Act
	// Delay is the time between hand-over and confirm; 0 means that of WithLatency. Beyond the confirm timeout the
	// connection is abandoned and the outcome is unknown.
	Delay time.Duration
	// StoreLate puts the message into its topic at the end of Delay, just before the confirm, rather than at the
	// hand-over. A message in flight whose connection dies is then lost, where it otherwise is stored.
	StoreLate bool
	// Extra is how many further copies of the message are stored.
	Extra int
	// Err is what Confirm.Err, or with Refuse Publish, wraps; nil means a text that fits.
	Err error
}

// Act is what the broker does with an attempt.
type Act uint8

const (
	// Serve stores the message and acks it; returns it if its topic is not declared, nacks it if its topic is full.
	Serve Act = iota
	// Nack refuses: Nacked, not stored.
	Nack
	// Return finds no queue: Returned, not stored.
	Return
	// Reject refuses for good: Rejected, not stored.
	Reject
	// LoseConfirm serves the message, and the outcome is Unknown.
	LoseConfirm
	// LoseMessage stores nothing, and the outcome is Unknown.
	LoseMessage
	// Lie acks and stores nothing, as a broker does that loses what it confirmed.
	Lie
	// Cut serves the message, then the connection dies: everything in flight on it, this attempt included, is Unknown
	// with [reliable.ErrConnectionLost]. An attempt with Alone set has a connection of its own.
	Cut
	// CutBefore is Cut without storing the message.
	CutBefore
	// Poison is CutBefore among neighbours, and Rejected with Alone set: there the broker's close code names the culprit.
	Poison
	// Refuse ends the hand-over before this attempt: it and what follows it in the batch was certainly not sent, and
	// Publish returns [ErrRefused] or Err.
	Refuse
)

// String returns the act's name.
func (a Act) String() string {
	names := [...]string{
		"serve", "nack", "return", "reject", "lose confirm", "lose message", "lie", "cut", "cut before", "poison", "refuse",
	}
	if int(a) < len(names) {
		return names[a]
	}
	return "invalid"
}

// cuts reports whether the act may end the connection.
func (a Act) cuts() bool { return a == Cut || a == CutBefore || a == Poison }

var (
	// ErrDown is what Publish ends with during an outage.
	ErrDown = errors.New("broker is down")
	// ErrRefused is what Publish ends with where the script refused.
	ErrRefused = errors.New("broker refused the hand-over")

	errNoAnswer       = errors.New("membroker: no answer from the broker")
	errNoTopic        = errors.New("membroker: topic is not declared")
	errTopicFull      = errors.New("membroker: topic is full")
	errScripted       = errors.New("membroker: the script says so")
	errLost           = fmt.Errorf("membroker: %w", reliable.ErrConnectionLost)
	errClosedInFlight = fmt.Errorf("membroker: answer not awaited: %w", reliable.ErrClosed)
)

// fate is a verdict applied to an attempt: what will be true once its confirm is there.
type fate struct {
	outcome reliable.Outcome
	err     error
	copies  int
	cut     bool // the connection dies with the confirm
}

// fateOf applies a verdict in the state that the broker is in now.
func (b *Broker) fateOf(a *reliable.Attempt, v *Verdict) fate {
	because := func(text error) error {
		if v.Err != nil {
			return v.Err
		}
		return text
	}
	act := v.Act
	if act == Poison {
		act = CutBefore
		if a.Alone {
			act = Reject
		}
	}
	switch act {
	case Nack:
		return fate{outcome: reliable.Nacked, err: because(errScripted)}
	case Return:
		return fate{outcome: reliable.Returned, err: because(errScripted)}
	case Reject:
		return fate{outcome: reliable.Rejected, err: because(errScripted)}
	case LoseMessage:
		return fate{err: because(errNoAnswer)}
	case Lie:
		return fate{outcome: reliable.Acked}
	case CutBefore:
		return fate{err: v.Err, cut: true}
	case Cut:
		return fate{err: v.Err, cut: true, copies: b.serve(a, 1+v.Extra).copies}
	case LoseConfirm:
		return fate{err: because(errNoAnswer), copies: b.serve(a, 1+v.Extra).copies}
	default:
		return b.serve(a, 1+v.Extra)
	}
}

// serve is what a healthy broker does.
func (b *Broker) serve(a *reliable.Attempt, copies int) fate {
	t := b.topic(a.Topic)
	switch {
	case t == nil || !t.declared:
		return fate{outcome: reliable.Returned, err: errNoTopic}
	case t.full:
		return fate{outcome: reliable.Nacked, err: errTopicFull}
	}
	return fate{outcome: reliable.Acked, copies: copies}
}
