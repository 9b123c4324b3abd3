package engine

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
)

func attempt(id string, size int) reliable.Attempt {
	return reliable.Attempt{Envelope: reliable.Envelope{ID: reliable.ID(id), Payload: make([]byte, size-len(id))}, Fence: 1, Attempts: 1}
}

func openWindow(handed, capacity, bytes int) *window {
	w := newWindow(handed, capacity, bytes)
	w.open(false)
	return w
}

func claims(n int) func() int { return func() int { return n } }

func idsOf(entries []*entry) (ids []string) {
	for _, en := range entries {
		ids = append(ids, string(en.attempt.ID))
	}
	return ids
}

// blocks reports whether wait is still waiting once everything else has come to rest; unblock it before the bubble ends.
func blocks(wait func()) (blocked func() bool, finished <-chan struct{}) {
	done := make(chan struct{})
	go func() { defer close(done); wait() }()
	return func() bool {
		synctest.Wait()
		select {
		case <-done:
			return false
		default:
			return true
		}
	}, done
}

func TestWindow_takesInOrderAsManyAsMayBeHandedOver(t *testing.T) {
	w := openWindow(2, 100, 1000)
	w.admit([]reliable.Attempt{attempt("a", 1), attempt("b", 1), attempt("c", 1)}, time.Now(), time.Minute, false, 0, 0)
	assert.Equal(t, []string{"a", "b"}, idsOf(w.take(nil, 10)))
	assert.Empty(t, w.take(nil, 10), "the window is full")

	answered := w.answered([]reliable.Confirm{{ID: "a", Fence: 1}}, nil)
	assert.Equal(t, []string{"a"}, idsOf(answered))
	assert.Equal(t, []string{"c"}, idsOf(w.take(nil, 10)), "an answer makes room, before it is recorded")
	assert.Equal(t, windowCounts{handed: 2, held: 3}, w.counts())
}

func TestWindow_takesNoMoreThanAsked(t *testing.T) {
	w := openWindow(10, 100, 1000)
	w.admit([]reliable.Attempt{attempt("a", 1), attempt("b", 1)}, time.Now(), time.Minute, false, 0, 0)
	assert.Equal(t, []string{"a"}, idsOf(w.take(nil, 1)))
}

func TestWindow_whatWasNotTakenGoesBackToTheFront(t *testing.T) {
	w := openWindow(10, 100, 1000)
	w.admit([]reliable.Attempt{attempt("a", 1), attempt("b", 1), attempt("c", 1)}, time.Now(), time.Minute, false, 0, 0)
	taken := w.take(nil, 2)
	w.untake(taken, true)
	assert.Zero(t, w.counts().handed)
	assert.Equal(t, []string{"a", "b", "c"}, idsOf(w.take(nil, 10)))
}

func TestWindow_anAnswerCountsOnlyForTheAttemptThatIsInFlight(t *testing.T) {
	w := openWindow(10, 100, 1000)
	w.admit([]reliable.Attempt{attempt("a", 1), attempt("b", 1)}, time.Now(), time.Minute, false, 0, 0)
	w.take(nil, 1)
	answered := w.answered([]reliable.Confirm{{ID: "a", Fence: 9}, {ID: "b", Fence: 1}, {ID: "x", Fence: 1}, {ID: "a", Fence: 1}, {ID: "a", Fence: 1}}, nil)
	require.Len(t, answered, 5)
	for i, want := range []bool{false, false, false, true, false} {
		assert.Equal(t, want, answered[i] != nil, "confirm %d", i)
	}
	assert.Zero(t, w.counts().handed)
}

func TestWindow_anIDInFlightIsNotAdmittedAgain(t *testing.T) {
	w := openWindow(10, 100, 1000)
	w.admit([]reliable.Attempt{attempt("a", 5)}, time.Now(), time.Minute, false, 0, 0)
	later := attempt("a", 5)
	later.Fence = 2
	again := w.admit([]reliable.Attempt{later, attempt("b", 5)}, time.Now(), time.Minute, false, 0, 0)
	assert.Equal(t, []reliable.Attempt{later}, again)
	assert.Equal(t, 2, w.counts().held)
}

