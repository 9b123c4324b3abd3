package tagging_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
)

// A history is what happens to a fleet: a number of steps, each a moment after the one before. It follows from its seed,
// and so does what the broker and the store do to each call, which is drawn from the call's own name: taking a step out of
// a history leaves the fate of the others as it was, so that a failing one can be shrunk.
type history struct {
	seed      uint64
	processes int
	sweeping  bool    // the last process is driven by SweepOnce
	brokerBad float64 // share of attempts with a fate other than being served
	storeBad  float64 // share of store calls with a fault
	reorder   bool
	keysGoOn  bool
	steps     []step
}

type step struct {
	n       int // its number before any shrinking, which names what it sends
	after   time.Duration
	what    action
	process int
	topic   int
	key     int // 0: unordered
	count   int
	length  time.Duration // of an outage, or a delay
}

type action uint8

const (
	publish action = iota
	publishAndWait
	inTx
	inTxRollback
	inTxPanic
	inTxNested
	send
	sendRollback
	sendAgain
	delayed
	deadlined
	rejected
	poison
	crash
	restart
	cutConnection
	brokerCrash
	brokerOutage
	brokerBlocked
	topicFull
	topicGone
	storeOutage
	actions
)

var actionNames = [...]string{
	"publish", "publish and wait", "in tx", "in tx, rolled back", "in tx, panic", "in tx, nested rollback", "send", "send, rolled back",
	"repeat an earlier step", "publish delayed", "publish with deadline", "publish what is rejected", "publish poison",
	"crash", "restart", "cut connection", "broker crash", "broker outage", "broker blocked", "topic full", "topic gone", "store outage",
}

func (s step) String() string {
	return fmt.Sprintf("%3d +%-6v %-24s process %d topic %d key %d count %d length %v",
		s.n, s.after, actionNames[s.what], s.process, s.topic, s.key, s.count, s.length)
}

func (h *history) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "seed %d: %d processes (sweeping %v), broker faults %.2f (reordered %v), store faults %.2f, keys go on %v\n",
		h.seed, h.processes, h.sweeping, h.brokerBad, h.reorder, h.storeBad, h.keysGoOn)
	for _, s := range h.steps {
		fmt.Fprintf(&text, "  %v\n", s)
	}
	return text.String()
}

const (
	modelTopics = 3
	modelKeys   = 3
)

// newHistory draws a history of up to the given number of steps.
func newHistory(seed uint64, most int) *history {
	r := rand.New(rand.NewPCG(seed, 0x77617962696c6c))
	h := &history{
		seed: seed, processes: 1 + r.IntN(3), sweeping: r.IntN(4) == 0,
		brokerBad: []float64{0, 0.1, 0.4}[r.IntN(3)], storeBad: []float64{0, 0.05, 0.2}[r.IntN(3)],
		reorder: r.IntN(2) == 0, keysGoOn: r.IntN(4) == 0,
	}
	// Each history has its own mix of actions, so that some are all about one thing.
	weights := make([]int, actions)
	for i := range weights {
		weights[i] = r.IntN(4)
	}
	weights[publish] += 2
	weights[inTx] += 2
	total := 0
	for _, weight := range weights {
		total += weight
	}
	for i := range 1 + r.IntN(most) {
		pick, what := r.IntN(total), action(0)
		for ; pick >= weights[what]; what++ {
			pick -= weights[what]
		}
		h.steps = append(h.steps, step{
			n: i, what: what, process: r.IntN(h.processes), topic: r.IntN(modelTopics), key: max(0, r.IntN(2*modelKeys)-modelKeys+1),
			after: time.Duration(r.IntN(500)) * time.Millisecond, count: 1 + r.IntN(4), length: time.Duration(100+r.IntN(3000)) * time.Millisecond,
		})
	}
	return h
}

// chance draws a number in [0, 1) for a call that is told apart by its name.
func (h *history) chance(parts ...any) float64 {
	hash := h.seed ^ 0x9e3779b97f4a7c15
	for _, c := range []byte(fmt.Sprint(parts...)) {
		hash = (hash ^ uint64(c)) * 0x100000001b3
		hash ^= hash >> 29
	}
	hash ^= hash >> 32
	hash *= 0xd6e8feb86659fd93
	hash ^= hash >> 32
	return float64(hash>>11) / (1 << 53)
}

func (h *history) pick(n int, parts ...any) int { return int(h.chance(parts...) * float64(n)) }

// broker is what the broker does with an attempt.
func (h *history) broker(a membroker.Attempt, healed bool) membroker.Verdict {
	switch {
	case strings.HasPrefix(string(a.ID), "rejected"):
		return membroker.Verdict{Act: membroker.Reject}
	case strings.HasPrefix(string(a.ID), "poison"):
		return membroker.Verdict{Act: membroker.Poison}
	case healed:
		return membroker.Verdict{}
	}
	v := membroker.Verdict{Delay: time.Duration(h.pick(40, "latency", a.ID, a.OfID)) * time.Millisecond}
	v.StoreLate = h.chance("late", a.ID, a.OfID) < 0.3
	if h.chance("fate", a.ID, a.OfID) >= h.brokerBad {
		return v
	}
	switch h.pick(8, "act", a.ID, a.OfID) {
	case 0:
		v.Act = membroker.Nack
	case 1:
		v.Act = membroker.Return
	case 2:
		v.Act = membroker.LoseConfirm
	case 3:
		v.Act = membroker.LoseMessage
	case 4:
		v.Act = membroker.Cut
	case 5:
		v.Act = membroker.CutBefore
	case 6:
		v.Act = membroker.Refuse
	case 7: // too late: from the half of the confirm timeout to beyond it
		v.Delay = time.Duration(h.pick(int(modelConfirmTimeout), "delay", a.ID, a.OfID)) + modelConfirmTimeout/2
	}
	return v
}

// store is what befalls the n-th call of an operation.
func (h *history) store(op memstore.Op, ids []reliable.ID, n int) memstore.Fault {
	fault := memstore.Fault{Delay: time.Duration(h.pick(5, "store latency", op, n)) * time.Millisecond}
	if h.chance("store", op, ids, n) >= h.storeBad {
		return fault
	}
	switch h.pick(5, "store act", op, n) {
	case 0, 1:
		fault.Before = errStore
	case 2:
		fault.After = errStore
	case 3:
		fault.HangBefore = true
	case 4:
		fault.HangAfter = true
	}
	return fault
}
