package reliable

import (
	"errors"
	"fmt"
)

var (
	// ErrInvalid is the caller's fault; nothing was stored or sent. Errors that are ErrInvalid are [*InvalidError].
	ErrInvalid = errors.New("invalid")
	// ErrConflict means that the ID is stored already, with another topic or payload; nothing was stored.
	ErrConflict = errors.New("id already stored with another topic or payload")
	// ErrNotStored means that the store could not take the message: nothing was stored, nothing was sent, the business
	// transaction must not commit.
	ErrNotStored = errors.New("not stored")
	// ErrUnroutable means that the broker has no place for the message; it stands for [Returned].
	ErrUnroutable = errors.New("unroutable")
	// ErrNacked means that the broker refused the message; it stands for [Nacked].
	ErrNacked = errors.New("refused by the broker")
	// ErrRejected means that the message can never be published; it stands for [Rejected].
	ErrRejected = errors.New("can never be published")
	// ErrUnknown means that what was asked may or may not have happened. Repeating it with the same IDs is safe.
	ErrUnknown = errors.New("outcome unknown")
	// ErrConnectionLost means that a connection died with the attempt in flight; the outcome is [Unknown].
	ErrConnectionLost = errors.New("connection lost")
	// ErrClosed means that the object was closed.
	ErrClosed = errors.New("closed")
	// ErrDrain means that a shutdown ended before everything in flight was settled; what was not is taken up again when
	// its lease ends.
	ErrDrain = errors.New("not drained in time")
	// ErrSchema means that the tables are missing, too old or too new.
	ErrSchema = errors.New("schema mismatch")
)

// InvalidError says which input was refused and what to do about it. It is [ErrInvalid].
type InvalidError struct {
	// Field names the input, as the caller knows it: "Topic", "WithLease", "amqp URL".
	Field string
	// Problem says what is wrong and what would be right; never a payload or a secret.
	Problem string
}

// Invalid returns an *InvalidError for field, with a formatted problem.
func Invalid(field, format string, args ...any) error {
	return &InvalidError{Field: field, Problem: fmt.Sprintf(format, args...)}
}

func (e *InvalidError) Error() string { return "invalid " + e.Field + ": " + e.Problem }

// Unwrap makes errors.Is(err, ErrInvalid) hold.
func (e *InvalidError) Unwrap() error { return ErrInvalid }

// PublishError is one message that a broker did not take, or may not have taken. It is both the sentinel of its outcome
// ([ErrNacked], [ErrUnroutable], [ErrRejected], [ErrUnknown]) and its cause.
type PublishError struct {
	ID      ID
	Topic   string
	Outcome Outcome
	Cause   error // may be nil
}

func (e *PublishError) Error() string {
	text := fmt.Sprintf("publish %q to topic %q: %v", string(e.ID), e.Topic, e.Outcome.Err())
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

// Unwrap returns the outcome's sentinel and the cause.
func (e *PublishError) Unwrap() []error {
	errs := make([]error, 0, 2)
	if sentinel := e.Outcome.Err(); sentinel != nil {
		errs = append(errs, sentinel)
	}
	if e.Cause != nil {
		errs = append(errs, e.Cause)
	}
	return errs
}

// NotStored wraps cause so that it is [ErrNotStored], with the object that could not store.
func NotStored(object string, cause error) error {
	return fmt.Errorf("%s: %w: %w", object, ErrNotStored, cause)
}