func TestWindow_freesTheAttemptThatIsMeantOnly(t *testing.T) {
	w := openWindow(10, 100, 1000)
	w.admit([]reliable.Attempt{attempt("a", 5)}, time.Now(), time.Minute, false, 0, 0)
	w.free([]*entry{{attempt: attempt("a", 5), size: 5}}) // given back without ever having been held
	assert.Equal(t, 1, w.counts().held)
	w.free(w.take(nil, 1))
	assert.Zero(t, w.counts().held)
	assert.Zero(t, w.bytes)
}

func TestWindow_leavesAQuarterToClaims(t *testing.T) {
	w := openWindow(10, 8, 800)
	assert.True(t, w.tryReserve(6, 600))
	assert.False(t, w.tryReserve(1, 1))
	n, size := w.room(context.Background(), claims(100))
	assert.Equal(t, 2, n)
	assert.Equal(t, 100, size)
}

func TestWindow_aCallLargerThanTheMemoryGetsInAlone(t *testing.T) {
	w := openWindow(10, 8, 800)
	assert.True(t, w.tryReserve(100, 10))
	assert.False(t, w.tryReserve(1, 1))
	w.unreserve(100, 10)
	assert.True(t, w.tryReserve(1, 5000))
}

func TestWindow_aLargeCallDoesNotWaitForWhatSmallOnesWouldTake(t *testing.T) {
	w := openWindow(10, 8, 800)
	require.True(t, w.tryReserve(6, 1))
	assert.False(t, w.reserve(context.Background(), 3, 1))
	assert.False(t, w.reserve(context.Background(), 1, 201))
}

func TestWindow_aSenderWaitsForRoom(t *testing.T) {
	for name, end := range map[string]struct {
		act func(w *window, cancel func())
		got bool
	}{
		"until it is freed":            {func(w *window, _ func()) { w.unreserve(1, 1) }, true},
		"until its context ends":       {func(_ *window, cancel func()) { cancel() }, false},
		"until the relay stops":        {func(w *window, _ func()) { w.close() }, false},
		"until the broker is lost":     {func(w *window, _ func()) { w.bar(true) }, false},
		"until a claim came back less": {func(w *window, _ func()) { w.admit(nil, time.Now(), time.Minute, false, 6, 6) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				w := openWindow(10, 8, 800)
				require.True(t, w.tryReserve(6, 6))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var got bool
				blocked, done := blocks(func() { got = w.reserve(ctx, 1, 1) })
				require.True(t, blocked())
				end.act(w, cancel)
				<-done
				assert.Equal(t, end.got, got)
			})
		})
	}
}

func TestWindow_aClaimWaitsForAQuarterOfTheMemory(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		w := openWindow(10, 8, 800)
		limit, n, size := 100, 0, 0
		w.admit([]reliable.Attempt{attempt("a", 5), attempt("b", 5), attempt("c", 5)}, time.Now(), time.Minute, false, 0, 0)
		require.True(t, w.tryReserve(3, 3))
		w.admit([]reliable.Attempt{attempt("d", 5)}, time.Now(), time.Minute, false, 0, 0)
		blocked, done := blocks(func() { n, size = w.room(t.Context(), func() int { return limit }) })
		require.True(t, blocked(), "one place of eight is not worth a statement")
		w.free(w.take(nil, 1))
		<-done
		assert.Equal(t, 2, n)
		assert.Equal(t, (800-3-15)/2, size)

		w.unreserve(n, size)
		w.admit([]reliable.Attempt{attempt("e", 5)}, time.Now(), time.Minute, false, 0, 0)
		blocked, done = blocks(func() { n, _ = w.room(t.Context(), func() int { return limit }) })
		require.True(t, blocked())
		limit = 1 // the broker was lost meanwhile
		w.bar(true)
		<-done
		assert.Equal(t, 1, n)
	})
}

