package membroker

import (
	"maps"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Record is one attempt as the broker saw it.
type Record struct {
	ID    reliable.ID
	Fence int64
	Topic string
	Key   string
	Alone bool
	// Conn is the number of the connection.
	Conn int
	// Act is what the script said.
	Act Act
	// HandedOver is when; records are in this order.
	HandedOver time.Time
	// Copies is how many messages it left in the topic, so far.
	Copies int
	// Answered is whether there is a confirm, AnsweredAt when it was there to be received, Outcome what it says.
	Answered   bool
	AnsweredAt time.Time
	Outcome    reliable.Outcome
}

// Delivery is one message in a topic.
type Delivery struct {
	reliable.Envelope
	// Fence is that of the attempt that brought it.
	Fence int64
	// At is when it was stored.
	At time.Time
}

// Counts is what happened so far, on all connections.
type Counts struct {
	HandedOver int
	// Stored counts messages, copies included.
	Stored   int
	Acked    int
	Nacked   int
	Returned int
	Rejected int
	Unknown  int
}

// InFlight is how many attempts have no answer yet.
func (c Counts) InFlight() int {
	return c.HandedOver - c.Acked - c.Nacked - c.Returned - c.Rejected - c.Unknown
}

// topic is a queue that keeps what it ever held.
type topic struct {
	name     string
	declared bool
	full     bool
	log      []Delivery
	groups   map[string]*group
	arrived  gate
}

// Counts returns what happened so far.
func (b *Broker) Counts() Counts {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance()
	return b.counts
}

// Attempts returns a copy of the log of everything that was handed over, in that order.
func (b *Broker) Attempts() []Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance()
	return slices.Clone(b.records)
}

// Delivered returns what was ever stored in topic, in that order, whether consumed or not. Payloads are copies, which the
// caller may read; they are shared between calls.
func (b *Broker) Delivered(topic string) []Delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance()
	t := b.topics[topic]
	if t == nil {
		return nil
	}
	return slices.Clone(t.log)
}

// topic returns the topic of that name, which springs up unless only declared ones exist.
func (b *Broker) topic(name string) *topic {
	t := b.topics[name]
	if t == nil && !b.strict {
		t = &topic{name: name, declared: true}
		b.topics[name] = t
	}
	return t
}

// refusal says why the client side of a connection refuses the attempt: the sizes that it knows the broker not to take.
func (b *Broker) refusal(a *reliable.Attempt) error {
	if a.Topic == "" {
		return reliable.Invalid("Topic", "is empty; name the topic that the message goes to")
	}
	if b.limits == (reliable.Limits{}) {
		return nil
	}
	return b.limits.Check(&a.Envelope)
}

func (b *Broker) store(at time.Time, a *reliable.Attempt, copies, record int) {
	b.counts.Stored += copies
	if b.discard || copies == 0 {
		return
	}
	b.records[record].Copies += copies
	t := b.topics[a.Topic]
	env := a.Envelope
	env.Payload, env.Metadata = slices.Clone(a.Payload), maps.Clone(a.Metadata)
	for range copies {
		t.log = append(t.log, Delivery{Envelope: env, Fence: a.Fence, At: at})
	}
	t.arrived.open()
}

func (b *Broker) recordHandover(at time.Time, conn int, a *reliable.Attempt, act Act) int {
	b.counts.HandedOver++
	if b.discard {
		return 0
	}
	b.records = append(b.records, Record{
		ID: a.ID, Fence: a.Fence, Topic: a.Topic, Key: a.Key, Alone: a.Alone, Conn: conn, Act: act, HandedOver: at,
	})
	return len(b.records) - 1
}

func (b *Broker) recordAnswer(at time.Time, outcome reliable.Outcome, record int) {
	switch outcome {
	case reliable.Acked:
		b.counts.Acked++
	case reliable.Nacked:
		b.counts.Nacked++
	case reliable.Returned:
		b.counts.Returned++
	case reliable.Rejected:
		b.counts.Rejected++
	case reliable.Unknown:
		b.counts.Unknown++
	}
	if b.discard {
		return
	}
	r := &b.records[record]
	r.Answered, r.AnsweredAt, r.Outcome = true, at, outcome
}
