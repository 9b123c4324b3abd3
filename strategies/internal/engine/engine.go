// Package engine moves leased attempts from a store to a broker and their outcomes back.
//
// It guarantees that every attempt it admits ends in a settlement, or keeps its lease until that runs out; that an ID is
// in flight once at a time; that memory is bounded by Capacity and CapacityBytes whatever the broker and the database do;
// and that Run returns only after its goroutines have ended.
//
// An attempt's way through the files: claim.go or Submit (window.go) -> dispatch.go -> receive.go, where policy.go decides
// -> settle.go. holds.go looks after refused destinations, suspects.go after attempts that may take their neighbours down,
// drain.go after the end.
package engine

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Config is what an engine needs; its owner has validated it and filled every field but the hooks.
type Config struct {
	Store     reliable.Store
	Publisher reliable.Publisher
	Confirms  reliable.ConfirmSource
	Logger    *slog.Logger
	Worker    string

	Lease         time.Duration // of claims and of what senders hand over
	ConfirmWait   time.Duration // the publisher's MaxConfirmWait, or the owner's guess where that is unbounded
	PollInterval  time.Duration // between claims that found nothing
	DrainTimeout  time.Duration
	StoreTimeout  time.Duration // of one settlement or claim
	Window        int           // attempts handed over and unconfirmed
	Capacity      int           // attempts in memory: queued, in flight, being settled
	CapacityBytes int
	ClaimBatch    int
	SettleBatch   int
	SettleDelay   time.Duration // how long a few outcomes wait for more of them
	AwaitedDelay  time.Duration // the same, once they are many, or the next message of a key, or a caller, waits for one of them

	Policy Policy
	Hooks  Hooks
	Chores []Chore // run beside the relay, once a pass in Sweep
}

// Chore is what the owner of the engine wants done beside relaying. Run is called again after each Every, or at once when
// its Kick fires, one call at a time, until its ctx ends.
type Chore struct {
	Name  string
	Every time.Duration
	Kick  <-chan struct{} // may be nil
	Run   func(ctx context.Context) error
}

// Hooks are called synchronously on the engine's goroutines: they must be quick and never call back. Nil ones are skipped.
type Hooks struct {
	// Handed is called before attempts are handed to the publisher.
	Handed func(attempts []reliable.Attempt)
	// Answered is called for each confirm, with how long ago the attempt came to this process.
	Answered func(a *reliable.Attempt, c *reliable.Confirm, since time.Duration)
	// Settled is called for each settlement that the store took.
	Settled func(a *reliable.Attempt, s *reliable.Settlement, result reliable.SettleResult)
	// Awaited reports whether a caller waits until the outcome of a message is recorded.
	Awaited func(id reliable.ID) bool
	// Held and Released are called when this process holds a topic, and when it releases one.
	Held     func(hold reliable.Hold)
	Released func(topic string)
	// FailedTogether is called with how many envelopes failed behind a held topic.
	FailedTogether func(topic string, n int)
}

// Engine is the machine. Run and Sweep exclude each other; everything else is safe for concurrent use.
type Engine struct {
	cfg    Config
	holder reliable.Holder // nil if the store cannot hold

	running  atomic.Bool
	sweeping atomic.Bool // one pass: what senders store meanwhile must not prolong it
	window   *window
	settler  *settler
	holds    *holds
	suspect  *suspects
	alone    aloneQueue

	claimKick   chan struct{} // look for due rows now
	unreachable atomic.Bool   // the broker took nothing lately: store, do not lease
}

// New returns an engine that is not running.
func New(cfg Config) *Engine {
	e := &Engine{
		cfg:       cfg,
		window:    newWindow(cfg.Window, cfg.Capacity, cfg.CapacityBytes),
		suspect:   newSuspects(),
		claimKick: make(chan struct{}, 1),
	}
	e.alone.ready = make(chan struct{}, 1)
	e.settler = newSettler(e)
	if !cfg.Policy.Classic { // which makes no difference between a message and its destination
		if holder, ok := reliable.Ability[reliable.Holder](cfg.Store); ok {
			e.holder = timedHolder{holder, cfg.StoreTimeout}
		}
	}
	e.holds = newHolds(e)
	return e
}

// ErrRunning is returned by Run and Sweep while either runs.
var ErrRunning = errors.New("the relay is running already in this process")

