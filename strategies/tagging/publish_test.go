package tagging_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
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

func TestPublish_isStoredBeforeRunAndSentByIt(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New()
		p, err := newProcess(store, broker)
		require.NoError(t, err)
		assert.False(t, p.Running())
		receipt, err := p.Publish(t.Context(), envelope("a"))
		require.NoError(t, err)
		after(time.Hour)
		assert.Equal(t, reliable.Pending, statusOf(t, store, "a"))
		p.start()
		statuses, err := receipt.Wait(t.Context())
		require.NoError(t, err)
		assert.Equal(t, []reliable.Status{reliable.Confirmed}, statuses)
		require.NoError(t, p.stop())
	})
}

func TestPublish_ofASenderIsFoundByTheRelayOfAnotherProcess(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New()
		single(t, store, broker)
		sender, err := tagging.NewSender(deaf{store})
		require.NoError(t, err)
		began := time.Now()
		receipt, err := sender.Publish(t.Context(), envelope("a"))
		require.NoError(t, err)
		_, err = receipt.Wait(t.Context())
		require.NoError(t, err)
		assert.Less(t, broker.Attempts()[0].HandedOver.Sub(began), time.Second, "without a wake-up too")
	})
}

// deaf is a store whose wake-ups get lost.
type deaf struct{ *memstore.Store }

func (deaf) Wake(context.Context) error { return nil }

// enqueueLog is a store that lets one statement pass at a time and remembers what it held.
type enqueueLog struct {
	reliable.Store
	gate chan struct{}
	fail func(envs []reliable.Envelope) error

	mu         sync.Mutex
	statements []string
}

func (l *enqueueLog) Enqueue(ctx context.Context, req reliable.EnqueueRequest, envs ...reliable.Envelope) ([]reliable.Stored, error) {
	var ids []string
	for i := range envs {
		ids = append(ids, string(envs[i].ID))
	}
	l.mu.Lock()
	l.statements = append(l.statements, strings.Join(ids, " "))
	l.mu.Unlock()
	select {
	case <-l.gate:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if l.fail != nil {
		if err := l.fail(envs); err != nil {
			return nil, err
		}
	}
	return l.Store.Enqueue(ctx, req, envs...)
}

func (l *enqueueLog) log() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.statements...)
}

// publishing starts a call of Publish and returns where its error appears.
func publishing(ctx context.Context, s *tagging.Sender, envs ...reliable.Envelope) <-chan error {
	result := make(chan error, 1)
	go func() {
		_, err := s.Publish(ctx, envs...)
		result <- err
	}()
	synctest.Wait()
	return result
}

func TestPublish_concurrentCallersShareStatementsWithinTheBounds(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		log := &enqueueLog{Store: memstore.New(), gate: make(chan struct{})}
		sender, err := tagging.NewSender(log, tagging.WithGroupCommit(3, 1000, 1))
		require.NoError(t, err)
		large := envelope("large")
		large.Payload = make([]byte, 990)
		results := []<-chan error{
			publishing(t.Context(), sender, envelope("a")), publishing(t.Context(), sender, envelope("b")), publishing(t.Context(), sender, envelope("c"), envelope("d")),
			publishing(t.Context(), sender, envelope("e")), publishing(t.Context(), sender, large), publishing(t.Context(), sender, envelope("f")),
			publishing(t.Context(), sender, envelope("g"), envelope("h"), envelope("i"), envelope("j")),
		}
		close(log.gate)
		for _, result := range results {
			assert.NoError(t, <-result)
		}
		assert.Equal(t, []string{"a", "b c d", "e", "large", "f", "g h i j"}, log.log())
	})
}

// pairwise is a store that takes two envelopes, or four, as cheaply as three.
type pairwise struct{ *enqueueLog }

func (pairwise) Portion(n int) int { return max(1, n/2*2) }

func TestPublish_bringsAsManyTogetherAsTheStoreLikes(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		log := &enqueueLog{Store: memstore.New(), gate: make(chan struct{})}
		sender, err := tagging.NewSender(pairwise{log}, tagging.WithGroupCommit(5, 1<<20, 1))
		require.NoError(t, err)
		var results []<-chan error
		for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
			results = append(results, publishing(t.Context(), sender, envelope(id)))
		}
		results = append(results, publishing(t.Context(), sender, envelope("g"), envelope("h"), envelope("i")))
		close(log.gate)
		for _, result := range results {
			assert.NoError(t, <-result)
		}
		// Five may go, and four are better; a call is never divided, so "f" goes with all three of the last.
		assert.Equal(t, []string{"a", "b c d e", "f g h i"}, log.log())

		log.gate = make(chan struct{})
		held := publishing(t.Context(), sender, envelope("j"))
		three := publishing(t.Context(), sender, envelope("k"), envelope("l"), envelope("m"))
		close(log.gate)
		assert.NoError(t, <-held)
		assert.NoError(t, <-three)
		assert.Equal(t, "k l m", log.log()[4], "what does not come out even goes as it is")
	})
}

