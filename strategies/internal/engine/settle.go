package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// maxSettleFailures is how often a settlement is tried alone, beside others that succeed, before it is given up: its lease
// then runs out, and the envelope is sent again.
const maxSettleFailures = 5

// worthAStatement is how many outcomes cost the store hardly less each if more of them share a statement.
const worthAStatement = 64

// settler records outcomes in batches. What waits here is bounded by the window, whose places are freed only when an
// outcome is recorded.
type settler struct {
	e *Engine

	mu      sync.Mutex
	waiting outcomes
	open    int // added and not recorded yet
	counts  Report
	keys    bool // a message with a key was settled: what waited behind it may be due
	awaited bool // somebody waits until everything is recorded

	ended   time.Time     // when the last batch was recorded or refused; only the loop uses it
	took    time.Duration // by the last batch; only the loop uses it
	changed chan struct{} // how long to wait for more may be another now
}

func newSettler(e *Engine) *settler {
	return &settler{e: e, changed: make(chan struct{}, 1)}
}

func (s *settler) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting, s.open, s.counts, s.keys, s.awaited = outcomes{}, 0, Report{}, false, false
}

// awaitAll says that somebody waits, from now on, until everything is recorded.
func (s *settler) awaitAll() {
	s.mu.Lock()
	s.awaited = true
	s.mu.Unlock()
	signal(s.changed)
}

// awaitOne says that somebody began to wait for an outcome that may be here.
func (s *settler) awaitOne() {
	s.mu.Lock()
	s.waiting.awaited = len(s.waiting.list) > 0
	s.mu.Unlock()
	signal(s.changed)
}

// idle reports whether every outcome is recorded. When the last one is, those who wait for the window are woken.
func (s *settler) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open == 0
}

func (s *settler) add(en *entry, settlement reliable.Settlement) {
	s.addAll([]settling{{entry: en, settlement: settlement}})
}

func (s *settler) addAll(batch []settling) {
	if len(batch) == 0 {
		return
	}
	awaited := s.anyAwaited(batch)
	s.mu.Lock()
	before := len(s.waiting.list)
	s.waiting.add(batch, awaited)
	s.open += len(batch)
	matters := before == 0 || before < worthAStatement && len(s.waiting.list) >= worthAStatement ||
		s.awaited || s.waiting.awaited || s.enough()
	s.mu.Unlock()
	if matters {
		signal(s.changed)
	}
}

// anyAwaited reports whether the next message of a key, or a caller, waits until one of these is recorded.
func (s *settler) anyAwaited(batch []settling) bool {
	asked := s.e.cfg.Hooks.Awaited
	for i := range batch {
		if freesKey(&batch[i]) || asked != nil && asked(batch[i].settlement.ID) {
			return true
		}
	}
	return false
}

// enough reports whether what waits fills a batch, or so much of the window that others may wait for its places. It needs mu.
func (s *settler) enough() bool {
	w, cfg := &s.waiting, &s.e.cfg
	return len(w.list) >= min(cfg.SettleBatch, max(1, cfg.Capacity/4)) || w.size > 0 && w.size >= cfg.CapacityBytes/4
}

// patience is for how long the outcomes that wait should wait for more of them; some is false if there is none.
func (s *settler) patience() (wait time.Duration, some bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &s.waiting
	if len(w.list) == 0 {
		return 0, false
	}
	awaited := s.awaited || w.awaited
	// While nothing is on its way to an outcome, there is nothing that those who wait should wait for.
	if s.enough() || awaited && s.e.window.resting() {
		return 0, true
	}
	delay := s.e.cfg.SettleDelay
	if awaited || len(w.list) >= worthAStatement {
		// Twice as long as the last batch took: outcomes then cost the store at most a third of its time, and a slow one gets
		// fewer and fuller statements.
		delay = min(delay, max(s.e.cfg.AwaitedDelay, 2*s.took))
	}
	since := w.since
	if s.ended.After(since) {
		since = s.ended
	}
	return time.Until(since.Add(delay)), true
}

func (s *settler) report() Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

func (s *settler) claimed(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Claimed += n
}

// releasedKeys reports whether followers may have become due since it was last asked.
func (s *settler) releasedKeys() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	released := s.keys
	s.keys = false
	return released
}

func (s *settler) next(into []settling) []settling {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting.next(into, s.e.cfg.SettleBatch)
}

func (s *settler) putBack(left []settling) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting.putBack(left)
}

// loop records outcomes until ctx ends. What cannot be recorded is kept and tried again, for as long as that takes.
func (s *settler) loop(ctx context.Context) {
	var batch []settling
	retry := Backoff{Base: 50 * time.Millisecond, Max: 2 * time.Second}
	for failures := 0; ; {
		if !s.await(ctx) {
			return
		}
		batch = s.next(batch[:0])
		began := time.Now()
		left := s.settle(ctx, batch)
		s.ended = time.Now()
		s.took = s.ended.Sub(began)
		if len(left) == 0 {
			failures = 0
			continue
		}
		// Nothing, or not all, could be recorded: keep it, in front, and come back.
		if len(left) < len(batch) {
			failures = 0
		}
		failures++
		s.putBack(left)
		if !pause(ctx, retry.Delay(failures)) {
			return
		}
	}
}

