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

// Reserved reports whether a metadata key belongs to Waybill.
func Reserved(key string) bool { return strings.HasPrefix(key, ReservedPrefix) }

// Message returns the envelope as Watermill's message, as every broker adapter sends it. The payload is shared, the
// metadata is not.
func (e *Envelope) Message() *message.Message {
	msg := message.NewMessage(string(e.ID), e.Payload)
	maps.Copy(msg.Metadata, e.Metadata)
	msg.Metadata[HeaderVersion] = WireVersion
	if e.Key != "" {
		msg.Metadata[HeaderKey] = e.Key
	}
	return msg
}

// EnvelopeOf returns the envelope that sends msg to topic: the message's UUID is the ID, [HeaderKey] in its metadata
// becomes the Key, and other reserved metadata, which a received message carries, is left out.
func EnvelopeOf(topic string, msg *message.Message) Envelope {
	env := Envelope{ID: ID(msg.UUID), Topic: topic, Key: msg.Metadata[HeaderKey], Payload: msg.Payload}
	for key, value := range msg.Metadata {
		if Reserved(key) {
			continue
		}
		if env.Metadata == nil {
			env.Metadata = make(map[string]string, len(msg.Metadata))
		}
		env.Metadata[key] = value
	}
	return env
}
