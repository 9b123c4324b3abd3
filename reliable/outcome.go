package reliable

// Outcome is the broker's answer to one attempt, as far as it is known.
type Outcome uint8

const (
	// Unknown is the zero value: connection lost, or no answer in time. The broker may or may not have the message.
	Unknown Outcome = iota
	// Acked means that the broker has the message, and routed it.
	Acked
	// Nacked means that the broker refused and does not have the message.
	Nacked
	// Returned means that the message could be routed to no queue: a mandatory return, an unknown topic, no permission.
	Returned
	// Rejected means that this message can never be published: too large, not encodable.
	Rejected
)

// String returns the outcome as it appears in logs and tables.
func (o Outcome) String() string {
	switch o {
	case Unknown:
		return "unknown"
	case Acked:
		return "acked"
	case Nacked:
		return "nacked"
	case Returned:
		return "returned"
	case Rejected:
		return "rejected"
	}
	return "invalid"
}

// Definite reports whether the outcome says for sure that the broker does not have the message.
func (o Outcome) Definite() bool { return o == Nacked || o == Returned || o == Rejected }

// Err returns the sentinel that stands for the outcome in an error, nil for [Acked].
func (o Outcome) Err() error {
	switch o {
	case Acked:
		return nil
	case Nacked:
		return ErrNacked
	case Returned:
		return ErrUnroutable
	case Rejected:
		return ErrRejected
	case Unknown:
	}
	return ErrUnknown
}

// Confirm is the broker's answer to one attempt. Each attempt that was handed over has exactly one.
type Confirm struct {
	// ID and Fence are those of the attempt.
	ID    ID
	Fence int64
	// Outcome is what is known of it.
	Outcome Outcome
	// Err says why the outcome is not [Acked]; it wraps [ErrConnectionLost] where the connection died with the attempt in
	// flight. It never holds a payload or a credential.
	Err error
	// Settled is true if the outcome, [Acked], is recorded in the store already, in the transaction that stored the message
	// in the broker (see [Mover]): nothing is left to settle.
	Settled bool
}
