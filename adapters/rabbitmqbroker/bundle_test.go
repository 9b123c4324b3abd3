package rabbitmqbroker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/waybillmq/waybill/reliable"
)

func TestBundled_whatTravelsTogetherComesApartAsItWas(t *testing.T) {
	text := rapid.StringN(0, 20, -1)
	rapid.Check(t, func(t *rapid.T) {
		var sent []*message.Message
		for i := range rapid.IntRange(1, 250).Draw(t, "messages") {
			msg := message.NewMessage(fmt.Sprint(i), []byte(strings.Repeat("x", rapid.IntRange(0, 2000).Draw(t, "bytes"))))
			msg.Metadata = rapid.MapOfN(text, text, 0, 3).Draw(t, "metadata")
			sent = append(sent, msg)
		}
		limit := rapid.SampledFrom([]int{100, 3000, bundleBytes, 1 << 30}).Draw(t, "limit")
		var came []*message.Message
		for _, travelling := range bundled(sent, limit) {
			parts, err := unbundled(travelling)
			require.NoError(t, err)
			if parts == nil {
				came = append(came, travelling)
				continue
			}
			require.LessOrEqual(t, len(travelling.Payload), limit)
			require.LessOrEqual(t, len(parts), bundleMessages)
			require.Greater(t, len(parts), 1, "one alone needs no bundle")
			came = append(came, parts...)
		}
		require.Len(t, came, len(sent))
		for i := range sent {
			require.True(t, sent[i].Equals(came[i]), "message %d", i)
		}
	})
}

func TestUnbundled_refusesWhatIsNoBundle(t *testing.T) {
	whole := bundled([]*message.Message{message.NewMessage("a", []byte("1")), message.NewMessage("b", []byte("2"))}, bundleBytes)[0]
	for name, spoil := range map[string]func(msg *message.Message){
		"no number":       func(msg *message.Message) { msg.Metadata[reliable.HeaderBundle] = "two" },
		"fewer than said": func(msg *message.Message) { msg.Metadata[reliable.HeaderBundle] = "3" },
		"more than said":  func(msg *message.Message) { msg.Metadata[reliable.HeaderBundle] = "1" },
		"none":            func(msg *message.Message) { msg.Metadata[reliable.HeaderBundle] = "0" },
		"too many":        func(msg *message.Message) { msg.Metadata[reliable.HeaderBundle] = "101" },
		"nothing":         func(msg *message.Message) { msg.Payload = nil },
		"a later version": func(msg *message.Message) { msg.Payload[0] = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			msg := whole.Copy()
			msg.Payload = append([]byte(nil), whole.Payload...)
			spoil(msg)
			_, err := unbundled(msg)
			assert.ErrorIs(t, err, errBundle)
		})
	}
	for cut := range whole.Payload {
		msg := whole.Copy()
		msg.Payload = whole.Payload[:cut]
		_, err := unbundled(msg)
		require.ErrorIs(t, err, errBundle, "cut after %d bytes", cut)
	}
	for i := range 5000 { // a forged one must not take the process with it
		msg := whole.Copy()
		msg.Payload = append([]byte(nil), whole.Payload...)
		msg.Payload[1+i%(len(msg.Payload)-1)] = byte(i * 7)
		_, _ = unbundled(msg)
	}
}
