package rabbitmqbroker

import (
	"testing"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

func TestPrepare_isWhatTheMarshalerMakesOfTheMessage(t *testing.T) {
	for what, marshaler := range map[string]wamqp.Marshaler{
		"default":             wamqp.DefaultMarshaler{},
		"another key for ids": wamqp.DefaultMarshaler{MessageUUIDHeaderKey: "uuid"},
		"not persistent":      wamqp.DefaultMarshaler{NotPersistentDeliveryMode: true},
		"postprocessed":       wamqp.DefaultMarshaler{PostprocessPublishing: func(p amqp.Publishing) amqp.Publishing { p.Type = "t"; return p }},
		"somebody else's":     renaming{},
	} {
		config := wamqp.NewDurableQueueConfig("amqp://localhost")
		config.Marshaler = marshaler
		b, err := New(config)
		require.NoError(t, err)
		for range 2 { // the second has tables that the first gave back
			for _, env := range []reliable.Envelope{
				{ID: "plain", Topic: "orders", Payload: []byte("p")},
				{ID: "keyed", Topic: "orders", Key: "k", Metadata: map[string]string{"a": "1", "b": ""}},
				{ID: "named", Topic: "orders", Metadata: map[string]string{
					wamqp.DefaultMessageUUIDHeaderKey: "other", reliable.HeaderVersion: "other", "uuid": "other",
				}},
			} {
				want, err := marshaler.Marshal(env.Message())
				require.NoError(t, err)
				want.DeliveryMode, want.MessageId = amqp.Persistent, string(env.ID)
				e, err := b.prepare(&reliable.Attempt{Envelope: env}, 0)
				require.NoError(t, err)
				assert.Equal(t, want, e.msg, "%s: %s", what, env.ID)
				e.sent()
			}
		}
		require.NoError(t, b.Close())
	}
}

// renaming is a marshaler that makes messages of its own.
type renaming struct{ wamqp.DefaultMarshaler }

func TestSent_givesBackOnlyHeadersThatNobodyElseHas(t *testing.T) {
	var kept amqp.Table
	config := wamqp.NewDurableQueueConfig("amqp://localhost")
	config.Marshaler = wamqp.DefaultMarshaler{PostprocessPublishing: func(p amqp.Publishing) amqp.Publishing {
		kept = p.Headers
		return p
	}}
	b, err := New(config)
	require.NoError(t, err)
	e, err := b.prepare(&reliable.Attempt{Envelope: reliable.Envelope{ID: "a", Topic: "orders"}}, 0)
	require.NoError(t, err)
	e.sent()
	assert.Equal(t, "a", kept[wamqp.DefaultMessageUUIDHeaderKey])
	require.NoError(t, b.Close())
}
