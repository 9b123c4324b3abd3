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

// settling is an outcome on its way to the store.
type settling struct {
	entry      *entry
	settlement reliable.Settlement
	failures   int // times the store refused it while it took others
}

// maxSettleFailures is how often a settlement is tried alone, beside others that succeed, before it is given up: its lease
// then runs out, and the envelope is sent again.
const maxSettleFailures = 5

// maxSettleDelay is the longest that outcomes wait for more of them.
const maxSettleDelay = 20 * time.Millisecond

// settler records outcomes in batches. What waits here is bounded by the window, whose places are freed only when an
// outcome is recorded.
type settler struct {
	e *Engine

	mu     sync.Mutex
	queue  []settling
	open   int // added and not recorded yet
	counts Report
	keys   bool // a message with a key was settled: what waited behind it may be due

	took    time.Duration // by the last batch; only the loop uses it
	arrived chan struct{}
	hurry   chan struct{} // do not wait for fuller batches
}

func newSettler(e *Engine) *settler {
	return &settler{e: e, arrived: make(chan struct{}, 1), hurry: make(chan struct{}, 1)}
}

func (s *settler) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue, s.open, s.counts, s.keys = nil, 0, Report{}, false
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
	s.mu.Lock()
	s.queue = append(s.queue, batch...)
	s.open += len(batch)
	// While nothing is on its way to an outcome, there is nothing that the next message of a key should wait for.
	enough := len(s.queue) >= s.e.cfg.SettleBatch || s.e.window.resting() && slices.ContainsFunc(s.queue, freesKey)
	s.mu.Unlock()
	signal(s.arrived)
	if enough {
		signal(s.hurry)
	}
}

// freesKey reports whether the next message of a key may go once this is recorded.
func freesKey(one settling) bool {
	return one.settlement.Key != "" && one.settlement.To != reliable.Pending
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

// next takes up to a batch off the queue.
func (s *settler) next(into []settling) []settling {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.queue), s.e.cfg.SettleBatch)
	into = append(into, s.queue[:n]...)
	rest := copy(s.queue, s.queue[n:])
	clear(s.queue[rest:])
	s.queue = s.queue[:rest]
	return into
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
		s.took = time.Since(began)
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

// await waits for outcomes and, unless a full batch is there or a key waits for them, a moment for more.
func (s *settler) await(ctx context.Context) bool {
	for {
		s.mu.Lock()
		n := len(s.queue)
		s.mu.Unlock()
		if n >= s.e.cfg.SettleBatch {
			return ctx.Err() == nil
		}
		if n > 0 {
			// Twice as long as the last batch took: outcomes then cost the store at most a third of its time, and a slow one gets
			// fewer and fuller statements.
			timer := time.NewTimer(max(s.e.cfg.SettleDelay, min(2*s.took, maxSettleDelay)))
			select {
			case <-timer.C:
			case <-s.hurry:
			case <-ctx.Done():
			}
			timer.Stop()
			return ctx.Err() == nil
		}
		select {
		case <-s.arrived:
		case <-ctx.Done():
			return false
		}
	}
}

// putBack keeps what could not be recorded at the front of the queue.
func (s *settler) putBack(left []settling) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = slices.Concat(left, s.queue)
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
		keyed = keyed || freesKey(batch[i])
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
