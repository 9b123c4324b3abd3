package reliable

import (
	"maps"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"
)

// The names under which Waybill's own values travel in Watermill's metadata, and so in the headers of every broker whose
// marshaler carries metadata. The envelope's ID travels as the message's UUID. This is version 1 of the format; a reader
// takes a message without [HeaderVersion] for one that another program sent.
const (
	// ReservedPrefix begins every name that belongs to Waybill.
	ReservedPrefix = "waybill-"
	// HeaderVersion holds the version of the format.
	HeaderVersion = "waybill-version"
	// HeaderKey holds the envelope's Key; absent when there is none.
	HeaderKey = "waybill-key"
	// HeaderNATSMetadata holds, on NATS only and URL-encoded, the metadata that NATS headers cannot carry.
	HeaderNATSMetadata = "waybill-nats-metadata"
	// HeaderTraceParent and HeaderTraceState hold the trace context (W3C Trace Context) in which the envelope was stored.
	// They are not Waybill's own: whatever put them there is passed on.
	HeaderTraceParent = "traceparent"
	HeaderTraceState  = "tracestate"

	// WireVersion is the version that this package writes.
	WireVersion = "1"
)

// What a consumer writes on a message that it could not process, when it puts it in a retry topic or a poison topic. The
// message keeps its ID, key and metadata; these names are added, and taken off again before a handler sees it. They belong
// to Waybill, but unlike the names above they do not come from an envelope's own fields, so they are passed on as metadata
// is: see [Travels]. They are part of version 1; readers ignore those that they do not know.
const (
	// HeaderFailureTopic holds the topic that the message was consumed from, the one to send it to again.
	HeaderFailureTopic = "waybill-failure-topic"
	// HeaderFailureGroup holds the consumer group that could not process it.
	HeaderFailureGroup = "waybill-failure-group"
	// HeaderFailureHandler holds the name of the handler.
	HeaderFailureHandler = "waybill-failure-handler"
	// HeaderFailureAttempts holds how often the handler was tried and failed, in decimal.
	HeaderFailureAttempts = "waybill-failure-attempts"
	// HeaderFailureRetries holds how often the message was put in a retry topic, in decimal.
	HeaderFailureRetries = "waybill-failure-retries"
	// HeaderFailureFirst and HeaderFailureLast hold when it failed first and last, on the consumers' clocks (RFC 3339, UTC).
	HeaderFailureFirst = "waybill-failure-first"
	HeaderFailureLast  = "waybill-failure-last"
	// HeaderFailureDue holds when a message in a retry topic is to be tried again, on the clock of whoever put it there.
	HeaderFailureDue = "waybill-failure-due"
	// HeaderFailureReason holds the text of the last error, sanitised and cut.
	HeaderFailureReason = "waybill-failure-reason"
	// HeaderFailureStack holds where the handler panicked, if it did and stacks are kept.
	HeaderFailureStack = "waybill-failure-stack"
	// HeaderReplays holds how often the message was replayed from a poison topic, in decimal.
	HeaderReplays = "waybill-replays"
	// HeaderCopy tells a copy made on purpose from one made by accident: a message that is published again under its own ID
	// (retried, poisoned, replayed) has another value each time, and the same again if that publishing is repeated. A broker
	// that drops repeated IDs must compare the ID and this together, or it drops the retry and confirms it.
	HeaderCopy = "waybill-copy"
)

// HeaderDelay holds, on a message that was published at once although it is meant for later, how long its handler is not to
// see it, counted from its arrival at whoever keeps it until then: a duration of Go's, as "5m0s". It [Travels], and whoever
// keeps the message takes it off. It is part of version 1.
const HeaderDelay = "waybill-delay"

// HeaderBundle holds how many messages there are in the payload of one that several travel in, in decimal. The adapter that
// made it takes it apart again: nobody else sees it. It [Travels].
const HeaderBundle = "waybill-bundle"

// Reserved reports whether a metadata key belongs to Waybill.
func Reserved(key string) bool { return strings.HasPrefix(key, ReservedPrefix) }

// Travels reports whether a reserved key is passed on with a message, as metadata is. What is reserved and does not travel
// is written anew for each message that is sent.
func Travels(key string) bool {
	switch key {
	case HeaderFailureTopic, HeaderFailureGroup, HeaderFailureHandler, HeaderFailureAttempts, HeaderFailureRetries,
		HeaderFailureFirst, HeaderFailureLast, HeaderFailureDue, HeaderFailureReason, HeaderFailureStack,
		HeaderReplays, HeaderCopy, HeaderDelay, HeaderBundle:
		return true
	}
	return false
}

// Message returns the envelope as Watermill's message, as every broker adapter sends it. The payload is shared, the
// metadata is not.
func (e *Envelope) Message() *message.Message {
	msg := message.NewMessage(string(e.ID), e.Payload)
	msg.Metadata = e.WireMetadata()
	return msg
}

// WireMetadata returns a copy of the envelope's metadata with what the wire format adds: that of [Envelope.Message].
func (e *Envelope) WireMetadata() map[string]string {
	metadata := make(map[string]string, len(e.Metadata)+2)
	maps.Copy(metadata, e.Metadata)
	metadata[HeaderVersion] = WireVersion
	if e.Key != "" {
		metadata[HeaderKey] = e.Key
	}
	return metadata
}

// EnvelopeOf returns the envelope that sends msg to topic: the message's UUID is the ID, [HeaderKey] in its metadata
// becomes the Key, and other reserved metadata, which a received message carries, is left out unless it [Travels].
func EnvelopeOf(topic string, msg *message.Message) Envelope {
	env := Envelope{ID: ID(msg.UUID), Topic: topic, Key: msg.Metadata[HeaderKey], Payload: msg.Payload}
	for key, value := range msg.Metadata {
		if Reserved(key) && !Travels(key) {
			continue
		}
		if env.Metadata == nil {
			env.Metadata = make(map[string]string, len(msg.Metadata))
		}
		env.Metadata[key] = value
	}
	return env
}
