package tagging_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/waybillmq/waybill/internal/virtualtime"
)

// TestModel_randomHistoriesKeepEveryPromise runs the outbox against an adversarial broker and a faulty store, on virtual
// time, through random histories, and checks what was promised from the outside. A history that fails is shrunk and
// printed; WAYBILL_MODEL_SEED runs that one alone, WAYBILL_MODEL_HISTORIES sets how many are run.
func TestModel_randomHistoriesKeepEveryPromise(t *testing.T) {
	if seed, ok := number(t, "WAYBILL_MODEL_SEED"); ok {
		checkHistory(t, newHistory(seed, modelSteps))
		return
	}
	histories := uint64(modelHistories)
	if n, ok := number(t, "WAYBILL_MODEL_HISTORIES"); ok {
		histories = n
	}
	const workers = 2
	for worker := range uint64(workers) {
		t.Run(fmt.Sprintf("worker %d", worker), func(t *testing.T) {
			t.Parallel()
			for seed := worker; seed < histories && !t.Failed(); seed += workers {
				checkHistory(t, newHistory(modelFirstSeed+seed, modelSteps))
			}
		})
	}
}

func number(t *testing.T, variable string) (uint64, bool) {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q is no number", variable, text)
	}
	return n, true
}

// problemsOf runs a history in a bubble of its own.
func problemsOf(t *testing.T, h *history) (problems []string) {
	t.Helper()
	finished := false
	defer func() {
		if !finished { // the bubble panicked, which cannot be caught
			t.Logf("WAYBILL_MODEL_SEED=%d\n%v", h.seed, h)
		}
	}()
	virtualtime.Test(t, func(*testing.T) { problems = runHistory(h) })
	finished = true
	return problems
}

func checkHistory(t *testing.T, h *history) {
	t.Helper()
	problems := problemsOf(t, h)
	if len(problems) == 0 {
		return
	}
	shrunk, left := shrink(t, h)
	if len(left) == 0 { // the order in which goroutines ran made the difference
		shrunk, left = h, problems
	}
	t.Errorf("a promise was broken:\n  %s\nin the history that is left after shrinking, of\n%v\nrun it again with\n  WAYBILL_MODEL_SEED=%d go test -run %s",
		strings.Join(left, "\n  "), shrunk, h.seed, strings.Split(t.Name(), "/")[0])
}

// shrink takes out as many steps as it can while something still goes wrong.
func shrink(t *testing.T, h *history) (*history, []string) {
	t.Helper()
	best, problems := h, []string(nil)
	for size := (len(h.steps) + 1) / 2; size >= 1; size /= 2 {
		for from := 0; from < len(best.steps); {
			tried := *best
			tried.steps = append(append([]step(nil), best.steps[:from]...), best.steps[min(from+size, len(best.steps)):]...)
			if found := problemsOf(t, &tried); len(found) > 0 {
				best, problems = &tried, found
			} else {
				from += size
			}
		}
		if size == 1 {
			break
		}
	}
	return best, problems
}
