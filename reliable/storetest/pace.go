package storetest

import (
	"slices"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

var paceChecks = []Check{
	{Name: "turns come at the pace, after a burst", Needs: needs(Pacing), run: paceTurns},
	{Name: "a quiet time gives no more than the burst", Needs: needs(Pacing), run: paceQuiet},
	{Name: "no turn is booked further ahead than asked", Needs: needs(Pacing), run: paceWithin},
	{Name: "of concurrent bookings no two have one turn", Needs: needs(Pacing), run: paceConcurrently},
	{Name: "what makes no sense is refused", Needs: needs(Pacing), run: paceRefused},
}

// slowly is a pace of which no turn passes while a check runs.
func slowly(burst int, within time.Duration) reliable.Pace {
	return reliable.Pace{Every: long, Burst: burst, Within: within}
}

func (t *T) paces(store reliable.Store, name string, pace reliable.Pace, n int) (booked int, first time.Duration) {
	t.Helper()
	pacer, _ := reliable.Ability[reliable.Pacer](store)
	booked, first, err := pacer.Pace(t.Context(), name, pace, n)
	require.NoError(t, err, "pace")
	return booked, first
}

// turn is the number of a turn of [slowly], 0 for the last of a burst: time has passed since the one before was booked.
func (t *T) turn(first time.Duration) int {
	t.Helper()
	return int(first.Round(long) / long)
}

func paceTurns(t *T) {
	pace := slowly(3, 100*long)
	booked, first := t.paces(t.store, "resends", pace, 5)
	require.Equal(t, 5, booked)
	require.Equal(t, -2*long, first, "three at once")
	booked, first = t.paces(t.other(), "resends", pace, 1)
	require.Equal(t, 1, booked)
	require.Equal(t, 3, t.turn(first), "behind the five, for the whole fleet")
	booked, first = t.paces(t.other(), "Resends", pace, 1)
	require.Equal(t, 1, booked)
	require.Equal(t, -2*long, first, "another name has turns of its own")
	_, first = t.paces(t.store, "resends", pace, 1)
	require.Equal(t, 4, t.turn(first))
	if elector, ok := reliable.Ability[reliable.Elector](t.store); ok {
		elected, err := elector.Elect(t.Context(), "resends", "a", long)
		require.NoError(t, err)
		require.True(t, elected, "a chore of the same name is another matter")
	}
}

func paceQuiet(t *T) {
	const many = 1000
	pace := reliable.Pace{Every: t.h.Lease / 4, Burst: 2, Within: many * long}
	booked, _ := t.paces(t.store, "resends", pace, 1)
	require.Equal(t, 1, booked)
	t.pass(t.h.Lease)
	booked, first := t.paces(t.store, "resends", pace, many)
	require.Equal(t, many, booked)
	require.Equal(t, -pace.Every, first, "two at once, as after any quiet time")
	_, first = t.paces(t.store, "resends", pace, 1)
	require.LessOrEqual(t, first, many*pace.Every)
	require.Greater(t, first, -pace.Every, "the burst is used up")
}

func paceWithin(t *T) {
	pace := slowly(1, 2*long+long/2)
	booked, first := t.paces(t.store, "resends", pace, 10)
	require.Equal(t, 3, booked, "at once, and two that are near enough")
	require.Zero(t, first)
	for range 3 {
		booked, first = t.paces(t.store, "resends", pace, 10)
		require.Zero(t, booked)
		require.Equal(t, 3, t.turn(first), "what is not booked puts off nobody")
	}
	pace.Within = long * 3
	booked, _ = t.paces(t.other(), "resends", pace, 10)
	require.Equal(t, 1, booked)
}

func paceConcurrently(t *T) {
	const workers, each = 8, 3
	var lock sync.Mutex
	var turns []int
	store := t.handles()
	t.together(workers, func(i int) error {
		pacer, _ := reliable.Ability[reliable.Pacer](store(i))
		booked, first, err := pacer.Pace(t.Context(), "resends", slowly(1, 1000*long), each)
		lock.Lock()
		defer lock.Unlock()
		for turn := range booked {
			turns = append(turns, t.turn(first)+turn)
		}
		return err
	})
	slices.Sort(turns)
	for i, turn := range turns {
		require.Equal(t, i, turn, "%v: each turn is taken once, and none is left out", turns)
	}
	require.Len(t, turns, workers*each)
}

func paceRefused(t *T) {
	pacer := able[reliable.Pacer](t)
	for what, c := range map[string]struct {
		name string
		pace reliable.Pace
		n    int
	}{
		"no name":      {"", slowly(1, 0), 1},
		"no turn":      {"resends", slowly(1, 0), 0},
		"no pace":      {"resends", reliable.Pace{Burst: 1}, 1},
		"no burst":     {"resends", slowly(0, 0), 1},
		"long ago":     {"resends", slowly(1, -1), 1},
		"without end":  {"resends", slowly(1<<40, 0), 1},
		"a long name":  {string(make([]byte, reliable.MaxPaceBytes+1)), slowly(1, 0), 1},
		"a large pace": {"resends", reliable.Pace{Every: 1 << 62, Burst: 1}, 1},
	} {
		booked, _, err := pacer.Pace(t.Context(), c.name, c.pace, c.n)
		require.ErrorIs(t, err, reliable.ErrInvalid, what)
		require.Zero(t, booked, what)
	}
}