func TestPublish_oneBadCallDoesNotFailTheOthers(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		log := &enqueueLog{Store: store, gate: make(chan struct{})}
		sender, err := tagging.NewSender(log, tagging.WithGroupCommit(100, 1<<20, 1))
		require.NoError(t, err)
		first := publishing(t.Context(), sender, envelope("a"))
		conflicting := envelope("a")
		conflicting.Payload = []byte("something else")
		good, bad, alsoGood := publishing(t.Context(), sender, envelope("b")), publishing(t.Context(), sender, conflicting, envelope("x")), publishing(t.Context(), sender, envelope("c"))
		close(log.gate)
		for _, result := range []<-chan error{first, good, alsoGood} {
			assert.NoError(t, <-result)
		}
		require.ErrorIs(t, <-bad, reliable.ErrConflict)
		assert.ElementsMatch(t, []string{"a", "b", "c"}, storedIDs(store))
	})
}

func TestPublish_aCallThatIsNotUnderWayIsWithdrawnWithItsContext(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		log := &enqueueLog{Store: store, gate: make(chan struct{})}
		sender, err := tagging.NewSender(log, tagging.WithGroupCommit(100, 1<<20, 1))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		underWay, waiting, other := publishing(ctx, sender, envelope("a")), publishing(ctx, sender, envelope("b")), publishing(t.Context(), sender, envelope("c"))
		cancel()
		err = <-underWay
		require.ErrorIs(t, err, reliable.ErrUnknown, "its statement runs on")
		require.ErrorIs(t, err, context.Canceled)
		err = <-waiting
		require.ErrorIs(t, err, reliable.ErrNotStored)
		require.NotErrorIs(t, err, reliable.ErrUnknown)
		_, err = sender.Publish(ctx, envelope("d"))
		require.ErrorIs(t, err, reliable.ErrNotStored)
		close(log.gate)
		require.NoError(t, <-other)
		assert.ElementsMatch(t, []string{"a", "c"}, storedIDs(store))
	})
}

func TestPublish_aStoreThatFailsOrHangsIsNotStored(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		log := &enqueueLog{Store: memstore.New(), gate: make(chan struct{})}
		sender, err := tagging.NewSender(log, tagging.WithStoreTimeout(time.Second))
		require.NoError(t, err)
		began := time.Now()
		_, err = sender.Publish(t.Context(), envelope("a"))
		require.ErrorIs(t, err, reliable.ErrNotStored)
		assert.Equal(t, time.Second, time.Since(began))
		log.fail = func([]reliable.Envelope) error { return errStore }
		close(log.gate)
		_, err = sender.Publish(t.Context(), envelope("a"))
		require.ErrorIs(t, err, reliable.ErrNotStored)
		require.ErrorIs(t, err, errStore)
	})
}

func TestPublish_aWakeUpThatHangsHoldsNobodyUp(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
			return memstore.Fault{HangBefore: op == memstore.OpWake}
		}))
		sender, err := tagging.NewSender(store)
		require.NoError(t, err)
		began := time.Now()
		for i := range 10 {
			_, err = sender.Publish(t.Context(), envelope(fmt.Sprint(i)))
			require.NoError(t, err)
		}
		require.NoError(t, tagging.InTx(t.Context(), sender, nil, func(_ *memstore.Tx, out *tagging.Scope) error { return out.Send(envelope("in tx")) }))
		assert.Equal(t, began, time.Now())
		after(time.Minute) // the wake-ups give up
	})
}

func TestPublish_waitsWhileTheMemoryIsFull(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New(membroker.WithLatency(5*time.Second))
		p := single(t, store, broker, tagging.WithWindow(8), tagging.WithMemory(8, 1<<20))
		for i := range 6 { // the last quarter belongs to claims
			_, err := p.Publish(t.Context(), envelope(fmt.Sprint(i)))
			require.NoError(t, err)
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.Publish(ctx, envelope("impatient"))
		require.ErrorIs(t, err, reliable.ErrNotStored)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = p.Publish(t.Context(), envelope("patient"))
		require.NoError(t, err)
		assert.Less(t, time.Since(began), 6*time.Second)
		assert.GreaterOrEqual(t, time.Since(began), 4*time.Second)
		assert.NotContains(t, storedIDs(store), "impatient")
	})
}

