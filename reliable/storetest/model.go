package storetest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// Relays, handlers and operators, in any order. After each step the store is compared with a model of the envelopes: what
// it answered must be the one right answer, and what it keeps must follow. The seed of a run that fails is printed;
// WAYBILL_STORETEST_SEED runs that one alone.
var modelChecks = operationNeeded([]Check{
	{
		Name:  "whatever relays, handlers and operators do in whatever order, each ends in a state it may end in",
		Needs: needs(Inspection, Compensation), run: modelInterleavings,
	},
})

// SeedVariable names the environment variable that has one run of the model repeated.
const SeedVariable = "WAYBILL_STORETEST_SEED"

func modelInterleavings(t *T) {
	if text := os.Getenv(SeedVariable); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, SeedVariable)
		newModel(t.within(hanging), seed).run()
		return
	}
	runs := modelRunsVirtual
	if t.h.realClock {
		runs = modelRunsReal
	}
	for seed := range uint64(runs) {
		newModel(t.within(hanging), seed+1).run()
	}
}

// model is what is known of the envelopes of one run.
type model struct {
	*T
	seed      uint64
	random    *rand.Rand
	topic     string
	envelopes []*modelled
	sent      []reliable.Attempt // all that relays ever claimed
	taken     []reliable.Record  // all that handlers ever claimed
	steps     []string
}

// modelled is one envelope.
type modelled struct {
	reliable.Envelope
	status  reliable.Status
	fence   int64
	open    bool // the newest lease is not settled
	live    bool // nor has it run out
	begun   bool // compensation has begun
	lateAck bool
	ackedBy int64
	decided []reliable.HistoryEntry
}

func newModel(t *T, seed uint64) *model {
	return &model{
		T: t, seed: seed, random: rand.New(rand.NewPCG(seed, 0x6f70)),
		topic: fmt.Sprintf("model %d", seed),
	}
}

func (m *model) run() {
	m.Helper()
	defer func() {
		if m.Failed() {
			m.Logf("%s=%d, which did:\n  %s", SeedVariable, m.seed, strings.Join(m.steps, "\n  "))
		}
	}()
	steps := []func(){
		m.enqueue, m.claim, m.claim, m.settle, m.settle, m.settle, m.claimFailed, m.compensate, m.compensate, m.decide, m.decide,
	}
	m.enqueue()
	for range modelSteps {
		steps[m.random.IntN(len(steps))]()
		m.compare()
	}
	m.finish()
}

func (m *model) note(format string, args ...any) {
	m.steps = append(m.steps, fmt.Sprintf(format, args...))
}

func (m *model) of(id reliable.ID) *modelled {
	m.Helper()
	at := slices.IndexFunc(m.envelopes, func(e *modelled) bool { return e.ID == id })
	require.GreaterOrEqual(m, at, 0, "%q is of this run", id)
	return m.envelopes[at]
}

func (m *model) enqueue() {
	m.Helper()
	if len(m.envelopes) == 8 {
		return
	}
	for range 1 + m.random.IntN(3) {
		e := env(reliable.ID(fmt.Sprintf("%d-%d", m.seed, len(m.envelopes))))
		e.Topic = m.topic
		if m.random.IntN(3) > 0 {
			e.Key = number("key ", m.random.IntN(2))
		}
		m.note("store %q, key %q", e.ID, e.Key)
		m.put(e)
		m.envelopes = append(m.envelopes, &modelled{Envelope: e})
	}
}

// lease is one that lasts, or one that has run out by the next step.
func (m *model) lease() (lease time.Duration, live bool) {
	if m.random.IntN(3) == 0 {
		return time.Microsecond, false
	}
	return long, true
}

func (m *model) leased(e *modelled, fence int64, live bool) {
	m.Helper()
	require.Greater(m, fence, e.fence, "the fence of %q grows", e.ID)
	require.False(m, e.live, "%q was leased to somebody", e.ID)
	e.fence, e.open, e.live = fence, true, live
}

