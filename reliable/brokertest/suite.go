package brokertest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

const (
	defaultPatience = 90 * time.Second
	defaultVolume   = 20_000

	// promptness is how far past the end of its context, or past Close, a call may return on a loaded machine.
	promptness = 15 * time.Second
)

// Check is one property, with the name that a test of it has.
type Check struct {
	Name string
	run  func(tr *trial)
}

// Run checks everything that the harness claims and has the hooks for.
func Run(t *testing.T, h Harness) {
	t.Helper()
	if err := h.validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range h.Features.claims() {
		if !c.made {
			t.Logf("not claimed: %s", c.name)
		}
	}
	for _, check := range h.Checks() {
		t.Run(check.Name, func(t *testing.T) { check.Run(t, h) })
	}
}

// Run does the check. Every connection that it opened is then closed and drained, and must have given exactly one confirm
// for each attempt that was handed over, and none for any other.
func (c Check) Run(t T, h Harness) {
	t.Helper()
	if h.Patience == 0 {
		h.Patience = defaultPatience
	}
	if h.Volume == 0 {
		h.Volume = defaultVolume
	}
	tr := &trial{T: t, Harness: &h}
	c.run(tr)
	for _, s := range tr.sessions {
		s.finish()
	}
}

// Checks returns the checks that apply to the harness.
func (h Harness) Checks() []Check {
	var checks []Check
	for _, entry := range catalogue {
		if entry.applies == nil || entry.applies(&h) {
			checks = append(checks, Check{Name: entry.name, run: entry.run})
		}
	}
	return checks
}

type entry struct {
	name    string
	applies func(h *Harness) bool // nil: always
	run     func(tr *trial)
}

var catalogue = slices.Concat(
	confirmChecks, receiveChecks, windowChecks, closeChecks, refusalChecks, faultChecks, wireChecks, resourceChecks,
	watermillChecks,
)

func (h Harness) validate() error {
	var problems []error
	need := func(missing bool, format string, args ...any) {
		if missing {
			problems = append(problems, reliable.Invalid("Harness", format, args...))
		}
	}
	need(h.Open == nil, "has no Open")
	need(h.Topic == nil, "has no Topic")
	need(h.Received == nil, "has no Received")
	need(h.Features.Returns && h.UnroutableTopic == nil, "claims Returns without UnroutableTopic")
	need(h.Features.Nacks && h.RefusingTopic == nil, "claims Nacks without RefusingTopic")
	need(h.Features.Rejects && h.Oversize == nil, "claims Rejects without Oversize")
	need(h.Features.FindsPoison && h.Poison == nil, "claims FindsPoison without Poison")
	need(h.Features.MarksLost && h.Cut == nil && h.Down == nil, "claims MarksLost without Cut or Down")
	return errors.Join(problems...)
}

// trial is one run of one check.
type trial struct {
	T
	*Harness
	sessions []*session
}

// attempt returns a first attempt with a new id.
func attempt(topic string) reliable.Attempt {
	id := reliable.NewID()
	return reliable.Attempt{
		Envelope: reliable.Envelope{ID: id, Topic: topic, Payload: []byte("payload of " + string(id))},
		Fence:    1, Attempts: 1,
	}
}

func attempts(topic string, n int) []reliable.Attempt {
	batch := make([]reliable.Attempt, n)
	for i := range batch {
		batch[i] = attempt(topic)
	}
	return batch
}

// within fails the test unless fn returns in time. fn must not fail the test itself.
func within(t T, limit time.Duration, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		fail(t, "%s did not return within %v", what, limit)
	}
}

func fail(t T, format string, args ...any) {
	t.Helper()
	t.Errorf("%s", fmt.Sprintf(format, args...))
	t.FailNow()
}
