// Package docs_test keeps the pages of this folder true.
package docs_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
)

const (
	lease   = time.Minute
	topic   = "t"
	outside = "[*]" // what the diagram calls the time before an envelope is stored
)

// edge is one arrow of the state diagram.
type edge struct{ from, to string }

// The arrows of the diagram in design.md are exactly the changes that random operations bring about in the reference store.
func TestDesign_stateDiagramIsWhatTheStoreDoes(t *testing.T) {
	drawn := readDiagram(t)
	seen := make(map[edge]string)
	virtualtime.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		for range 4000 {
			newWalk(t, random, seen).run(50)
		}
	})
	for e, how := range seen {
		assert.Contains(t, drawn, e, "the store moves from %s to %s (%s), the diagram has no such arrow", e.from, e.to, how)
	}
	for e := range drawn {
		assert.Contains(t, seen, e, "the diagram has an arrow from %s to %s, the store never does that", e.from, e.to)
	}
}

func readDiagram(t *testing.T) map[edge]bool {
	page, err := os.ReadFile("design.md")
	require.NoError(t, err)
	diagram := regexp.MustCompile("(?s)```mermaid\nstateDiagram-v2\n(.*?)```").FindSubmatch(page)
	require.NotNil(t, diagram, "design.md has no state diagram")
	drawn := make(map[edge]bool)
	for _, arrow := range regexp.MustCompile(`(?m)^\s*(\S+) --> (\S+)\s*:`).FindAllSubmatch(diagram[1], -1) {
		drawn[edge{string(arrow[1]), string(arrow[2])}] = true
	}
	return drawn
}

// walk is a random series of operations on a fresh store.
type walk struct {
	t       *testing.T
	random  *rand.Rand
	store   *memstore.Store
	seen    map[edge]string
	ids     []reliable.ID
	state   map[reliable.ID]string
	claims  []reliable.Attempt // every one ever taken
	leased  map[reliable.ID]leaseOf
	failing []reliable.Record // every claim for compensation
	begun   map[reliable.ID]bool
}

type leaseOf struct {
	fence int64
	ends  time.Time
}

func newWalk(t *testing.T, random *rand.Rand, seen map[edge]string) *walk {
	return &walk{
		t: t, random: random, store: memstore.New(), seen: seen,
		state: make(map[reliable.ID]string), leased: make(map[reliable.ID]leaseOf), begun: make(map[reliable.ID]bool),
	}
}

func (w *walk) run(steps int) {
	operations := map[string]func(context.Context) error{
		"enqueue": w.enqueue, "claim": w.claim, "settle": w.settle, "settle again": w.settle, "time passes": w.sleep,
		"hold": w.hold, "unhold": w.unhold, "probe": w.probe, "fail held": w.failHeld,
		"claim failed": w.claimFailed, "compensate": w.compensate,
		"requeue": w.decide(reliable.Requeue), "compensate by hand": w.decide(reliable.Compensate),
		"discard": w.decide(reliable.Discard),
	}
	names := slices.Sorted(maps.Keys(operations))
	for range steps {
		name := names[w.random.IntN(len(names))]
		require.NoError(w.t, operations[name](w.t.Context()), name)
		w.observe(name)
	}
}

// observe notes which envelopes changed their state.
func (w *walk) observe(operation string) {
	records, err := w.store.Lookup(w.t.Context(), w.ids...)
	require.NoError(w.t, err)
	for i := range records {
		r := &records[i]
		before, now := w.state[r.ID], w.stateOf(r)
		if before == "" {
			before = outside
		}
		if before != now {
			w.seen[edge{before, now}] = operation
		}
		w.state[r.ID] = now
	}
}

func (w *walk) stateOf(r *reliable.Record) string {
	switch {
	case r.Status == reliable.Failed && w.begun[r.ID]:
		return "compensating"
	case r.Status != reliable.Pending:
		return r.Status.String()
	case r.Waiting:
		return "waiting"
	case r.Held:
		return "held"
	}
	if l, ok := w.leased[r.ID]; ok && l.fence == r.Fence && time.Now().Before(l.ends) {
		return "leased"
	}
	return "due"
}

func (w *walk) took(attempts ...reliable.Attempt) {
	for _, a := range attempts {
		w.claims = append(w.claims, a)
		w.leased[a.ID] = leaseOf{a.Fence, time.Now().Add(lease)}
	}
}

