package natsbroker_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/reliable"
)

func TestOutage_messagesInFlightAreUnknownAndPublishingThemAgainLosesNothing(t *testing.T) {
	server := startServer(t)
	wire := &cutter{server: server}
	b, err := natsbroker.New(natsbroker.Config{Connection: []nats.Option{nats.InProcessServer(wire)}},
		natsbroker.WithStream("orders", "orders.>"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	declared(t, b)

	before := attempts("orders.created", 50)
	publish(t, b, before)
	for id, confirm := range receive(t, b, len(before)) {
		require.Equal(t, reliable.Acked, confirm.Outcome, "id %s: %v", id, confirm.Err)
	}

	unblock := wire.block() // so that these are certainly in flight when the server stops
	during := attempts("orders.created", 200)
	publish(t, b, during)
	server.Stop()
	unblock()
	for id, confirm := range receive(t, b, len(during)) {
		assert.Equal(t, reliable.Unknown, confirm.Outcome, "id %s", id)
		assert.ErrorIs(t, confirm.Err, reliable.ErrConnectionLost)
	}

	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	n, err := b.Publish(short, during)
	assert.Zero(t, n)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	require.NoError(t, server.Restart(t.Context()))
	publish(t, b, during)
	for id, confirm := range receive(t, b, len(during)) {
		assert.Equal(t, reliable.Acked, confirm.Outcome, "id %s: %v", id, confirm.Err)
	}
	assert.Equal(t, len(before)+len(during), stored(t, server, "orders"))
}

func TestDeduplication_holdsAcrossARestartOfTheServer(t *testing.T) {
	server := startServer(t)
	b := declared(t, newBroker(t, server, natsbroker.WithStream("other", "other.>")))
	batch := attempts("orders.created", 20)
	publish(t, b, batch)
	receive(t, b, len(batch))
	require.NoError(t, server.Restart(t.Context()))

	publishUntilAcked(t, b, batch) // a copy that the stream has is acked
	assert.Equal(t, len(batch), stored(t, server, "orders"))
}

func TestDeduplication_scopeIsAsConfigured(t *testing.T) {
	for _, tc := range []struct {
		name      string
		scope     natsbroker.Deduplication
		wantSame  int // the same subject twice
		wantOther int // and another subject of the same stream
	}{
		{"per subject", natsbroker.DeduplicatePerSubject, 1, 2},
		{"per stream", natsbroker.DeduplicatePerStream, 1, 1},
		{"none", natsbroker.NoDeduplication, 2, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server := startServer(t)
			b := declared(t, newBroker(t, server, natsbroker.WithDeduplication(tc.scope)))
			env := reliable.Envelope{ID: "order-1", Topic: "orders.created"}
			for range 2 {
				require.Equal(t, reliable.Acked, outcome(t, b, env).Outcome)
			}
			assert.Equal(t, tc.wantSame, stored(t, server, "orders"))
			env.Topic = "orders.poisoned"
			require.Equal(t, reliable.Acked, outcome(t, b, env).Outcome)
			assert.Equal(t, tc.wantOther, stored(t, server, "orders"))
		})
	}
}

func TestTimeout_aBlockedSocketIsGivenUpAndTheBrokerRecovers(t *testing.T) {
	const timeout = 300 * time.Millisecond
	server := startServer(t)
	wire := &cutter{server: server}
	b, err := natsbroker.New(natsbroker.Config{Connection: []nats.Option{nats.InProcessServer(wire)}},
		natsbroker.WithStream("orders", "orders.>"), natsbroker.WithConfirmTimeout(timeout))
	require.NoError(t, err)
	declared(t, b)

	unblock := wire.block()
	batch := attempts("orders.created", 100)
	for i := range batch {
		batch[i].Payload = make([]byte, 10_000) // more than any buffer: the write itself blocks
	}
	publish(t, b, batch)
	for _, confirm := range receive(t, b, len(batch)) {
		assert.Equal(t, reliable.Unknown, confirm.Outcome)
		assert.ErrorIs(t, confirm.Err, reliable.ErrConnectionLost)
	}
	for i := range batch {
		clear(batch[i].Payload) // it is ours again; the race detector watches
	}
	unblock()
	require.Eventually(t, func() bool {
		return outcome(t, b, reliable.Envelope{Topic: "orders.created"}).Outcome == reliable.Acked
	}, patience, 10*time.Millisecond)
	assert.Empty(t, drained(t, b), "each attempt had its confirm")
}

func TestTimeout_aStreamThatDoesNotAnswerLeavesItsNeighboursAlone(t *testing.T) {
	server := startServer(t)
	b := declared(t, newBroker(t, server, natsbroker.WithConfirmTimeout(5*time.Second)))
	nc, _ := client(t, server)
	asked := make(chan *nats.Msg, 1)
	_, err := nc.ChanSubscribe("silent", asked) // interest, and nobody who answers
	require.NoError(t, err)
	require.NoError(t, nc.Flush())

	silent := attempts("silent", 1)
	publish(t, b, silent)
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() { // the connection is not silent
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				if _, err := b.Publish(t.Context(), attempts("orders.created", 1)); err != nil {
					return
				}
			}
		}
	})
	ctx := within(t)
	for found := false; !found; {
		confirms, err := b.Receive(ctx, 100)
		require.NoError(t, err)
		for _, confirm := range confirms {
			if confirm.ID != silent[0].ID {
				assert.Equal(t, reliable.Acked, confirm.Outcome, confirm.Err)
				continue
			}
			found = true
			assert.Equal(t, reliable.Unknown, confirm.Outcome)
			assert.NotErrorIs(t, confirm.Err, reliable.ErrConnectionLost)
		}
	}
	close(stop)
	others.Wait()

	late := <-asked // the answer that comes too late confirms nothing
	require.NoError(t, late.Respond([]byte(`{"stream":"orders","seq":1}`)))
	require.NoError(t, nc.Flush())
	for _, confirm := range drained(t, b) {
		assert.NotEqual(t, silent[0].ID, confirm.ID, "confirmed twice")
	}
}

