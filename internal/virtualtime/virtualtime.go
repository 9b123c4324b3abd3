// Package virtualtime runs tests in the bubbles of testing/synctest, whose clock jumps to the next timer as soon as every
// goroutine waits.
//
// It exists for one reason: with the race detector on, a bubble whose timers fire on two processors at the same moment
// crashes the detector ("ThreadSanitizer: CHECK failed", https://go.dev/issue/78156, open in Go 1.26). All timers of a
// bubble share one race context there, which two threads must not use at once. While a bubble runs, [Test] therefore
// leaves the process one processor, if it was built with -race. The detector finds the same races: it does not depend on
// two threads meeting. Without -race nothing is changed.
package virtualtime

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// Test runs f in a bubble, as [synctest.Test] does, and returns when all goroutines of the bubble have ended. Several
// tests may be in it at once.
func Test(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if raceDetector {
		processors.confine()
		defer processors.release()
	}
	synctest.Test(t, f) //nolint:forbidigo // this is the one place
}

var processors confinement

// confinement keeps the process on one processor as long as anybody wants it.
type confinement struct {
	mu     sync.Mutex
	wanted int
	before int // GOMAXPROCS, as the first of those who want it found it
}

func (c *confinement) confine() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted++
	if c.wanted == 1 {
		c.before = runtime.GOMAXPROCS(1)
	}
}

func (c *confinement) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted--
	if c.wanted == 0 {
		runtime.GOMAXPROCS(c.before)
	}
}
