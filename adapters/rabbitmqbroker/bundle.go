package rabbitmqbroker

import (
	"encoding/binary"
	"errors"
	"strconv"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// Messages that are scheduled together may travel as one: a broker that keeps, moves and delivers a message in three logs
// does the same work for a hundred. Its metadata say how many it holds; its payload is a version, then of each message its
// UUID, the number of its pairs of metadata, these, and its payload, each text with its length before it.
const (
	bundleVersion = 1

	// bundleMessages and bundleBytes bound a bundle. One that is larger than its bytes for a single message is none.
	bundleMessages = 100
	bundleBytes    = 64 << 10
)

// bundled makes of messages what they travel in, in their order; a bundle has at most limit bytes.
func bundled(messages []*message.Message, limit int) []*message.Message {
	if len(messages) < 2 {
		return messages
	}
	var travelling []*message.Message
	for len(messages) > 0 {
		n, body := pack(messages, limit)
		if n < 2 {
			travelling, messages = append(travelling, messages[0]), messages[1:]
			continue
		}
		bundle := &message.Message{
			UUID: string(reliable.NewID()), Metadata: message.Metadata{reliable.HeaderBundle: strconv.Itoa(n)}, Payload: body,
		}
		bundle.SetContext(messages[0].Context())
		travelling, messages = append(travelling, bundle), messages[n:]
	}
	return travelling
}

// pack encodes as many messages as fit.
func pack(messages []*message.Message, limit int) (n int, body []byte) {
	body = append(body, bundleVersion)
	for n < min(len(messages), bundleMessages) {
		msg, before := messages[n], len(body)
		if before+len(msg.Payload) > limit { // it need not be copied to see that
			return n, body
		}
		body = appendBytes(body, msg.UUID)
		body = binary.AppendUvarint(body, uint64(len(msg.Metadata)))
		for name, value := range msg.Metadata {
			body = appendBytes(appendBytes(body, name), value)
		}
		if body = appendBytes(body, msg.Payload); len(body) > limit {
			return n, body[:before]
		}
		n++
	}
	return n, body
}

func appendBytes[T ~string | ~[]byte](to []byte, text T) []byte {
	return append(binary.AppendUvarint(to, uint64(len(text))), text...)
}

var errBundle = errors.New("a bundle of messages that cannot be read")

// unbundled returns the messages in a bundle, or none if msg is an ordinary message.
func unbundled(msg *message.Message) (parts []*message.Message, err error) {
	text, is := msg.Metadata[reliable.HeaderBundle]
	if !is {
		return nil, nil
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 1 || count > bundleMessages || len(msg.Payload) == 0 || msg.Payload[0] != bundleVersion {
		return nil, errBundle
	}
	r := reading{msg.Payload[1:], nil}
	for range count {
		part := message.NewMessage(string(r.bytes()), nil)
		for range r.number() {
			if r.err != nil {
				return nil, errBundle
			}
			name := string(r.bytes())
			part.Metadata[name] = string(r.bytes())
		}
		part.Payload = r.bytes()
		parts = append(parts, part)
	}
	if r.err != nil || len(r.left) > 0 {
		return nil, errBundle
	}
	return parts, nil
}

// reading takes a payload apart; after an error it reads nothing.
type reading struct {
	left []byte
	err  error
}

func (r *reading) number() uint64 {
	n, size := binary.Uvarint(r.left)
	if size <= 0 {
		r.left, r.err = nil, errBundle
		return 0
	}
	r.left = r.left[size:]
	return n
}

func (r *reading) bytes() []byte {
	n := r.number()
	if n > uint64(len(r.left)) {
		r.left, r.err = nil, errBundle
		return nil
	}
	taken := r.left[:n:n]
	r.left = r.left[n:]
	return taken
}
