//go:build services

package faults

import (
	"context"
	"fmt"
	"strings"
	"testing"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
)

// poison is a message for which the broker closes the channel, or the connection, on which it comes.
type poison struct {
	name     string
	amqpURL  func(t testing.TB) string
	topology func(amqpURL string) wamqp.Config
	spoil    func(*reliable.Envelope)
	ownFault bool // the message is to blame, not its destination
}

const oversize = 64 << 10

var poisons = []poison{
	{
		name: "header of 200 kB", amqpURL: testenv.RabbitMQ, ownFault: true,
		spoil: func(e *reliable.Envelope) { e.Metadata = map[string]string{"long": strings.Repeat("x", 200_000)} },
	},
	{
		name: "oversize", ownFault: true,
		amqpURL: func(t testing.TB) string {
			return testservers.StartRabbitMQ(t, fmt.Sprintf("max_message_size = %d", oversize)).URL()
		},
		spoil: func(e *reliable.Envelope) { e.Payload = make([]byte, oversize+1) },
	},
	{
		name: "exchange missing", amqpURL: testenv.RabbitMQ, topology: exchanges,
		spoil: func(e *reliable.Envelope) { e.Topic = refusedTopic },
	},
}

func TestPoison_amongMessagesOnTheirWayIsFoundAndItsNeighboursArrive(t *testing.T) {
	t.Parallel()
	for _, p := range poisons {
		for kind, makeDatabase := range databases {
			t.Run(p.name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				d, amqpURL := makeDatabase(t), p.amqpURL(t)
				d.Roomy = true
				declareExchange(t, amqpURL, queue)
				// Without size checks the broker itself finds the message: the worst case.
				r := newRig(t, rigConfig{
					database: d, amqpURL: amqpURL, topology: p.topology,
					broker: []rabbitmqbroker.Option{rabbitmqbroker.WithoutSizeChecks(), rabbitmqbroker.WithoutDeclaring()},
					outbox: endless,
				})
				envs := make([]reliable.Envelope, 400)
				for i := range envs {
					envs[i] = order(fmt.Sprintf("m-%d", i))
				}
				p.spoil(&envs[200])
				// Past the sender's checks, as another version of the program might have stored it.
				_, err := r.store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envs...)
				require.NoError(t, err)
				if p.ownFault {
					r.eventuallySettled()
					assert.Equal(t, map[string]bool{"m-200": true}, r.withStatus(reliable.Failed))
				} else {
					r.eventuallySettledBut(1)
					assert.Equal(t, map[string]bool{"m-200": true}, r.withStatus(reliable.Pending))
				}
				assert.NotEmpty(t, r.lastReason("m-200"))
				assert.NotZero(t, r.seen.outcome(reliable.Unknown), "the poison must have met neighbours in flight")

				receipts := consume(t, amqpURL, queue)
				assert.Len(t, receipts, 399)
				r.assertCopies(receipts, 3)
			})
		}
	}
}

// lastReason returns why the last attempt of a message did not end well.
func (r *rig) lastReason(id reliable.ID) string {
	r.t.Helper()
	inspector, ok := reliable.Ability[reliable.Inspector](r.store)
	require.True(r.t, ok)
	records, err := inspector.Lookup(context.Background(), id)
	require.NoError(r.t, err)
	require.Len(r.t, records, 1)
	require.NotEmpty(r.t, records[0].History)
	return records[0].History[len(records[0].History)-1].Reason
}
