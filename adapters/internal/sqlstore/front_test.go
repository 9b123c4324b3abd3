package sqlstore

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestFront_looksFromTheBeginningForATenthOfTheTime(t *testing.T) {
	var f front
	began := time.Now()
	after := func(d time.Duration) time.Time { return began.Add(d) }
	assert.Zero(t, f.begin(began), "a new one has not come anywhere")

	f.reached(0, []*row{{due: 7}, {due: 9}}, began, after(20*time.Millisecond))
	assert.EqualValues(t, 9, f.begin(after(21*time.Millisecond)), "the last row; others may be due at the same time")
	f.reached(9, []*row{{due: 9}, {due: 30}}, after(21*time.Millisecond), after(90*time.Millisecond))
	assert.EqualValues(t, 30, f.begin(after(219*time.Millisecond)))
	assert.Zero(t, f.begin(after(220*time.Millisecond)), "20 ms, and ten times as long")

	f.reached(0, []*row{{due: 3}}, after(220*time.Millisecond), after(220*time.Millisecond))
	assert.Zero(t, f.begin(after(220*time.Millisecond)), "what takes no time is done each time")

	f.reached(0, []*row{{due: 5}}, after(time.Second), after(2*time.Second))
	assert.EqualValues(t, 5, f.begin(after(2999*time.Millisecond)))
	assert.Zero(t, f.begin(after(3*time.Second)), "a second at most")
}

func TestFront_staysWhereItIsWhenNothingIsDue(t *testing.T) {
	var f front
	began := time.Now()
	f.reached(0, []*row{{due: 9}}, began, began.Add(time.Second))
	f.reached(0, nil, began, began.Add(time.Second))
	assert.EqualValues(t, 9, f.begin(began.Add(time.Second)))
}

func TestFront_isLostWithTheClaim(t *testing.T) {
	var f front
	began := time.Now()
	f.reached(0, []*row{{due: 9}}, began, began.Add(time.Second))
	f.lose()
	assert.Zero(t, f.begin(began.Add(time.Second)))
}