// Run relays until ctx ends, then drains. It returns nil after a complete drain and an error that is
// [reliable.ErrDrain] otherwise.
func (e *Engine) Run(ctx context.Context) error {
	_, err := e.run(ctx, false)
	return err
}

// Report is what one pass did.
type Report struct {
	Claimed   int // leased in this pass
	Confirmed int
	Failed    int
	Retried   int // refused or unknown, to be tried again later
	Returned  int // given back unsent
}

// Sweep makes one pass: it claims what is due until nothing is, relays it, and returns when every outcome is settled.
func (e *Engine) Sweep(ctx context.Context) (Report, error) {
	return e.run(ctx, true)
}

func (e *Engine) run(ctx context.Context, once bool) (Report, error) {
	if !e.running.CompareAndSwap(false, true) {
		return Report{}, ErrRunning
	}
	defer e.running.Store(false)

	// Three lives: intake ends with ctx, dispatch when the queue was given back, and the outcomes' when all are settled.
	intake, stopIntake := context.WithCancel(ctx)
	defer stopIntake()
	outcomes, stopOutcomes := context.WithCancel(context.WithoutCancel(ctx))
	defer stopOutcomes()
	dispatch, stopDispatch := context.WithCancel(outcomes)
	defer stopDispatch()

	e.join()
	e.settler.reset()
	if once {
		e.settler.awaitAll()
	}
	e.sweeping.Store(once)
	e.unreachable.Store(false) // until shown otherwise: what an earlier run found may long be over
	e.window.open(once)
	var intakers, chores, dispatchers, settlers sync.WaitGroup
	settlers.Go(func() { e.receiveLoop(outcomes) })
	settlers.Go(func() { e.settler.loop(outcomes) })
	dispatchers.Go(func() { e.dispatchLoop(dispatch) })
	dispatchers.Go(func() { e.aloneLoop(dispatch) })

	var passErr error
	if once {
		passErr = e.pass(intake)
	} else {
		intakers.Go(func() { e.claimLoop(intake) })
		intakers.Go(func() { e.wakeLoop(intake) })
		intakers.Go(func() { e.holds.loop(intake) })
		for _, chore := range e.cfg.Chores {
			chores.Go(func() { e.choreLoop(intake, chore) })
		}
		<-ctx.Done()
	}
	stopIntake()
	intakers.Wait()

	drainErr := e.drain(stopDispatch, &dispatchers, once)
	stopOutcomes()
	settlers.Wait()
	chores.Wait() // they finish beside the drain, not before it
	e.window.clear()
	if once && e.holder != nil {
		// The next pass may be another process's: it finds in the store what this one learned.
		passErr = errors.Join(passErr, e.holds.carryOut(context.WithoutCancel(ctx)))
	}
	return e.settler.report(), errors.Join(passErr, drainErr)
}

// join lets a publisher that keeps its messages in the store's database hand over in the store's transactions. It finds out
// by itself whether it does. The offer is not taken back: what a drain that timed out has left there is still in flight.
func (e *Engine) join() {
	joiner, ok := reliable.Ability[reliable.Joiner](e.cfg.Publisher)
	if !ok {
		return
	}
	if mover, ok := reliable.Ability[reliable.Mover](e.cfg.Store); ok {
		joiner.Join(mover)
	}
}

// Await tells the engine that a caller began to wait for an outcome, of which [Hooks].Awaited knows by now.
func (e *Engine) Await() { e.settler.awaitOne() }

// Kick makes the relay look for due rows now.
func (e *Engine) Kick() { signal(e.claimKick) }

// Running reports whether Run or Sweep is active.
func (e *Engine) Running() bool { return e.running.Load() }

// signal sets a flag that a loop waits for; a flag already set stays set.
func signal(flag chan struct{}) {
	select {
	case flag <- struct{}{}:
	default:
	}
}

// pause waits for d or until ctx ends, and reports whether it waited it out.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (e *Engine) choreLoop(ctx context.Context, chore Chore) {
	for {
		if err := chore.Run(ctx); err != nil && ctx.Err() == nil {
			e.cfg.Logger.WarnContext(ctx, "chore failed, will be tried again", "chore", chore.Name, "error", err)
		}
		timer := time.NewTimer(chore.Every)
		select {
		case <-timer.C:
		case <-chore.Kick:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}