func (w *walk) request() reliable.ClaimRequest {
	return reliable.ClaimRequest{Worker: "w", Max: 1, Lease: lease}
}

func (w *walk) enqueue(ctx context.Context) error {
	if len(w.ids) == 4 {
		return nil
	}
	env := reliable.Envelope{ID: reliable.ID(fmt.Sprint(len(w.ids))), Topic: topic}
	if w.random.IntN(2) == 0 {
		env.Key = "k"
	}
	w.ids = append(w.ids, env.ID)
	stored, err := w.store.Enqueue(ctx, reliable.EnqueueRequest{Worker: "w", Lease: time.Duration(w.random.IntN(2)) * lease}, env)
	if err == nil && stored[0].Leased {
		w.took(stored[0].Attempt)
	}
	return err
}

func (w *walk) claim(ctx context.Context) error {
	attempts, err := w.store.Claim(ctx, w.request())
	w.took(attempts...)
	return err
}

func (w *walk) probe(ctx context.Context) error {
	attempts, err := w.store.Probe(ctx, topic, w.request())
	w.took(attempts...)
	return err
}

// settle answers any attempt that was ever made, in any way.
func (w *walk) settle(ctx context.Context) error {
	if len(w.claims) == 0 {
		return nil
	}
	a := w.claims[w.random.IntN(len(w.claims))]
	s := reliable.Settlement{ID: a.ID, Fence: a.Fence, Topic: a.Topic, Key: a.Key, Sent: true}
	switch w.random.IntN(5) {
	case 0:
		s.Outcome, s.To = reliable.Acked, reliable.Confirmed
	case 1:
		s.Outcome, s.To, s.Charge, s.Park = reliable.Returned, reliable.Pending, true, w.random.IntN(2) == 0
	case 2:
		s.Outcome, s.To, s.Charge, s.Release = reliable.Rejected, reliable.Failed, true, w.random.IntN(2) == 0
	case 3:
		s.Outcome, s.To, s.Delay = reliable.Unknown, reliable.Pending, time.Second
	case 4:
		s.Sent, s.To = false, reliable.Pending
	}
	results, err := w.store.Settle(ctx, s)
	if err == nil && results[0] == reliable.Applied && w.leased[a.ID].fence == a.Fence {
		delete(w.leased, a.ID)
	}
	return err
}

func (w *walk) sleep(context.Context) error {
	time.Sleep(time.Duration(1+w.random.IntN(80)) * time.Second)
	return nil
}

func (w *walk) hold(ctx context.Context) error {
	_, err := w.store.Hold(ctx, topic, time.Second)
	return err
}

func (w *walk) unhold(ctx context.Context) error {
	_, err := w.store.Unhold(ctx, topic, 1)
	return err
}

func (w *walk) failHeld(ctx context.Context) error {
	_, err := w.store.FailHeld(ctx, topic, reliable.FailHeldRequest{
		Reason: "used up", Limit: 1, Release: w.random.IntN(2) == 0,
	})
	return err
}

// decide has a person decide about any envelope.
func (w *walk) decide(action reliable.Action) func(context.Context) error {
	return func(ctx context.Context) error {
		if len(w.ids) == 0 {
			return nil
		}
		id := w.ids[w.random.IntN(len(w.ids))]
		results, err := w.store.Decide(ctx, reliable.Decision{
			Action: action, IDs: []reliable.ID{id}, Who: "somebody", Why: "a test",
		})
		if err == nil && results[0].Verdict == reliable.Decided {
			delete(w.leased, id)
			if action == reliable.Requeue {
				delete(w.begun, id)
			}
		}
		return err
	}
}

func (w *walk) claimFailed(ctx context.Context) error {
	records, err := w.store.ClaimFailed(ctx, w.request(), topic)
	for i := range records {
		w.begun[records[i].ID] = true
	}
	w.failing = append(w.failing, records...)
	return err
}

func (w *walk) compensate(ctx context.Context) error {
	if len(w.failing) == 0 {
		return nil
	}
	r := w.failing[w.random.IntN(len(w.failing))]
	_, err := w.store.SettleCompensation(ctx, reliable.Compensation{
		ID: r.ID, Fence: r.Fence, Topic: r.Topic, Key: r.Key, Done: w.random.IntN(2) == 0, Delay: time.Second,
	})
	return err
}
