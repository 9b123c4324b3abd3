package httprpc

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestReplays_rememberWhatStillCountsAndForgetTheRest(t *testing.T) {
	start := time.Unix(1_000_000_000, 0)
	for offset := range 5 { // wherever in a generation it was seen
		r := replays{window: time.Minute, limit: 1000}
		seen := start.Add(time.Duration(offset) * 30 * time.Second)
		r.see("first of its generation", start)
		assert.Equal(t, seenFirst, r.see("it", seen))
		// Signed a window in the future, it counts until two windows after it was seen.
		for step := range 12 {
			at := seen.Add(time.Duration(step+1) * 10 * time.Second)
			r.see("another "+strconv.Itoa(step), at)
			assert.Equal(t, seenBefore, r.see("it", at), "after %v", at.Sub(seen))
		}
	}
	r := replays{window: time.Minute, limit: 2}
	r.see("a", start)
	r.see("b", start)
	assert.Equal(t, tooManySeen, r.see("c", start))
	r.see("c", start.Add(121*time.Second))
	assert.Equal(t, seenFirst, r.see("d", start.Add(243*time.Second)), "what no longer counts takes no room")
}