func TestWindow_aClaimEndsWithItsContextAndWithTheRelay(t *testing.T) {
	w := openWindow(10, 8, 800)
	require.True(t, w.tryReserve(6, 6))
	w.admit([]reliable.Attempt{attempt("a", 5)}, time.Now(), time.Minute, false, 0, 0)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n, _ := w.room(ctx, claims(100))
	assert.Zero(t, n)
	w.close()
	n, _ = w.room(context.Background(), claims(100))
	assert.Zero(t, n)
}

func TestWindow_whenNobodyRelaysWhatComesInIsLeftToItsLease(t *testing.T) {
	w := openWindow(10, 8, 800)
	require.True(t, w.tryReserve(1, 5))
	w.admit([]reliable.Attempt{attempt("a", 5)}, time.Now(), time.Minute, false, 0, 0)
	w.close()
	w.clear()
	w.admit([]reliable.Attempt{attempt("b", 5)}, time.Now(), time.Minute, false, 1, 5)
	assert.Zero(t, w.counts())
	assert.Zero(t, w.bytes)
	assert.False(t, w.tryReserve(1, 1))
}

func TestWindow_takesWhatIsQueuedFromTheBackAndKeepsTheFront(t *testing.T) {
	w := openWindow(10, 100, 1000)
	for i := range 5 {
		w.admit([]reliable.Attempt{attempt(fmt.Sprint(i), 1)}, time.Now(), time.Minute, false, 0, 0)
	}
	assert.Equal(t, []string{"4", "3"}, idsOf(w.takeUnhanded(3)))
	assert.Equal(t, []string{"0", "1", "2"}, idsOf(w.take(nil, 10)))
}

// windowModel keeps by hand what a window counts.
type windowModel struct {
	w        *window
	next     int
	queued   []*entry
	handed   []*entry
	answered []*entry
	reserved [][2]int
}

func (m *windowModel) check(t *rapid.T) {
	places, bytes := 0, 0
	for _, r := range m.reserved {
		places, bytes = places+r[0], bytes+r[1]
	}
	all := append(append(append([]*entry(nil), m.queued...), m.handed...), m.answered...)
	for _, en := range all {
		bytes += en.size
	}
	got := m.w.counts()
	want := windowCounts{queued: len(m.queued), handed: len(m.handed), held: len(all), reserved: places}
	if got != want || m.w.bytes != bytes {
		t.Fatalf("counts are %+v and %d bytes, want %+v and %d", got, m.w.bytes, want, bytes)
	}
	if got.handed > m.w.maxHanded {
		t.Fatalf("%d are handed over, at most %d may be", got.handed, m.w.maxHanded)
	}
	if got.held+got.reserved > m.w.capacity {
		t.Fatalf("%d are held and %d promised, of %d", got.held, got.reserved, m.w.capacity)
	}
}

