package tagging_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// besideFirst makes a sender whose first statement, "first", is under way and stays so until the gate opens.
func besideFirst(t *testing.T) (sender *tagging.Sender, log *enqueueLog, first <-chan error) {
	t.Helper()
	log = &enqueueLog{Store: memstore.New(), gate: make(chan struct{})}
	sender, err := tagging.NewSender(log, tagging.WithGroupCommit(4, 1000, 2))
	require.NoError(t, err)
	first = publishing(t.Context(), sender, envelope("first"))
	require.Equal(t, []string{"first"}, log.log())
	return sender, log, first
}

// succeed waits until all calls have succeeded, and until no writer waits for more of them.
func succeed(t *testing.T, results ...<-chan error) {
	t.Helper()
	for _, result := range results {
		assert.NoError(t, <-result)
	}
	after(time.Second)
}

func TestPublish_aStatementLeavesBesideAnotherOnceItIsFull(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		sender, log, first := besideFirst(t)
		began := time.Now()
		results := []<-chan error{first}
		for _, id := range []string{"a", "b", "c"} {
			results = append(results, publishing(t.Context(), sender, envelope(id)))
		}
		assert.Equal(t, []string{"first"}, log.log(), "three are not worth a statement of their own")
		results = append(results, publishing(t.Context(), sender, envelope("d")))
		assert.Equal(t, []string{"first", "a b c d"}, log.log())
		assert.Equal(t, began, time.Now())
		close(log.gate)
		succeed(t, results...)
	})
}

func TestPublish_aStatementOfManyBytesIsFull(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		sender, log, first := besideFirst(t)
		began, large := time.Now(), envelope("large")
		large.Payload = make([]byte, 1000)
		second := publishing(t.Context(), sender, large)
		assert.Equal(t, []string{"first", "large"}, log.log())
		assert.Equal(t, began, time.Now())
		close(log.gate)
		succeed(t, first, second)
	})
}

func TestPublish_whatWaitsBesideAStatementLeavesWhenThatEnds(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		sender, log, first := besideFirst(t)
		began := time.Now()
		a, b := publishing(t.Context(), sender, envelope("a")), publishing(t.Context(), sender, envelope("b"))
		log.gate <- struct{}{}
		assert.NoError(t, <-first)
		synctest.Wait()
		assert.Equal(t, []string{"first", "a b"}, log.log())
		assert.Equal(t, began, time.Now())
		close(log.gate)
		succeed(t, a, b)
	})
}

func TestPublish_aStatementThatHangsHoldsUpOthersForMillisecondsOnly(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		sender, log, first := besideFirst(t)
		a, b := publishing(t.Context(), sender, envelope("a")), publishing(t.Context(), sender, envelope("b"))
		after(30 * time.Millisecond)
		assert.Equal(t, []string{"first", "a b"}, log.log())
		log.gate <- struct{}{} // for either
		log.gate <- struct{}{}
		succeed(t, first, a, b)
	})
}

func TestPublish_aCallThatIsWithdrawnDoesNotCountForAFullStatement(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		sender, log, first := besideFirst(t)
		ctx, cancel := context.WithCancel(t.Context())
		gone := publishing(ctx, sender, envelope("gone"), envelope("too"))
		cancel()
		require.ErrorIs(t, <-gone, reliable.ErrNotStored)
		a := publishing(t.Context(), sender, envelope("a"), envelope("b"))
		assert.Equal(t, []string{"first"}, log.log())
		b := publishing(t.Context(), sender, envelope("c"), envelope("d"))
		assert.Equal(t, []string{"first", "a b c d"}, log.log())
		close(log.gate)
		succeed(t, first, a, b)
	})
}

// slowStore is a store whose statements take time.
type slowStore struct {
	*memstore.Store
	statements *atomic.Int64
}

func (s slowStore) Enqueue(ctx context.Context, req reliable.EnqueueRequest, envs ...reliable.Envelope) ([]reliable.Stored, error) {
	s.statements.Add(1)
	time.Sleep(4 * time.Millisecond)
	return s.Store.Enqueue(ctx, req, envs...)
}

// singleWriter is a store that wants one statement at a time.
type singleWriter struct{ slowStore }

func (singleWriter) Writers() int { return 1 }

func TestPublish_callersThatComeBackShareOneStatement(t *testing.T) {
	const callers, messages = 24, 20
	for _, waiting := range []bool{false, true} { // for the outcome, before the next message
		for _, writers := range []int{1, 2} {
			t.Run(fmt.Sprintf("%d writers, waiting %v", writers, waiting), func(t *testing.T) {
				virtualtime.Test(t, func(t *testing.T) {
					slow, broker := slowStore{memstore.New(), new(atomic.Int64)}, membroker.New()
					var store reliable.Store = slow
					if writers == 1 {
						store = singleWriter{slow}
					}
					p, err := tagging.New(store, broker, broker)
					require.NoError(t, err)
					ctx, cancel := context.WithCancel(t.Context())
					ran := make(chan error, 1)
					go func() { ran <- p.Run(ctx) }()
					synctest.Wait()
					began := time.Now()
					var wg sync.WaitGroup
					for range callers {
						wg.Go(func() { publishInTurn(t, p, messages, waiting) })
					}
					wg.Wait()
					synctest.Wait()
					assert.Less(t, time.Since(began), 20*time.Second, "none waited for the end of its lease")
					assert.Len(t, broker.Attempts(), callers*messages)
					if !waiting {
						assert.Less(t, slow.statements.Load(), int64(messages+messages/2))
					}
					cancel()
					require.NoError(t, <-ran)
					after(10 * time.Millisecond) // a writer may be gathering still, for callers that will not come back
				})
			})
		}
	}
}

// publishInTurn publishes n messages one after the other, and waits for the outcome of each, or of the last.
func publishInTurn(t *testing.T, p *tagging.Outbox, n int, waiting bool) {
	t.Helper()
	for i := range n {
		receipt, err := p.Publish(t.Context(), reliable.Envelope{Topic: "orders"})
		if !assert.NoError(t, err) {
			return
		}
		if waiting || i == n-1 {
			_, err = receipt.Wait(t.Context())
			assert.NoError(t, err)
		}
	}
}
