package reliable

import (
	"strings"
	"time"
	"unicode/utf8"
)

// Limits are the sizes above which an envelope is refused. A zero field means no limit.
type Limits struct {
	Payload       int // bytes
	Metadata      int // bytes of all keys and values together
	MetadataPairs int // number of keys
	Topic         int // bytes
	Key           int // bytes
	ID            int // bytes
}

// DefaultLimits returns what stores accept unless configured otherwise. The columns of the SQL stores hold no more of
// topic, key and ID than this; 64 KiB of metadata stays below the frame size of AMQP brokers.
func DefaultLimits() Limits {
	return Limits{Payload: 16 << 20, Metadata: 64 << 10, MetadataPairs: 256, Topic: 255, Key: 255, ID: MaxIDBytes}
}

// Stricter returns the smaller limit of each field.
func (l Limits) Stricter(other Limits) Limits {
	smaller := func(a, b int) int {
		if a == 0 || b != 0 && b < a {
			return b
		}
		return a
	}
	return Limits{
		Payload:       smaller(l.Payload, other.Payload),
		Metadata:      smaller(l.Metadata, other.Metadata),
		MetadataPairs: smaller(l.MetadataPairs, other.MetadataPairs),
		Topic:         smaller(l.Topic, other.Topic),
		Key:           smaller(l.Key, other.Key),
		ID:            smaller(l.ID, other.ID),
	}
}

// maxDuration keeps due times within what every store's clock column holds.
const maxDuration = 10 * 365 * 24 * time.Hour

// Check returns an [*InvalidError] for the first thing wrong with the envelope, nil if a store can take it. The ID must
// be set. It looks at sizes and encodings only, and never at what the payload says.
func (l Limits) Check(env *Envelope) error {
	if env.ID == "" {
		return Invalid("ID", "is empty; leave it to NewID, or derive it from the business operation")
	}
	for _, text := range []struct {
		field, value string
		limit        int
	}{{"ID", string(env.ID), l.ID}, {"Topic", env.Topic, l.Topic}, {"Key", env.Key, l.Key}} {
		if over(len(text.value), text.limit) {
			return Invalid(text.field, "has %d bytes, at most %d are allowed", len(text.value), text.limit)
		}
		if problem := badText(text.value); problem != "" {
			return Invalid(text.field, "%s", problem)
		}
	}
	if env.Topic == "" {
		return Invalid("Topic", "is empty; name the topic that the message goes to")
	}
	if over(len(env.Payload), l.Payload) {
		return Invalid("Payload", "has %d bytes, at most %d are allowed; store large content elsewhere and send a reference",
			len(env.Payload), l.Payload)
	}
	if env.Delay < 0 || env.Delay > maxDuration {
		return Invalid("Delay", "is %v, must lie between 0 and %v", env.Delay, maxDuration)
	}
	if env.Deadline < 0 || env.Deadline > maxDuration {
		return Invalid("Deadline", "is %v, must lie between 0 (none) and %v", env.Deadline, maxDuration)
	}
	if env.Deadline > 0 && env.Deadline <= env.Delay {
		return Invalid("Deadline", "is %v and not after the delay of %v, so that no attempt would be made", env.Deadline, env.Delay)
	}
	return l.checkMetadata(env.Metadata)
}

func (l Limits) checkMetadata(metadata map[string]string) error {
	if over(len(metadata), l.MetadataPairs) {
		return Invalid("Metadata", "has %d keys, at most %d are allowed", len(metadata), l.MetadataPairs)
	}
	size := 0
	for key, value := range metadata {
		switch {
		case key == "":
			return Invalid("Metadata", "has an empty key")
		case Reserved(key) && !Travels(key):
			return Invalid("Metadata", "key %q begins with %q, which is reserved; use EnvelopeOf for a message that was received",
				key, ReservedPrefix)
		}
		if problem := badText(key); problem != "" {
			return Invalid("Metadata", "key %q %s", strings.ToValidUTF8(key, "?"), problem)
		}
		if problem := badText(value); problem != "" {
			return Invalid("Metadata", "value of key %q %s", key, problem)
		}
		size += len(key) + len(value)
	}
	if over(size, l.Metadata) {
		return Invalid("Metadata", "has %d bytes, at most %d are allowed", size, l.Metadata)
	}
	return nil
}

func over(size, limit int) bool { return limit > 0 && size > limit }

// badText says what keeps text from being carried by every store and broker: PostgreSQL takes neither a NUL nor a cut
// rune in a text column, and fails the whole batch for it.
func badText(text string) string {
	if !utf8.ValidString(text) {
		return "is not valid UTF-8"
	}
	if strings.IndexByte(text, 0) >= 0 {
		return "holds a NUL character"
	}
	return ""
}