func (m *model) claim() {
	m.Helper()
	lease, live := m.lease()
	attempts := m.claimFor(1+m.random.IntN(2), lease)
	for _, a := range attempts {
		m.note("claim %q as %d, lease %v", a.ID, a.Fence, lease)
		e := m.of(a.ID)
		require.Equal(m, reliable.Pending.String(), e.status.String(), "status of %q, which was claimed", a.ID)
		for _, other := range m.envelopes {
			if e.Key != "" && other != e && other.Key == e.Key {
				require.False(m, other.live && other.status == reliable.Pending, "%q is on its way, %q of its key was claimed", other.ID, e.ID)
			}
		}
		m.leased(e, a.Fence, live)
		m.sent = append(m.sent, a)
	}
	if !live && len(attempts) > 0 {
		m.pass(2 * grain)
	}
}

// settle answers any attempt that was ever made, in any way.
func (m *model) settle() {
	m.Helper()
	if len(m.sent) == 0 {
		return
	}
	a := m.sent[max(m.random.IntN(len(m.sent)), m.random.IntN(len(m.sent)))]
	s := []reliable.Settlement{ack(a), retry(a, 0), giveUp(a), unknown(a), giveBack(a)}[m.random.IntN(5)]
	s.Release = s.To == reliable.Failed && m.random.IntN(2) == 0
	m.answer(s)
}

func (m *model) answer(s reliable.Settlement) {
	m.Helper()
	e := m.of(s.ID)
	newest := e.status == reliable.Pending && e.open && e.fence == s.Fence
	result := m.T.settle(s)[0]
	m.note("settle %q of %d: %v, to %v, release %v: %v", s.ID, s.Fence, s.Outcome, s.To, s.Release, result)
	right := []reliable.SettleResult{reliable.Stale, reliable.Repeated, reliable.Late}
	switch {
	case s.To != reliable.Confirmed && newest:
		right = []reliable.SettleResult{reliable.Applied}
		e.open, e.live, e.status = false, false, s.To
	case s.To != reliable.Confirmed && !s.Charge:
		right = []reliable.SettleResult{reliable.Stale, reliable.Repeated}
	case s.To != reliable.Confirmed:
	case e.lateAck, e.status == reliable.Confirmed && e.ackedBy == s.Fence:
		right = []reliable.SettleResult{reliable.Repeated}
	case e.status == reliable.Confirmed:
		right = []reliable.SettleResult{reliable.Stale}
	case e.begun || e.status.Final():
		right = []reliable.SettleResult{reliable.Overtaken}
		e.lateAck, e.ackedBy = true, s.Fence
	default:
		right = []reliable.SettleResult{reliable.Late}
		if newest {
			right[0] = reliable.Applied
		}
		e.status, e.ackedBy, e.open, e.live = reliable.Confirmed, s.Fence, false, false
	}
	require.Contains(m, names(right...), result.String(), "result of settling %q", s.ID)
}

func (m *model) claimFailed() {
	m.Helper()
	lease, live := m.lease()
	records := m.T.claimFailed(request(1+m.random.IntN(2), lease), m.topic)
	for _, r := range records {
		m.note("claim failed %q as %d, lease %v", r.ID, r.Fence, lease)
		e := m.of(r.ID)
		require.Equal(m, reliable.Failed.String(), e.status.String(), "status of %q, which a handler got", r.ID)
		m.leased(e, r.Fence, live)
		e.begun = true
		m.taken = append(m.taken, r)
	}
	if !live && len(records) > 0 {
		m.pass(2 * grain)
	}
}

// compensate answers for any envelope that a handler ever got.
func (m *model) compensate() {
	m.Helper()
	if len(m.taken) == 0 {
		return
	}
	m.handled(m.taken[m.random.IntN(len(m.taken))], m.random.IntN(2) == 0)
}

func (m *model) handled(r reliable.Record, done bool) {
	m.Helper()
	e := m.of(r.ID)
	result, err := m.compensator().SettleCompensation(m.Context(), compensation(r, done))
	require.NoError(m, err)
	m.note("compensate %q of %d, done %v: %v", r.ID, r.Fence, done, result)
	if e.status != reliable.Failed || !e.begun || !e.open || e.fence != r.Fence {
		require.Contains(m, names(reliable.Stale, reliable.Repeated), result.String(), "result of compensating %q", r.ID)
		return
	}
	require.Equal(m, reliable.Applied.String(), result.String(), "result of compensating %q", r.ID)
	e.open, e.live = false, false
	if done {
		e.status = reliable.Compensated
	}
}