// await waits for outcomes, and for more of them as long as that is worth it. It returns false when ctx ends.
func (s *settler) await(ctx context.Context) bool {
	for {
		wait, some := s.patience()
		if some && wait <= 0 {
			return ctx.Err() == nil
		}
		if !some {
			wait = time.Hour // the first to come changes that
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.changed:
		case <-ctx.Done():
			return false
		}
		timer.Stop()
	}
}

// settle records a batch and returns what could not be recorded. A batch that the store refuses is split, so that one bad
// settlement does not keep its neighbours.
func (s *settler) settle(ctx context.Context, batch []settling) []settling {
	err := s.record(ctx, batch)
	if err == nil {
		return nil
	}
	s.e.cfg.Logger.WarnContext(ctx, "outcomes could not be recorded, will be tried again", "count", len(batch), "error", err)
	if len(batch) == 1 || ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return batch
	}
	// Two of them, picked at random and tried alone, tell whether the store is away or the batch is bad.
	rest, alive := batch, false
	for range 2 {
		i := rand.IntN(len(rest)) //nolint:gosec // any pick will do
		if s.record(ctx, rest[i:i+1]) == nil {
			alive = true
			rest = slices.Concat(rest[:i], rest[i+1:])
		}
	}
	if !alive {
		return batch
	}
	return s.charge(ctx, s.bisect(ctx, rest))
}

// bisect records what it can of a batch and returns what the store refuses on its own.
func (s *settler) bisect(ctx context.Context, batch []settling) []settling {
	if len(batch) == 0 || s.record(ctx, batch) == nil {
		return nil
	}
	if len(batch) == 1 || ctx.Err() != nil {
		return batch
	}
	half := len(batch) / 2
	return slices.Concat(s.bisect(ctx, batch[:half]), s.bisect(ctx, batch[half:]))
}

// charge counts a refusal for each settlement that a working store refused, and gives up those that reached the limit.
func (s *settler) charge(ctx context.Context, refused []settling) []settling {
	kept := refused[:0]
	for _, one := range refused {
		if one.failures++; one.failures >= maxSettleFailures {
			s.e.cfg.Logger.ErrorContext(ctx,
				"an outcome is given up after repeated refusals by the store; the message is sent again when its lease ends",
				"id", one.settlement.ID, "topic", one.settlement.Topic, "outcome", one.settlement.Outcome.String())
			s.mu.Lock()
			s.open--
			s.mu.Unlock()
			s.e.window.free([]*entry{one.entry})
			continue
		}
		kept = append(kept, one)
	}
	return kept
}

// record writes one batch.
func (s *settler) record(ctx context.Context, batch []settling) error {
	settlements := make([]reliable.Settlement, len(batch))
	for i := range batch {
		settlements[i] = batch[i].settlement
	}
	if slices.ContainsFunc(settlements, func(one reliable.Settlement) bool { return one.Park }) {
		if err := s.e.holds.openAll(ctx); err != nil {
			s.e.cfg.Logger.WarnContext(ctx, "a topic could not be held, will be tried again", "error", err)
		}
	}
	timed, cancel := context.WithTimeout(ctx, s.e.cfg.StoreTimeout)
	defer cancel()
	results, err := s.e.cfg.Store.Settle(timed, settlements...)
	if err != nil {
		return err
	}

	s.mu.Lock()
	s.open -= len(batch)
	s.mu.Unlock()
	s.recorded(batch, results)
	return nil
}

// moved takes note of acks that were recorded together with the hand-over, in one transaction of the store.
func (s *settler) moved(batch []settling) {
	if len(batch) > 0 {
		s.recorded(batch, make([]reliable.SettleResult, len(batch))) // each Applied
	}
}

// recorded frees the places of settlements that the store has, and tells the hooks.
func (s *settler) recorded(batch []settling, results []reliable.SettleResult) {
	entries, keyed := make([]*entry, len(batch)), false
	s.mu.Lock()
	for i := range batch {
		entries[i] = batch[i].entry
		keyed = keyed || freesKey(&batch[i])
		s.counts.count(&batch[i].settlement)
	}
	s.keys = s.keys || keyed
	s.mu.Unlock()
	s.e.window.free(entries)
	if keyed {
		s.e.Kick() // followers may have become due
	}
	for i := range batch {
		if one := &batch[i].settlement; one.To != reliable.Pending {
			s.e.suspect.forget(one.ID)
		}
		if s.e.cfg.Hooks.Settled != nil {
			s.e.cfg.Hooks.Settled(&entries[i].attempt, &batch[i].settlement, results[i])
		}
	}
}

func (r *Report) count(s *reliable.Settlement) {
	switch {
	case !s.Sent:
		r.Returned++
	case s.To == reliable.Confirmed:
		r.Confirmed++
	case s.To == reliable.Failed:
		r.Failed++
	default:
		r.Retried++
	}
}
