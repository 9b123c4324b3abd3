package kafkabroker

import (
	"fmt"

	"github.com/IBM/sarama"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// What a batch, a record and a header take on the wire besides their content, at most.
	batchOverhead  = 70
	recordOverhead = 50
	headerOverhead = 10

	// headroom is what Limits keeps for all but the payload, and own is the part of it that metadata must not take: names
	// and values that are ours, the key, overheads.
	headroom = 68 << 10
	own      = 4 << 10

	maxTopic      = 249 // bytes, by Kafka's own rule
	metadataPairs = 256
)

// fill makes of an attempt the record that goes over the wire, or says why that cannot be.
func (s *settings) fill(record *kgo.Record, a *reliable.Attempt) error {
	if a.Topic == "" {
		return reliable.Invalid("Topic", "is empty; name the topic that the message goes to")
	}
	var err error
	if _, usual := s.marshaler.(wkafka.DefaultMarshaler); usual {
		err = fillDefault(record, &a.Envelope)
	} else {
		err = s.fillMarshaled(record, &a.Envelope)
	}
	if err != nil {
		return fmt.Errorf("marshal: %w", err)
	}
	if limit := s.Limits().Payload; len(record.Value) > limit {
		return reliable.Invalid("Payload", "has %d bytes, records of at most %d bytes leave room for %d: "+
			"send a reference, or raise WithMaxMessageBytes and the topic's max.message.bytes", len(record.Value), s.maxMessage, limit)
	}
	if size := sizeOf(record); size > s.maxMessage {
		return reliable.Invalid("Metadata", "makes a record of %d bytes, at most %d are allowed: shorten it, or raise "+
			"WithMaxMessageBytes and the topic's max.message.bytes", size, s.maxMessage)
	}
	return nil
}

// fillDefault does what DefaultMarshaler does, without the detour over another library's message.
func fillDefault(record *kgo.Record, env *reliable.Envelope) error {
	if env.Metadata[wkafka.UUIDHeaderKey] != "" {
		return reliable.Invalid("Metadata", "key %q is watermill-kafka's own", wkafka.UUIDHeaderKey)
	}
	headers := make([]kgo.RecordHeader, 0, len(env.Metadata)+3)
	headers = append(headers, kgo.RecordHeader{Key: wkafka.UUIDHeaderKey, Value: []byte(env.ID)},
		kgo.RecordHeader{Key: reliable.HeaderVersion, Value: []byte(reliable.WireVersion)})
	if env.Key != "" {
		record.Key = []byte(env.Key)
		headers = append(headers, kgo.RecordHeader{Key: reliable.HeaderKey, Value: record.Key})
	}
	for name, value := range env.Metadata {
		if name != reliable.HeaderVersion && name != reliable.HeaderKey {
			headers = append(headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
		}
	}
	record.Topic, record.Value, record.Headers = env.Topic, env.Payload, headers
	return nil
}

func (s *settings) fillMarshaled(record *kgo.Record, env *reliable.Envelope) error {
	// Not env.Message(): what nobody acks needs no channels.
	msg, err := s.marshaler.Marshal(env.Topic, &message.Message{UUID: string(env.ID), Metadata: env.WireMetadata(), Payload: env.Payload})
	if err != nil {
		return err
	}
	record.Topic, record.Timestamp = msg.Topic, msg.Timestamp
	if record.Key, err = encoded(msg.Key); err != nil {
		return fmt.Errorf("encode the key: %w", err)
	}
	if record.Value, err = encoded(msg.Value); err != nil {
		return fmt.Errorf("encode the value: %w", err)
	}
	if record.Key == nil && env.Key != "" {
		record.Key = []byte(env.Key)
	}
	record.Headers = make([]kgo.RecordHeader, len(msg.Headers))
	for i, header := range msg.Headers {
		record.Headers[i] = kgo.RecordHeader{Key: string(header.Key), Value: header.Value}
	}
	return nil
}

func encoded(e sarama.Encoder) ([]byte, error) {
	if e == nil {
		return nil, nil
	}
	return e.Encode()
}

// sizeOf is how large a batch of this record alone can be at most.
func sizeOf(record *kgo.Record) int {
	size := batchOverhead + recordOverhead + len(record.Key) + len(record.Value)
	for i := range record.Headers {
		size += headerOverhead + len(record.Headers[i].Key) + len(record.Headers[i].Value)
	}
	return size
}

// Limits are those of the records that WithMaxMessageBytes allows: whatever keeps to each of them fits.
func (s *settings) Limits() reliable.Limits {
	rest := min(headroom, s.maxMessage/2)
	return reliable.Limits{
		Payload: s.maxMessage - rest, Metadata: rest - own, MetadataPairs: metadataPairs,
		Topic: maxTopic, Key: reliable.DefaultLimits().Key, ID: reliable.MaxIDBytes,
	}
}
