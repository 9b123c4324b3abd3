package rabbitmqbroker

import (
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// frameOverhead is what a frame is larger than its payload: type, channel, size and end marker.
	frameOverhead = 8
	// maxShortString is the longest name AMQP 0-9-1 can carry, in bytes: exchange, routing key, property, header key.
	maxShortString = 255
	// headerFrameFixed is a content header without properties: class, weight, body size and flags.
	headerFrameFixed = 2 + 2 + 8 + 2
)

// headerFrameSize is how many bytes the content header of msg takes as a frame, or why it cannot be encoded. A header is
// never split: one that is larger than the connection's frames makes the broker close the connection, and one that cannot
// be encoded is noticed by the client only after half of the message was written.
func headerFrameSize(msg *amqp.Publishing) (int, error) {
	size := frameOverhead + headerFrameFixed
	for _, property := range [...]struct{ name, value string }{
		{"ContentType", msg.ContentType}, {"ContentEncoding", msg.ContentEncoding}, {"CorrelationId", msg.CorrelationId},
		{"ReplyTo", msg.ReplyTo}, {"Expiration", msg.Expiration}, {"MessageId", msg.MessageId}, {"Type", msg.Type},
		{"UserId", msg.UserId}, {"AppId", msg.AppId},
	} {
		if len(property.value) > maxShortString {
			return 0, fmt.Errorf("property %s has %d bytes, at most %d can be encoded",
				property.name, len(property.value), maxShortString)
		}
		if property.value != "" {
			size += 1 + len(property.value)
		}
	}
	if msg.DeliveryMode > 0 {
		size++
	}
	if msg.Priority > 0 {
		size++
	}
	if !msg.Timestamp.IsZero() {
		size += 8
	}
	if len(msg.Headers) > 0 {
		table, err := tableSize(msg.Headers)
		if err != nil {
			return 0, err
		}
		size += table
	}
	return size, nil
}

func tableSize(table amqp.Table) (int, error) {
	size := 4
	for key, value := range table {
		if len(key) > maxShortString {
			return 0, fmt.Errorf("a header key has %d bytes, at most %d can be encoded", len(key), maxShortString)
		}
		field, err := fieldSize(value)
		if err != nil {
			return 0, fmt.Errorf("header %q: %w", key, err)
		}
		size += 1 + len(key) + field
	}
	return size, nil
}

// fieldSize counts the byte of the type as well.
func fieldSize(value any) (int, error) {
	switch v := value.(type) {
	case nil:
		return 1, nil
	case bool, byte, int8:
		return 2, nil
	case int16, uint16:
		return 3, nil
	case int, int32, uint32, float32:
		return 5, nil
	case amqp.Decimal:
		return 6, nil
	case int64, float64, time.Time:
		return 9, nil
	case string:
		return 5 + len(v), nil
	case []byte:
		return 5 + len(v), nil
	case amqp.Table:
		size, err := tableSize(v)
		return 1 + size, err
	case []any:
		size := 5
		for _, element := range v {
			field, err := fieldSize(element)
			if err != nil {
				return 0, err
			}
			size += field
		}
		return size, nil
	}
	return 0, fmt.Errorf("a value of type %T cannot be encoded", value)
}