func TestReceipt_tellsEachWaiterOfAnIDItsOutcome(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New(membroker.WithLatency(time.Second), membroker.WithScript(func(a membroker.Attempt) membroker.Verdict {
			if a.ID == "bad" {
				return membroker.Verdict{Act: membroker.Reject}
			}
			return membroker.Verdict{}
		}))
		p := single(t, store, broker)
		first, err := p.Publish(t.Context(), envelope("good"), envelope("bad"), envelope("good"))
		require.NoError(t, err)
		assert.Equal(t, []reliable.ID{"good", "bad", "good"}, first.IDs())
		second, err := p.Publish(t.Context(), envelope("good"))
		require.NoError(t, err)
		want := []reliable.Status{reliable.Confirmed, reliable.Failed, reliable.Confirmed}
		var waiters sync.WaitGroup
		for range 3 {
			waiters.Go(func() {
				statuses, err := first.Wait(t.Context())
				assert.NoError(t, err)
				assert.Equal(t, want, statuses)
				statuses, err = second.Wait(t.Context())
				assert.NoError(t, err)
				assert.Equal(t, want[:1], statuses)
			})
		}
		waiters.Wait()
		assert.Len(t, broker.Delivered("orders"), 1)

		known, err := p.Publish(t.Context(), envelope("good"), envelope("bad"))
		require.NoError(t, err)
		began := time.Now()
		statuses, err := known.Wait(t.Context())
		require.NoError(t, err)
		assert.Equal(t, want[:2], statuses, "what was settled before is known at once")
		assert.Equal(t, began, time.Now())
	})
}

func TestReceipt_whoWaitsDoesNotWaitForOtherOutcomes(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		p := single(t, store, membroker.New(membroker.WithLatency(10*time.Millisecond)))
		publish := func(id string) *tagging.Receipt {
			receipt, err := p.Publish(t.Context(), envelope(id))
			require.NoError(t, err)
			return receipt
		}
		began := time.Now()
		_, err := publish("a").Wait(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 10*time.Millisecond, time.Since(began), "the broker's time")

		began = time.Now()
		receipt := publish("b")
		after(15 * time.Millisecond)
		assert.Equal(t, reliable.Pending, statusOf(t, store, "b"), "nobody waits for it")
		_, err = receipt.Wait(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 15*time.Millisecond, time.Since(began), "the waiting began later than the outcome came")

		publish("c")
		after(29 * time.Millisecond)
		assert.Equal(t, reliable.Pending, statusOf(t, store, "c"))
		after(time.Millisecond)
		assert.Equal(t, reliable.Confirmed, statusOf(t, store, "c"))
	})
}

func TestReceipt_waitingEndsWithItsContextAndCanBeTakenUpAgain(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New(membroker.WithLatency(10*time.Second))
		p := single(t, store, broker)
		receipt, err := p.Publish(t.Context(), envelope("a"))
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		statuses, err := receipt.Wait(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, []reliable.Status{reliable.Pending}, statuses)
		statuses, err = receipt.Wait(t.Context())
		require.NoError(t, err)
		assert.Equal(t, []reliable.Status{reliable.Confirmed}, statuses)
	})
}

func TestReceipt_learnsWhatAnotherProcessRecorded(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New(membroker.WithConfirmTimeout(time.Second))
		p := single(t, store, broker, tagging.WithLease(5*time.Second))
		sender, err := newProcess(store, broker, tagging.WithLease(5*time.Second))
		require.NoError(t, err)
		sender.start()
		synctest.Wait()
		receipt, err := sender.Publish(t.Context(), envelope("a"))
		require.NoError(t, err)
		empty, err := sender.Publish(t.Context())
		require.NoError(t, err)
		statuses, err := empty.Wait(t.Context())
		require.NoError(t, err)
		assert.Empty(t, statuses)

		sender.cancel()
		_ = <-sender.done
		statuses, err = receipt.Wait(t.Context())
		require.NoError(t, err)
		assert.Equal(t, []reliable.Status{reliable.Confirmed}, statuses)
		assert.True(t, p.Running())
	})
}
