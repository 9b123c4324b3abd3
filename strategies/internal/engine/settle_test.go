package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
)

// settleStore is a store of which only Settle is asked.
type settleStore struct {
	reliable.Store
	answer func(ctx context.Context, ids []string) error

	mu      sync.Mutex
	asked   [][]string
	settled map[string]int
}

func (s *settleStore) Settle(ctx context.Context, ss ...reliable.Settlement) ([]reliable.SettleResult, error) {
	var ids []string
	for i := range ss {
		ids = append(ids, string(ss[i].ID))
	}
	s.mu.Lock()
	s.asked = append(s.asked, ids)
	s.mu.Unlock()
	if s.answer != nil {
		if err := s.answer(ctx, ids); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		s.settled[id]++
	}
	return make([]reliable.SettleResult, len(ss)), nil
}

func (s *settleStore) calls() [][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func (s *settleStore) recorded() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.settled)
}

// settlingWith runs a settler over store in a bubble until the end of the test.
func settlingWith(t *testing.T, store *settleStore, batch int) *Engine {
	t.Helper()
	store.settled = make(map[string]int) // before anything runs
	e := New(Config{
		Store: store, Logger: slog.New(slog.DiscardHandler), StoreTimeout: time.Second, SettleBatch: batch,
		SettleDelay: 30 * time.Millisecond, AwaitedDelay: 10 * time.Millisecond,
		Window: 10_000, Capacity: 10_000, CapacityBytes: 1 << 30,
	})
	e.window.open(false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); e.settler.loop(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return e
}

// settleAll admits an attempt for each ID and has its outcome recorded.
func settleAll(e *Engine, ids ...string) {
	for _, id := range ids {
		answer(e, hand(e, id), "")
	}
}

// hand admits an attempt and takes it to be handed over.
func hand(e *Engine, id string) *entry {
	e.window.admit([]reliable.Attempt{attempt(id, 20)}, time.Now(), time.Minute, false, 0, 0)
	return e.window.take(nil, 1)[0]
}

// answer is the broker's ack of what was handed over, on its way to be recorded.
func answer(e *Engine, en *entry, key string) {
	e.window.answered([]reliable.Confirm{{ID: en.attempt.ID, Fence: 1}}, nil)
	e.settler.add(en, reliable.Settlement{
		ID: en.attempt.ID, Fence: 1, Key: key, Sent: true, Outcome: reliable.Acked, To: reliable.Confirmed,
	})
}

// after lets time pass, and everything come to rest.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func named(n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprintf("id-%d", i))
	}
	return ids
}

func assertAllFree(t *testing.T, e *Engine) {
	t.Helper()
	counts := e.window.counts()
	assert.Zero(t, counts.handed)
	assert.Zero(t, counts.held, "a place is freed when its outcome is recorded")
	assert.True(t, e.settler.idle())
}

func TestSettler_outcomesOfAMomentShareAStatement(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := &settleStore{}
		e := settlingWith(t, store, 100)
		settleAll(e, "a", "b")
		after(20 * time.Millisecond)
		settleAll(e, "c")
		after(9 * time.Millisecond)
		assert.Empty(t, store.calls(), "it waits a moment for more")
		after(time.Millisecond)
		synctest.Wait()
		assert.Equal(t, [][]string{{"a", "b", "c"}}, store.calls())
		assertAllFree(t, e)
	})
}

func TestSettler_aKeyDoesNotWaitForMoreWhileNothingIsUnderWay(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := &settleStore{}
		e := settlingWith(t, store, 100)
		began := time.Now()
		settleAll(e, "without key")
		answer(e, hand(e, "a"), "k")
		synctest.Wait()
		assert.Equal(t, [][]string{{"without key", "a"}}, store.calls(), "what waits goes with it")
		assert.Equal(t, began, time.Now())

		b := hand(e, "b")
		e.window.admit([]reliable.Attempt{attempt("c", 20)}, time.Now(), time.Minute, false, 0, 0)
		answer(e, b, "k")
		after(4 * time.Millisecond)
		assert.Len(t, store.calls(), 1, "something is queued that will be answered soon")
		c := e.window.take(nil, 1)[0]
		settleAll(e, "beside")
		after(4 * time.Millisecond)
		assert.Len(t, store.calls(), 1, "it is with the broker")
		answer(e, c, "")
		synctest.Wait()
		assert.Equal(t, []string{"b", "beside", "c"}, store.calls()[1], "nothing else is under way now")
		assert.Equal(t, began.Add(8*time.Millisecond), time.Now())

		settleAll(e, "d")
		after(29 * time.Millisecond)
		assert.Len(t, store.calls(), 2, "no key waits for this one")
		after(time.Millisecond)
		assertAllFree(t, e)
	})
}