func TestWindow_itsCountersAreAlwaysRight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &windowModel{w: openWindow(rapid.IntRange(1, 5).Draw(t, "window"), rapid.IntRange(5, 20).Draw(t, "capacity"), 1000)}
		some := func(list []*entry, name string) []*entry {
			return list[:rapid.IntRange(0, len(list)).Draw(t, name)]
		}
		t.Repeat(map[string]func(*rapid.T){
			"": m.check,
			"reserve": func(t *rapid.T) {
				n, size := rapid.IntRange(1, 3).Draw(t, "n"), rapid.IntRange(1, 100).Draw(t, "size")
				if m.w.tryReserve(n, size) {
					m.reserved = append(m.reserved, [2]int{n, size})
				}
			},
			"probe": func(*rapid.T) {
				if m.w.tryReserveProbe() {
					m.reserved = append(m.reserved, [2]int{1, 0})
				}
			},
			"claim": func(t *rapid.T) {
				if c := m.w.counts(); m.w.capacity-c.held-c.reserved < max(1, m.w.capacity/4) || (1000-m.w.bytes)/2 < 125 {
					return
				}
				n, size := m.w.room(context.Background(), claims(rapid.IntRange(1, 30).Draw(t, "limit")))
				m.reserved = append(m.reserved, [2]int{n, size})
			},
			"unreserve": func(t *rapid.T) {
				if len(m.reserved) == 0 {
					return
				}
				m.w.unreserve(m.reserved[0][0], m.reserved[0][1])
				m.reserved = m.reserved[1:]
			},
			"admit": func(t *rapid.T) {
				if len(m.reserved) == 0 {
					return
				}
				r := m.reserved[0]
				m.reserved = m.reserved[1:]
				var attempts []reliable.Attempt
				for range rapid.IntRange(0, r[0]).Draw(t, "of it") {
					m.next++
					attempts = append(attempts, attempt(fmt.Sprintf("%04d", m.next), rapid.IntRange(4, 30).Draw(t, "size")))
				}
				m.w.admit(attempts, time.Now(), time.Minute, false, r[0], r[1])
				for i := range attempts {
					m.queued = append(m.queued, m.w.entries[attempts[i].ID])
				}
			},
			"take": func(t *rapid.T) {
				taken := m.w.take(nil, rapid.IntRange(0, 10).Draw(t, "limit"))
				if !assert.ObjectsAreEqual(idsOf(m.queued[:len(taken)]), idsOf(taken)) {
					t.Fatalf("took %v of %v", idsOf(taken), idsOf(m.queued))
				}
				m.queued, m.handed = m.queued[len(taken):], append(m.handed, taken...)
			},
			"untake": func(t *rapid.T) {
				back := append([]*entry(nil), some(m.handed, "back")...)
				m.handed = m.handed[len(back):]
				if requeue := rapid.Bool().Draw(t, "requeue"); requeue {
					m.w.untake(back, true)
					m.queued = append(back, m.queued...)
				} else {
					m.w.untake(back, false)
					m.answered = append(m.answered, back...)
				}
			},
			"take unhanded": func(t *rapid.T) {
				keep := rapid.IntRange(0, 10).Draw(t, "keep")
				taken := m.w.takeUnhanded(keep)
				m.queued, m.answered = m.queued[:len(m.queued)-len(taken)], append(m.answered, taken...)
			},
			"answer": func(t *rapid.T) {
				done := append([]*entry(nil), some(m.handed, "done")...)
				var confirms []reliable.Confirm
				for _, en := range done {
					confirms = append(confirms, reliable.Confirm{ID: en.attempt.ID, Fence: 1})
				}
				m.w.answered(confirms, nil)
				m.handed, m.answered = m.handed[len(done):], append(m.answered, done...)
			},
			"free": func(t *rapid.T) {
				done := some(m.answered, "done")
				m.w.free(done)
				m.w.free(done) // once more changes nothing
				m.answered = append([]*entry(nil), m.answered[len(done):]...)
			},
		})
	})
}

func TestFifo_behavesAsAListDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q fifo
		var list []*entry
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if q.len() != len(list) {
					t.Fatalf("has %d, want %d", q.len(), len(list))
				}
			},
			"push many": func(t *rapid.T) {
				for range rapid.IntRange(1, 1500).Draw(t, "n") {
					en := &entry{}
					q.push(en)
					list = append(list, en)
				}
			},
			"push front": func(t *rapid.T) {
				var front []*entry
				for range rapid.IntRange(0, 5).Draw(t, "n") {
					front = append(front, &entry{})
				}
				q.pushFront(front)
				list = append(front, list...)
			},
			"pop many": func(t *rapid.T) {
				for range rapid.IntRange(1, 1500).Draw(t, "n") {
					en := q.pop()
					if len(list) == 0 {
						if en != nil {
							t.Fatal("popped from nothing")
						}
						return
					}
					if en != list[0] {
						t.Fatal("popped out of order")
					}
					list = list[1:]
				}
			},
			"pop back": func(t *rapid.T) {
				if len(list) == 0 {
					return
				}
				if q.popBack() != list[len(list)-1] {
					t.Fatal("popped out of order")
				}
				list = list[:len(list)-1]
			},
		})
	})
}

func TestFifo_doesNotKeepWhatWasPopped(t *testing.T) {
	var q fifo
	for range 100_000 {
		q.push(&entry{})
		q.push(&entry{})
		q.pop()
		q.pop()
	}
	assert.Less(t, len(q.items), 5000, "the queue must not grow with what went through it")
}