func (m *model) decide() {
	m.Helper()
	action := []reliable.Action{reliable.Requeue, reliable.Requeue, reliable.Compensate, reliable.Discard}[m.random.IntN(4)]
	var ids []reliable.ID
	for range 1 + m.random.IntN(3) {
		ids = append(ids, m.envelopes[m.random.IntN(len(m.envelopes))].ID)
	}
	who, why := []string{"ann", "bob"}[m.random.IntN(2)], number("step ", len(m.steps))
	results, err := m.operator().Decide(m.Context(), reliable.Decision{Action: action, IDs: ids, Who: who, Why: why})
	require.NoError(m, err)
	// What is requeued together is decided in the order of its storing; for each envelope alone it makes no difference.
	for i, r := range results {
		m.note("%s: %v %q: %v", who, action, ids[i], r.Verdict)
		e := m.of(ids[i])
		want := reliable.Decided
		switch {
		case !action.AppliesTo(e.status):
			want = reliable.WrongStatus
		case e.status == reliable.Failed && e.live:
			want = reliable.Busy
		}
		require.Equal(m, want.String(), r.Verdict.String(), "verdict on %v of %q", action, e.ID)
		if want == reliable.Decided {
			e.status, e.open, e.live = target(action), false, false
			e.fence++
			if action == reliable.Requeue {
				e.begun, e.lateAck = false, false
			}
			e.decided = append(e.decided, reliable.HistoryEntry{
				Kind: reliable.OperatorDecided, Action: action, By: who, Reason: why,
			})
		}
		require.Equal(m, e.status.String(), r.Status.String(), "status of %q after %v", e.ID, action)
	}
}

// compare demands that the store keeps what the model says.
func (m *model) compare() {
	m.Helper()
	ids := make([]reliable.ID, len(m.envelopes))
	for i, e := range m.envelopes {
		ids[i] = e.ID
	}
	records, err := able[reliable.Inspector](m.T).Lookup(m.Context(), ids...)
	require.NoError(m, err)
	require.Len(m, records, len(ids))
	for _, r := range records {
		e := m.of(r.ID)
		require.Equal(m, e.status.String(), r.Status.String(), "status of %q", r.ID)
		require.Equal(m, e.fence, r.Fence, "fence of %q", r.ID)
		require.Equal(m, e.lateAck, r.LateAck, "late ack of %q", r.ID)
		require.Equal(m, e.decided, decisionsOf(r), "decisions about %q", r.ID)
	}
}

// decisionsOf returns what people decided about an envelope, without its fences and times.
func decisionsOf(r reliable.Record) []reliable.HistoryEntry {
	var decided []reliable.HistoryEntry
	for _, h := range r.History {
		if h.Kind == reliable.OperatorDecided {
			h.Fence, h.Ago = 0, 0
			decided = append(decided, h)
		}
	}
	return decided
}

// finish has everybody bring to an end what they have in hand, and then all that is left. Nothing may be stuck.
func (m *model) finish() {
	m.Helper()
	for _, a := range m.sent {
		if e := m.of(a.ID); e.status == reliable.Pending && e.live && e.fence == a.Fence {
			m.answer(ack(a))
		}
	}
	for _, r := range m.taken {
		if e := m.of(r.ID); e.status == reliable.Failed && e.live && e.fence == r.Fence {
			m.handled(r, true)
		}
	}
	m.until("all of the run ends", func() bool {
		for _, a := range m.T.claim(20) {
			m.leased(m.of(a.ID), a.Fence, true)
			m.answer(ack(a))
		}
		for _, r := range m.T.claimFailed(request(20, long), m.topic) {
			e := m.of(r.ID)
			m.leased(e, r.Fence, true)
			e.begun = true
			m.handled(r, true)
		}
		return !slices.ContainsFunc(m.envelopes, func(e *modelled) bool { return !e.status.Final() })
	})
	m.compare()
}