func TestSettler_aKeyWaitsLessForMoreThanOthers(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := &settleStore{}
		e := settlingWith(t, store, 100)
		hand(e, "stays")
		settleAll(e, "a")
		after(5 * time.Millisecond)
		answer(e, hand(e, "b"), "k")
		after(4 * time.Millisecond)
		settleAll(e, "c")
		assert.Empty(t, store.calls())
		after(time.Millisecond)
		assert.Equal(t, [][]string{{"a", "b", "c"}}, store.calls(), "counted from the oldest")

		settleAll(e, "d")
		after(29 * time.Millisecond)
		answer(e, hand(e, "e"), "k")
		synctest.Wait()
		assert.Equal(t, []string{"d", "e"}, store.calls()[1], "the others have waited longer than that")
	})
}

func TestSettler_manyWaitNoLongerThanTheStoreNeeds(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := &settleStore{}
		e := settlingWith(t, store, 1000)
		settleAll(e, named(worthAStatement-1)...)
		after(15 * time.Millisecond)
		assert.Empty(t, store.calls())
		settleAll(e, "one more")
		synctest.Wait()
		assert.Len(t, store.calls(), 1)
	})
}

func TestSettler_whatComesDuringAStatementWaitsFromItsEnd(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		const slow = 8 * time.Millisecond
		store := &settleStore{answer: func(context.Context, []string) error { time.Sleep(slow); return nil }}
		e := settlingWith(t, store, 100)
		settleAll(e, "a")
		after(30 * time.Millisecond)
		settleAll(e, "b")
		after(slow + 29*time.Millisecond)
		assert.Len(t, store.calls(), 1)
		after(time.Millisecond)
		assert.Len(t, store.calls(), 2)
	})
}

func TestSettler_aSlowStoreGetsFewerStatementsForKeys(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		const slow = 8 * time.Millisecond
		store := &settleStore{answer: func(context.Context, []string) error { time.Sleep(slow); return nil }}
		e := settlingWith(t, store, 100)
		hand(e, "stays")
		answer(e, hand(e, "a"), "k")
		after(10*time.Millisecond + slow)
		answer(e, hand(e, "b"), "k")
		after(2*slow - time.Millisecond)
		assert.Len(t, store.calls(), 1)
		after(time.Millisecond)
		assert.Len(t, store.calls(), 2)
	})
}

func TestSettler_doesNotKeepRoomThatOthersWaitFor(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := &settleStore{}
		e := settlingWith(t, store, 100)
		e.cfg.Capacity = 12
		began := time.Now()
		settleAll(e, "a", "b")
		synctest.Wait()
		assert.Empty(t, store.calls())
		settleAll(e, "c")
		synctest.Wait()
		assert.Equal(t, [][]string{{"a", "b", "c"}}, store.calls(), "a quarter of the places")

		e.cfg.CapacityBytes = 400
		large := hand(e, "large")
		large.size = 101
		answer(e, large, "")
		synctest.Wait()
		assert.Equal(t, []string{"large"}, store.calls()[1], "a quarter of the bytes")
		assert.Equal(t, began, time.Now())
		settleAll(e, "small")
		synctest.Wait()
		assert.Len(t, store.calls(), 2, "that room is free again")
	})
}

func TestSettler_aFullBatchDoesNotWait(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := &settleStore{}
		e := settlingWith(t, store, 2)
		began := time.Now()
		settleAll(e, "a", "b", "c", "d")
		synctest.Wait()
		assert.Equal(t, [][]string{{"a", "b"}, {"c", "d"}}, store.calls())
		assert.Equal(t, began, time.Now())
	})
}

func TestSettler_keepsWhatAStoreThatIsAwayCannotRecord(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var away atomic.Bool
		away.Store(true)
		store := &settleStore{answer: func(context.Context, []string) error {
			if away.Load() {
				return errors.New("connection refused")
			}
			return nil
		}}
		e := settlingWith(t, store, 100)
		settleAll(e, named(50)...)
		after(10 * time.Minute)
		assert.Equal(t, 50, e.window.counts().held, "nothing is forgotten, and nothing given up")
		assert.Less(t, len(store.calls()), 3*10*60, "and the store is not stormed")

		away.Store(false)
		after(3 * time.Second)
		assert.Len(t, store.recorded(), 50)
		assertAllFree(t, e)
		last := store.calls()[len(store.calls())-1]
		assert.Equal(t, named(50), last, "in the order in which they came")
	})
}

func TestSettler_aStoreThatHangsIsAskedAgainAfterTheTimeout(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var hang atomic.Bool
		hang.Store(true)
		store := &settleStore{answer: func(ctx context.Context, _ []string) error {
			if hang.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}}
		e := settlingWith(t, store, 100)
		settleAll(e, named(3)...)
		after(900 * time.Millisecond)
		assert.Len(t, store.calls(), 1)
		hang.Store(false)
		after(time.Second)
		assertAllFree(t, e)
		assert.Len(t, store.calls(), 2, "a batch that timed out is not split: the store is away")
	})
}

