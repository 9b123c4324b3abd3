package natsbroker_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/reliable"
)

// patience is how long a test waits for what must happen, on a loaded machine.
const patience = 2 * time.Minute

func startServer(t testing.TB, opts ...embedded.Option) *embedded.Server {
	t.Helper()
	server, err := embedded.StartServer(t.Context(), t.TempDir(), opts...)
	require.NoError(t, err)
	t.Cleanup(server.Stop)
	return server
}

func configOf(server *embedded.Server) natsbroker.Config {
	return natsbroker.Config{Connection: []nats.Option{server.ClientOption()}}
}

// newBroker returns a broker for server whose stream "orders" takes "orders.>".
func newBroker(t testing.TB, server *embedded.Server, opts ...natsbroker.Option) *natsbroker.Broker {
	t.Helper()
	opts = append([]natsbroker.Option{natsbroker.WithStream("orders", "orders.>")}, opts...)
	b, err := natsbroker.New(configOf(server), opts...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	return b
}

func declared(t testing.TB, b *natsbroker.Broker) *natsbroker.Broker {
	t.Helper()
	require.NoError(t, b.Declare(within(t)))
	return b
}

// within returns a context that ends when the test's patience does.
func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func attempts(topic string, n int) []reliable.Attempt {
	batch := make([]reliable.Attempt, n)
	for i := range batch {
		batch[i] = reliable.Attempt{
			Envelope: reliable.Envelope{ID: reliable.NewID(), Topic: topic, Payload: []byte("payload")}, Fence: 1, Attempts: 1,
		}
	}
	return batch
}

func publish(t testing.TB, b *natsbroker.Broker, batch []reliable.Attempt) {
	t.Helper()
	n, err := b.Publish(within(t), batch)
	require.NoError(t, err)
	require.Equal(t, len(batch), n)
}

// receive returns n confirms by ID, each of which must be the only one.
func receive(t testing.TB, b *natsbroker.Broker, n int) map[reliable.ID]reliable.Confirm {
	t.Helper()
	ctx := within(t)
	confirms := make(map[reliable.ID]reliable.Confirm, n)
	for len(confirms) < n {
		got, err := b.Receive(ctx, n-len(confirms))
		require.NoError(t, err, "%d of %d confirms came", len(confirms), n)
		for _, confirm := range got {
			require.NotContains(t, confirms, confirm.ID, "confirmed twice")
			confirms[confirm.ID] = confirm
		}
	}
	return confirms
}

// outcome publishes one attempt and returns its confirm.
func outcome(t testing.TB, b *natsbroker.Broker, env reliable.Envelope) reliable.Confirm {
	t.Helper()
	if env.ID == "" {
		env.ID = reliable.NewID()
	}
	publish(t, b, []reliable.Attempt{{Envelope: env, Fence: 1, Attempts: 1}})
	return receive(t, b, 1)[env.ID]
}

// publishUntilAcked publishes batch, and again what is unknown because a restarted server's connection was not yet noticed
// to be lost.
func publishUntilAcked(t testing.TB, b *natsbroker.Broker, batch []reliable.Attempt) {
	t.Helper()
	for left := batch; len(left) > 0; {
		publish(t, b, left)
		confirms := receive(t, b, len(left))
		var unknown []reliable.Attempt
		for i := range left {
			switch confirm := confirms[left[i].ID]; confirm.Outcome {
			case reliable.Acked:
			case reliable.Unknown:
				unknown = append(unknown, left[i])
			default:
				require.Fail(t, "neither acked nor unknown", "%v: %v", confirm.Outcome, confirm.Err)
			}
		}
		left = unknown
	}
}

// drained closes b and counts what remains to be received.
func drained(t testing.TB, b *natsbroker.Broker) (confirms []reliable.Confirm) {
	t.Helper()
	require.NoError(t, b.Close())
	for {
		got, err := b.Receive(within(t), 100)
		if errors.Is(err, io.EOF) {
			return confirms
		}
		require.NoError(t, err)
		confirms = append(confirms, got...)
	}
}

// client returns a plain NATS client of server.
func client(t testing.TB, server *embedded.Server, opts ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect("", append(opts, server.ClientOption())...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return nc, js
}

// stored returns how many messages a stream has.
func stored(t testing.TB, server *embedded.Server, stream string) int {
	t.Helper()
	nc, js := client(t, server)
	defer nc.Close()
	s, err := js.Stream(within(t), stream)
	require.NoError(t, err)
	return int(s.CachedInfo().State.Msgs)
}

// idsIn returns the IDs of the messages that a stream has.
func idsIn(t testing.TB, server *embedded.Server, stream string) map[reliable.ID]bool {
	t.Helper()
	nc, js := client(t, server)
	defer nc.Close()
	ctx := within(t)
	s, err := js.Stream(ctx, stream)
	require.NoError(t, err)
	consumer, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy})
	require.NoError(t, err)
	ids := make(map[reliable.ID]bool)
	for left := int(s.CachedInfo().State.Msgs); left > 0; {
		batch, err := consumer.Fetch(min(left, 1000), jetstream.FetchContext(ctx))
		require.NoError(t, err)
		for msg := range batch.Messages() {
			ids[reliable.ID(natsbroker.Unmarshal(msg.Headers(), nil).UUID)] = true
			left--
		}
		require.NoError(t, batch.Error())
	}
	return ids
}
