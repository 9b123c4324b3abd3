package storetest_test

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
)

// recorder takes the failures of a check, so that the test can demand them.
type recorder struct {
	testing.TB

	mu       sync.Mutex
	failures []string
	cleanups []func()
}

func (r *recorder) add(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, text)
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.failures) > 0
}

func (r *recorder) Helper()                         {}
func (r *recorder) Log(...any)                      {}
func (r *recorder) Logf(string, ...any)             {}
func (r *recorder) Error(args ...any)               { r.add(fmt.Sprint(args...)) }
func (r *recorder) Errorf(form string, args ...any) { r.add(fmt.Sprintf(form, args...)) }
func (r *recorder) Fail()                           { r.add("failed") }
func (r *recorder) FailNow()                        { r.add("failed"); runtime.Goexit() }
func (r *recorder) Fatal(args ...any)               { r.add(fmt.Sprint(args...)); runtime.Goexit() }
func (r *recorder) Fatalf(form string, args ...any) {
	r.add(fmt.Sprintf(form, args...))
	runtime.Goexit()
}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

// run runs check, which may end its goroutine, and what it left to clean up. A check that panics is a defect of the
// suite.
func (r *recorder) run(check func()) {
	r.TB.Helper()
	var panicked any
	var stack []byte
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if panicked = recover(); panicked != nil {
				stack = debug.Stack()
			}
		}()
		check()
	}()
	<-done
	for _, cleanup := range slices.Backward(r.cleanups) {
		cleanup()
	}
	if panicked != nil {
		r.TB.Errorf("the check panics: %v\n%s", panicked, stack)
	}
}
