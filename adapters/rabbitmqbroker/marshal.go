package rabbitmqbroker

import (
	"sync"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/waybillmq/waybill/reliable"
)

// tables are header tables for messages on their way to the socket, which is all the time that one is needed.
var tables = sync.Pool{New: func() any { return make(amqp.Table, 4) }}

// manyHeaders is above how many pairs a table is not kept for the next message.
const manyHeaders = 64

// marshal makes of an attempt what the configured marshaler makes of it. What DefaultMarshaler does is done without the
// detour over another library's message; lent then says that nobody else has the headers, which are from tables.
func (b *Broker) marshal(a *reliable.Attempt) (msg amqp.Publishing, lent bool, err error) {
	usual, ok := b.config.Marshaler.(wamqp.DefaultMarshaler)
	if !ok || usual.PostprocessPublishing != nil {
		// Not a.Message(): what nobody acks needs no channels.
		msg, err = b.config.Marshaler.Marshal(&message.Message{UUID: string(a.ID), Metadata: a.WireMetadata(), Payload: a.Payload})
		return msg, false, err
	}
	headers, _ := tables.Get().(amqp.Table)
	for key, value := range a.Metadata {
		headers[key] = value
	}
	headers[reliable.HeaderVersion] = reliable.WireVersion
	if a.Key != "" {
		headers[reliable.HeaderKey] = a.Key
	}
	uuid := usual.MessageUUIDHeaderKey
	if uuid == "" {
		uuid = wamqp.DefaultMessageUUIDHeaderKey
	}
	headers[uuid] = string(a.ID)
	return amqp.Publishing{Headers: headers, Body: a.Payload}, true, nil
}

// sent gives the headers of a message back that was written: amqp091 keeps nothing of it.
func (e *entry) sent() {
	if !e.lent {
		return
	}
	headers := e.msg.Headers
	e.msg.Headers, e.lent = nil, false
	if len(headers) <= manyHeaders {
		clear(headers)
		tables.Put(headers)
	}
}
