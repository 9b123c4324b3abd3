//go:build services

package rabbitmqbroker

import (
	"encoding/binary"
	"net"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/waybillmq/waybill/internal/testenv"
)

// tap notes the size of the last content header that was written to a socket.
type tap struct {
	net.Conn
	seen   []byte
	header int
}

const protocolHeader, contentHeader = 8, 2

func (t *tap) Write(p []byte) (int, error) {
	t.seen = append(t.seen, p...)
	if len(t.seen) >= protocolHeader && string(t.seen[:4]) == "AMQP" {
		t.seen = t.seen[protocolHeader:]
	}
	for len(t.seen) >= 7 {
		size := int(binary.BigEndian.Uint32(t.seen[3:7])) + frameOverhead
		if len(t.seen) < size {
			break
		}
		if t.seen[0] == contentHeader {
			t.header = size
		}
		t.seen = t.seen[size:]
	}
	return t.Conn.Write(p)
}

func TestHeaderFrameSize_isWhatGoesOverTheWire(t *testing.T) {
	var wiretap *tap
	conn, err := amqp.DialConfig(testenv.RabbitMQ(t), amqp.Config{Dial: func(network, address string) (net.Conn, error) {
		socket, err := net.Dial(network, address)
		wiretap = &tap{Conn: socket}
		return wiretap, err
	}})
	require.NoError(t, err)
	defer conn.Close()
	ch, err := conn.Channel()
	require.NoError(t, err)

	text := rapid.StringN(0, 40, maxShortString)
	var value *rapid.Generator[any]
	value = rapid.Custom(func(t *rapid.T) any {
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			return text.Draw(t, "text")
		case 1:
			return rapid.SliceOfN(value, 0, 3).Draw(t, "array")
		case 2:
			return amqp.Table(rapid.MapOfN(text, value, 0, 3).Draw(t, "table"))
		}
		return rapid.SampledFrom([]any{
			nil, true, byte(1), int8(1), int16(1), uint16(1), 1, int32(1), uint32(1), int64(1), float32(1), 1.5,
			amqp.Decimal{Scale: 2, Value: 3}, time.Unix(1, 0), []byte("bytes"),
		}).Draw(t, "scalar")
	})
	rapid.Check(t, func(t *rapid.T) {
		property := func(name string) string { return text.Draw(t, name) }
		msg := amqp.Publishing{
			Headers:     rapid.MapOfN(text, value, 0, 20).Draw(t, "headers"),
			ContentType: property("type"), ContentEncoding: property("encoding"), CorrelationId: property("correlation"),
			ReplyTo: property("reply"), MessageId: property("id"), Type: property("kind"), AppId: property("app"),
			DeliveryMode: rapid.SampledFrom([]uint8{0, amqp.Persistent}).Draw(t, "mode"),
			Priority:     rapid.SampledFrom([]uint8{0, 5}).Draw(t, "priority"),
			Timestamp:    rapid.SampledFrom([]time.Time{{}, time.Unix(1, 0)}).Draw(t, "timestamp"),
		}
		computed, err := headerFrameSize(&msg)
		require.NoError(t, err)
		require.NoError(t, ch.Publish("", "nowhere", false, false, msg))
		require.Equal(t, wiretap.header, computed)
	})
}
