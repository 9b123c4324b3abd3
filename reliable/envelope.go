package reliable

import "time"

// Envelope is a message at rest: what a business transaction wants delivered.
type Envelope struct {
	// ID identifies the message; empty means [NewID] at the time it is sent.
	ID ID
	// Topic is where the message goes: the name that the broker adapter's topology turns into a destination.
	Topic string
	// Key orders: messages with the same Topic and Key are first delivered in the order in which they were stored, for
	// transactions that did not overlap, and one of them is on its way at a time. It is also the partition key of brokers
	// that have partitions. Empty means unordered, which is faster.
	Key string
	// Metadata is Watermill's metadata. Keys that begin with [ReservedPrefix] belong to Waybill.
	Metadata map[string]string
	// Payload is the message body, opaque to Waybill. Nobody writes to it between sending and the outcome.
	Payload []byte
	// Delay is how long the first attempt waits at least, measured on the store's clock; 0 means at once.
	Delay time.Duration
	// Deadline is how long after storing an envelope may stay unconfirmed, measured on the store's clock; once it has
	// passed, even an unknown outcome ends as [Failed]. 0 means for ever.
	Deadline time.Duration
}

// Size is what the envelope counts for in byte limits: everything of it that is stored, in bytes.
func (e *Envelope) Size() int {
	size := len(e.ID) + len(e.Topic) + len(e.Key) + len(e.Payload)
	for k, v := range e.Metadata {
		size += len(k) + len(v)
	}
	return size
}

// Attempt is one leased try at handing an envelope to a broker, with what the engine decides by.
type Attempt struct {
	Envelope
	// Fence is the token of this taking: it grows with every claim of this ID, 1 being the first.
	Fence int64
	// Attempts is how many times the envelope has been leased so far, this one included.
	Attempts int
	// Failures is how many definite failures were charged so far.
	Failures int
	// MayHaveBeenSent is true if some earlier attempt ended unknown, or its lease ran out.
	MayHaveBeenSent bool
	// Age is how long ago the envelope was stored, on the store's clock.
	Age time.Duration
	// FailingFor is how long ago the envelope was first charged or first waited behind a held destination; 0 if never.
	FailingFor time.Duration
	// Alone is set by the engine, never by a store: publish this attempt on a channel, or connection, of its own, because
	// it is suspected of taking its neighbours down.
	Alone bool
}

// Status is where an envelope stands. The numbers are what stores keep.
type Status uint8

const (
	// Pending is stored and not confirmed.
	Pending Status = iota
	// Confirmed means that the broker took responsibility.
	Confirmed
	// Failed is given up; it waits for compensation.
	Failed
	// Compensated means that compensation is done.
	Compensated
	// Discarded means that an operator dropped it.
	Discarded
)

// String returns the status as it appears in logs and tables.
func (s Status) String() string {
	switch s {
	case Pending:
		return "pending"
	case Confirmed:
		return "confirmed"
	case Failed:
		return "failed"
	case Compensated:
		return "compensated"
	case Discarded:
		return "discarded"
	}
	return "invalid"
}

// MarshalText returns the status as String does, so that it reads the same in JSON, where a []Status would be taken for
// bytes otherwise.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Final reports whether only an operator can take an envelope out of this status. A failed one is not final: a late ack,
// or its compensation, still moves it.
func (s Status) Final() bool { return s == Confirmed || s == Compensated || s == Discarded }
