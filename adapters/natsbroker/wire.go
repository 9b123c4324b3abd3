package natsbroker

import (
	"net/url"
	"strings"

	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// headerID is where watermill-nats keeps the message's UUID.
	headerID = wmnats.WatermillUUIDHdr
	// headerRest carries, URL-encoded, the metadata that cannot travel as headers of their own.
	headerRest = reliable.HeaderNATSMetadata
	// idInRest is the name there of an ID that is no header's value; no metadata has it.
	idInRest = ""
	// commands begins the names of the headers by which a client gives JetStream orders: roll-ups, expectations, TTLs.
	commands = "Nats-"
	// headroom is what Limits keeps free of max_payload for the headers of an ordinary message.
	headroom = 4 << 10
)

// header returns the headers of env's message on subject. They are what watermill-nats' NATSMarshaler writes.
func header(env *reliable.Envelope, subject string, dedup Deduplication) nats.Header {
	values := make([]string, 0, len(env.Metadata)+5)
	h := make(nats.Header, len(env.Metadata)+5)
	set := func(name, value string) {
		values = append(values, value)
		last := len(values)
		h[name] = values[last-1 : last : last]
	}

	var rest url.Values
	keep := func(name, value string) {
		if rest == nil {
			rest = make(url.Values, 1)
		}
		rest.Set(name, value)
	}

	if id := string(env.ID); fitsValue(id) {
		set(headerID, id)
	} else {
		keep(idInRest, id)
	}
	set(reliable.HeaderVersion, reliable.WireVersion)
	if env.Key != "" {
		if fitsValue(env.Key) {
			set(reliable.HeaderKey, env.Key)
		} else {
			keep(reliable.HeaderKey, env.Key)
		}
	}
	switch dedup {
	case DeduplicatePerSubject:
		id := url.QueryEscape(string(env.ID)) + "@" + subject
		if of := env.Metadata[reliable.HeaderCopy]; of != "" {
			id += "#" + url.QueryEscape(of) // a retry or a replay must not be taken for what it repeats
		}
		set(nats.MsgIdHdr, id)
	case DeduplicatePerStream:
		if id := string(env.ID); fitsValue(id) {
			set(nats.MsgIdHdr, id)
		} else {
			set(nats.MsgIdHdr, url.QueryEscape(id))
		}
	case NoDeduplication:
	}
	for name, value := range env.Metadata {
		switch {
		case name == reliable.HeaderVersion || name == reliable.HeaderKey:
		case fitsHeader(name, value):
			set(name, value)
		default:
			keep(name, value)
		}
	}
	if rest != nil {
		set(headerRest, rest.Encode())
	}
	return h
}

// fitsHeader reports whether a pair arrives as it was sent when it travels as a header of its own, and is no order to
// the server.
func fitsHeader(name, value string) bool {
	if name == headerID || name == headerRest || name == "Status" || name == "Description" {
		return false
	}
	if len(name) >= len(commands) && strings.EqualFold(name[:len(commands)], commands) {
		return false
	}
	for i := range len(name) {
		if !headerNameByte[name[i]] {
			return false
		}
	}
	return name != "" && fitsValue(value)
}

// fitsValue reports whether a header's value arrives as it was sent: nats.go trims blanks and replaces line breaks.
func fitsValue(value string) bool {
	if strings.ContainsAny(value, "\r\n") {
		return false
	}
	return value == "" || !blank(value[0]) && !blank(value[len(value)-1])
}

func blank(b byte) bool { return b == ' ' || b == '\t' }

// headerNameByte holds the bytes that nats.go lets stand in a header's name.
var headerNameByte = func() (ok [256]bool) {
	for b := byte('!'); b <= '~'; b++ {
		ok[b] = !strings.ContainsRune("\"()/,:;<=>?@[\\]{}", rune(b))
	}
	return ok
}()

// Unmarshal returns the Watermill message in msg, which this package, watermill-nats' NATSMarshaler or a plain NATS
// client sent. A message without an ID of Watermill's takes its Nats-Msg-Id, or else a new UUID. A header with several
// values keeps the first. Headers by which the server is told what to do are left out.
//
// Use it where a subscriber of another kind takes an unmarshaler; without it such a subscriber sees all metadata but
// that which does not fit in headers.
func Unmarshal(header nats.Header, payload []byte) *message.Message {
	id := header.Get(headerID)
	if id == "" {
		id = header.Get(nats.MsgIdHdr)
	}
	if id == "" {
		id = string(reliable.NewID())
	}
	msg := message.NewMessage(id, payload)
	for name, values := range header {
		if len(values) == 0 || name == headerID || name == headerRest || strings.HasPrefix(name, commands) {
			continue
		}
		msg.Metadata[name] = values[0]
	}
	if text := header.Get(headerRest); text != "" {
		rest, err := url.ParseQuery(text)
		if err != nil { // not ours: leave it to be seen
			msg.Metadata[headerRest] = text
			return msg
		}
		for name := range rest {
			if name == idInRest {
				msg.UUID = rest.Get(name)
				continue
			}
			msg.Metadata[name] = rest.Get(name)
		}
	}
	return msg
}
