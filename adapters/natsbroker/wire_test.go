package natsbroker_test

import (
	"context"
	"maps"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	wmjetstream "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/jetstream"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/reliable"
)

func TestWire_watermillNatsReadsOursAndWeReadTheirs(t *testing.T) {
	server := startServer(t)
	b := declared(t, newBroker(t, server, natsbroker.WithStream("topic"))) // watermill-nats: stream and subject are the topic
	logger := watermill.NopLogger{}
	theirConn, _ := client(t, server)
	theirPublisher, err := wmjetstream.NewPublisher(wmjetstream.PublisherConfig{Conn: theirConn, Logger: logger})
	require.NoError(t, err)
	theirSubConn, _ := client(t, server)
	theirSubscriber, err := wmjetstream.NewSubscriber(wmjetstream.SubscriberConfig{Conn: theirSubConn, Logger: logger})
	require.NoError(t, err)
	theirs, err := theirSubscriber.Subscribe(t.Context(), "topic")
	require.NoError(t, err)
	subscriber, err := b.Subscriber("group")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, subscriber.Close()) })
	ours, err := subscriber.Subscribe(t.Context(), "topic")
	require.NoError(t, err)

	env := reliable.Envelope{ID: "order/1", Topic: "topic", Key: "customer-1", Payload: []byte("ours"), Metadata: map[string]string{"name": "grün"}}
	require.Equal(t, reliable.Acked, outcome(t, b, env).Outcome)
	for _, messages := range []<-chan *message.Message{theirs, ours} {
		assert.Equal(t, env, reliable.EnvelopeOf("topic", next(t, messages)))
	}

	msg := message.NewMessage("their-uuid", []byte("theirs"))
	msg.Metadata.Set("name", "value")
	require.NoError(t, theirPublisher.Publish("topic", msg))
	for _, messages := range []<-chan *message.Message{theirs, ours} {
		got := next(t, messages)
		assert.Equal(t, msg.UUID, got.UUID)
		assert.Equal(t, msg.Metadata, got.Metadata)
		assert.Equal(t, msg.Payload, got.Payload)
	}
	require.NoError(t, theirSubscriber.Close())
}

// next returns the next message, acked.
func next(t *testing.T, messages <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case msg, ok := <-messages:
		require.True(t, ok, "the channel is closed")
		msg.Ack()
		return msg
	case <-within(t).Done():
		require.Fail(t, "no message")
		return nil
	}
}

func TestWire_metadataIsNeverAnOrderToTheServer(t *testing.T) {
	server := startServer(t)
	b := declared(t, newBroker(t, server))
	require.Equal(t, reliable.Acked, outcome(t, b, reliable.Envelope{Topic: "orders.created"}).Outcome)
	metadata := map[string]string{
		"Nats-Rollup": "all", "Nats-Expected-Stream": "another", "Nats-Msg-Id": "x", "nats-TTL": "1s",
		wmnats.WatermillUUIDHdr: "another id", "Status": "503",
	}
	env := reliable.Envelope{ID: "1", Topic: "orders.created", Metadata: metadata}
	confirm := outcome(t, b, env)
	require.Equal(t, reliable.Acked, confirm.Outcome, confirm.Err)
	assert.Equal(t, 2, stored(t, server, "orders"), "nothing was rolled up")

	_, js := client(t, server)
	raw, err := js.Stream(within(t), "orders")
	require.NoError(t, err)
	last, err := raw.GetLastMsgForSubject(within(t), "orders.created")
	require.NoError(t, err)
	got := natsbroker.Unmarshal(last.Header, last.Data)
	assert.Equal(t, "1", got.UUID)
	maps.DeleteFunc(got.Metadata, func(name, _ string) bool { return reliable.Reserved(name) })
	assert.Equal(t, message.Metadata(metadata), got.Metadata)
}

func TestUnmarshal_takesWhatAnyClientSent(t *testing.T) {
	bare := natsbroker.Unmarshal(nil, []byte("x"))
	assert.NotEmpty(t, bare.UUID)
	named := natsbroker.Unmarshal(nats.Header{nats.MsgIdHdr: {"7"}, "name": {"first", "second"}, "none": nil}, nil)
	assert.Equal(t, "7", named.UUID)
	assert.Equal(t, message.Metadata{"name": "first"}, named.Metadata)
	odd := natsbroker.Unmarshal(nats.Header{"waybill-nats-metadata": {"%zz"}}, nil)
	assert.Equal(t, "%zz", odd.Metadata["waybill-nats-metadata"])
}

func TestSubject_isWhatTheMappingSays(t *testing.T) {
	server := startServer(t)
	b := declared(t, newBroker(t, server, natsbroker.WithSubject(func(topic string) string { return "orders." + topic })))
	require.Equal(t, reliable.Acked, outcome(t, b, reliable.Envelope{Topic: "created"}).Outcome)
	_, js := client(t, server)
	stream, err := js.Stream(within(t), "orders")
	require.NoError(t, err)
	info, err := stream.Info(context.Background(), jetstream.WithSubjectFilter("orders.created"))
	require.NoError(t, err)
	assert.Equal(t, map[string]uint64{"orders.created": 1}, info.State.Subjects)
}

// A retry is published to its topic again under its own ID, on purpose. The stream must not confirm and drop it.
func TestWire_copiesOnPurposeAreNotTakenForDuplicates(t *testing.T) {
	server := startServer(t)
	b := declared(t, newBroker(t, server))
	for _, mark := range []string{"", "1 billing", "1 billing", "1 shipping", "2 billing"} {
		env := reliable.Envelope{ID: "1", Topic: "orders.retry"}
		if mark != "" {
			env.Metadata = map[string]string{reliable.HeaderCopy: mark}
		}
		require.Equal(t, reliable.Acked, outcome(t, b, env).Outcome)
	}
	assert.Equal(t, 4, stored(t, server, "orders"), "one for each mark")
}