// Connections are cut, the server restarted and streams taken away at random under several publishers.
func TestFaults_eachAttemptHasExactlyOneConfirmAndNoAckedMessageIsLost(t *testing.T) {
	const publishers, faults = 3, 12
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	server := startServer(t)
	wire := &cutter{server: server}
	b, err := natsbroker.New(natsbroker.Config{Connection: []nats.Option{nats.InProcessServer(wire)}},
		natsbroker.WithStream("orders", "orders.>"), natsbroker.WithWindow(200),
		natsbroker.WithConfirmTimeout(2*time.Second), natsbroker.WithReconnectWait(time.Millisecond, 20*time.Millisecond))
	require.NoError(t, err)
	declared(t, b)

	var mu sync.Mutex
	handed := make(map[reliable.ID]bool)
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	var publishing sync.WaitGroup
	for range publishers {
		publishing.Go(func() {
			for ctx.Err() == nil {
				batch := attempts("orders.created", 20)
				n, _ := b.Publish(ctx, batch)
				mu.Lock()
				for i := range n {
					handed[batch[i].ID] = true
				}
				mu.Unlock()
			}
		})
	}
	confirms := make(map[reliable.ID]reliable.Outcome)
	var reading sync.WaitGroup
	progress := make(chan struct{}, 1)
	reading.Go(func() {
		for {
			got, err := b.Receive(context.Background(), 64)
			if err != nil {
				return
			}
			for _, confirm := range got {
				_, twice := confirms[confirm.ID]
				assert.False(t, twice, "confirmed twice")
				confirms[confirm.ID] = confirm.Outcome
				if confirm.Outcome == reliable.Acked {
					select {
					case progress <- struct{}{}:
					default:
					}
				}
			}
		}
	})
	for range faults {
		for range 2 { // one may be of before the fault
			select {
			case <-progress:
			case <-ctx.Done():
				require.Fail(t, "nothing is acked any more")
			}
		}
		switch random.IntN(3) {
		case 0:
			wire.cut()
		case 1:
			unblock := wire.block()
			server.Stop()
			unblock()
			require.NoError(t, server.Restart(t.Context()))
		case 2:
			require.NoError(t, server.Restart(t.Context()))
		}
	}
	stop()
	publishing.Wait()
	require.NoError(t, b.Close())
	reading.Wait()

	assert.Len(t, confirms, len(handed))
	acked := 0
	for id, outcome := range confirms {
		assert.True(t, handed[id], "confirmed, and never handed over")
		if outcome == reliable.Acked {
			acked++
		}
	}
	kept := idsIn(t, server, "orders")
	for id, outcome := range confirms {
		if outcome == reliable.Acked {
			assert.True(t, kept[id], "acked and lost")
		}
	}
	t.Logf("%d handed over, %d acked, %d stored", len(handed), acked, stored(t, server, "orders"))
}