func TestSettler_onePermanentlyRefusedOutcomeIsGivenUpWhileOthersAreRecorded(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := &settleStore{answer: func(_ context.Context, ids []string) error {
			if slices.Contains(ids, "id-7") {
				return errors.New("invalid byte sequence")
			}
			return nil
		}}
		e := settlingWith(t, store, 1000)
		settleAll(e, named(300)...)
		after(5 * time.Second)
		assert.Len(t, store.recorded(), 299, "the neighbours do not wait")
		assert.Less(t, len(store.calls()), 60, "it is found by halves, not one by one")
		assert.Equal(t, 1, e.window.counts().held, "alone it says nothing: the store may be away")

		for i := range 2 * maxSettleFailures {
			settleAll(e, fmt.Sprintf("later-%d", i), fmt.Sprintf("beside-%d", i), fmt.Sprintf("with-%d", i))
			after(5 * time.Second)
		}
		assert.Zero(t, store.recorded()["id-7"])
		assert.Len(t, store.recorded(), 299+3*2*maxSettleFailures)
		for id, n := range store.recorded() {
			assert.Equal(t, 1, n, id)
		}
		assertAllFree(t, e)
	})
}

func TestSettler_manyRefusedOutcomesDoNotKeepTheOthers(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := &settleStore{answer: func(_ context.Context, ids []string) error {
			for _, id := range ids {
				if len(id) == len("id-1") { // ten of a hundred
					return errors.New("check constraint")
				}
			}
			return nil
		}}
		e := settlingWith(t, store, 1000)
		settleAll(e, named(100)...)
		after(10 * time.Second)
		assert.Len(t, store.recorded(), 90)
		assert.Equal(t, 10, e.window.counts().held)
	})
}

func TestSettler_reportsWhatWasRecorded(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		e := settlingWith(t, &settleStore{}, 100)
		e.settler.claimed(5)
		for _, s := range []reliable.Settlement{
			{Sent: true, Outcome: reliable.Acked, To: reliable.Confirmed}, {Sent: true, Outcome: reliable.Rejected, To: reliable.Failed},
			{Sent: true, To: reliable.Pending}, {Sent: true, Outcome: reliable.Nacked, To: reliable.Pending}, {To: reliable.Pending},
		} {
			e.settler.add(&entry{}, s)
		}
		after(time.Second)
		assert.Equal(t, Report{Claimed: 5, Confirmed: 1, Failed: 1, Retried: 2, Returned: 1}, e.settler.report())
		e.settler.reset()
		assert.Equal(t, Report{}, e.settler.report())
	})
}

func TestSettler_tellsItsHooksAfterTheStoreTookIt(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var refuse atomic.Bool
		refuse.Store(true)
		store := &settleStore{answer: func(context.Context, []string) error {
			if refuse.Load() {
				return errors.New("no")
			}
			return nil
		}}
		e := settlingWith(t, store, 100)
		told := make(chan string, 10)
		e.cfg.Hooks.Settled = func(a *reliable.Attempt, s *reliable.Settlement, result reliable.SettleResult) {
			told <- fmt.Sprintf("%s %v %v", a.ID, s.To, result)
		}
		settleAll(e, "a")
		after(time.Second)
		require.Empty(t, told)
		refuse.Store(false)
		after(3 * time.Second)
		require.Len(t, told, 1)
		assert.Equal(t, "a confirmed applied", <-told)
	})
}

func TestSettler_forgetsTheSuspicionOfWhatIsSettledForGood(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		e := settlingWith(t, &settleStore{}, 100)
		died := reliable.Confirm{Err: reliable.ErrConnectionLost}
		for _, id := range []string{"a", "b"} {
			one := attempt(id, 5)
			e.suspect.note(&one, &died)
			e.suspect.note(&one, &died)
		}
		settleAll(e, "a")
		e.settler.add(&entry{}, reliable.Settlement{ID: "b", Sent: true, To: reliable.Pending})
		after(time.Second)
		assert.False(t, e.suspect.is("a"))
		assert.True(t, e.suspect.is("b"), "an attempt that is to be made again stays under suspicion")
	})
}

func TestSettler_aCallerWhoWaitsIsServedLikeAKey(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := &settleStore{}
		e := settlingWith(t, store, 100)
		e.cfg.Hooks.Awaited = func(id reliable.ID) bool { return id == "awaited" }
		began := time.Now()
		settleAll(e, "awaited")
		synctest.Wait()
		assert.Equal(t, [][]string{{"awaited"}}, store.calls(), "nothing is under way that could go with it")
		settleAll(e, "a")
		synctest.Wait()
		assert.Len(t, store.calls(), 1)
		e.Await()
		synctest.Wait()
		assert.Equal(t, []string{"a"}, store.calls()[1], "somebody began to wait when it was here")
		assert.Equal(t, began, time.Now())

		e.Await() // for what is not here
		settleAll(e, "b")
		hand(e, "stays")
		after(29 * time.Millisecond)
		assert.Len(t, store.calls(), 2, "nobody waits for this one")
		settleAll(e, "c")
		after(time.Millisecond)
		assert.Equal(t, []string{"b", "c"}, store.calls()[2])
		settleAll(e, "d")
		e.settler.awaitAll()
		after(9 * time.Millisecond)
		assert.Len(t, store.calls(), 3)
		after(time.Millisecond)
		assert.Equal(t, []string{"d"}, store.calls()[3], "the end of a drain is awaited")
	})
}
