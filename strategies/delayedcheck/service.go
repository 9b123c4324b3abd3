package delayedcheck

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// Service is the callback service: it keeps processed confirms in its ledger, answers checks that are due, and works on
// the resend requests that follow. It has two handlers, [Service.Processed] and [Service.Checks], for the user's Watermill
// router, and [Service.Run]. Any number of processes share one ledger: they divide the work by leases, and each resend is
// one process's at a time. It is safe for concurrent use.
//
// What a request comes to is computed from the stored confirms each time it is looked at, before every resend and after it
// was failed too: a confirm that arrives at any moment is seen.
//
// A request is an envelope of the ledger, and all that is true of tagging's envelopes is true of it: what cannot be resent
// ends as failed, for [WithFailedRequest], for [tagging.Operator] and for the command waybill, on the ledger's tables. These
// must be the ledger's own: no outbox may use them.
type Service struct {
	cfg           serviceConfig
	ledger        reliable.Store
	confirmations reliable.Confirmations
	scheduler     reliable.Scheduler // nil: the ledger keeps the checks of later rounds
	limits        reliable.Limits
	relay         *tagging.Outbox
	requests      *requests
	limit         *resendLimit
	chores        *chores
	counts        serviceCounts

	storing gather[*storing]
	asking  gather[*asking]
	lookups gather[*lookup]

	running atomic.Bool
}

// NewService returns a callback service over a ledger, a store with the ability [reliable.Confirmations]. It starts nothing
// and does no I/O.
//
// resender sends the messages of every producer that [WithResender] does not name; it may be nil if all are named. The
// scheduler delivers the checks that follow a resend to the topic of [WithNextCheck]; with nil the ledger itself keeps them
// until they are due, which needs no broker.
//
// All that is wrong with the options is reported together, as errors that are [reliable.ErrInvalid].
func NewService(ledger reliable.Store, resender Resender, scheduler reliable.Scheduler, opts ...ServiceOption) (*Service, error) {
	cfg, err := newServiceConfig(ledger, resender, opts)
	if err != nil {
		return nil, err
	}
	s := &Service{
		cfg: cfg, ledger: ledger, scheduler: scheduler, limits: reliable.DefaultLimits(), limit: newResendLimit(ledger, &cfg),
		chores: newChores(ledger, cfg.logger, cfg.worker, cfg.ledgerTimeout),
	}
	s.confirmations, _ = reliable.Ability[reliable.Confirmations](ledger)
	if limited, ok := reliable.Ability[reliable.Limited](ledger); ok {
		s.limits = s.limits.Stricter(limited.Limits())
	}
	writers := 2
	if writing, ok := reliable.Ability[reliable.Writing](ledger); ok {
		writers = max(1, writing.Writers())
	}
	s.storing = gather[*storing]{
		do: s.storeProcessed, size: func(one *storing) int { return len(one.confirms) }, limit: reliable.MaxProcessed, writers: writers,
	}
	s.asking = gather[*asking]{do: s.answerChecks, size: (*asking).size, limit: checksBytes, writers: writers}
	s.lookups = gather[*lookup]{do: s.lookUp, size: func(*lookup) int { return 1 }, limit: reliable.MaxProcessed, writers: 1}
	s.requests = newRequests(s)
	s.relay, err = tagging.New(ledger, s.requests, s.requests, s.relayOptions()...)
	if err != nil {
		return nil, fmt.Errorf("delayedcheck: callback service: %w", err)
	}
	return s, nil
}

// relayOptions make of a tagging relay the one that works on requests.
func (s *Service) relayOptions() []tagging.Option {
	window := s.cfg.window()
	wait := s.requests.MaxConfirmWait()
	opts := []tagging.Option{
		tagging.WithLogger(s.cfg.logger), tagging.WithWorker(s.cfg.worker),
		tagging.WithLease(wait + max(wait/2, 30*time.Second)),
		tagging.WithWindow(window),
		tagging.WithMemory(max(2*window, int(math.Min(4096, 10*s.cfg.resendRate))), 32<<20),
		tagging.WithFailureBudget(s.cfg.refusals, s.cfg.failingFor),
		tagging.WithBackoff(s.cfg.backoffBase, s.cfg.backoffLimit),
		tagging.WithUnknownBackoff(s.cfg.openBase, s.cfg.openLimit),
		tagging.WithPollInterval(s.cfg.pollEvery), tagging.WithStoreTimeout(s.cfg.ledgerTimeout), tagging.WithDrainTimeout(s.cfg.drainTimeout),
		tagging.WithHooks(tagging.Hooks{Failed: s.failed, FailedTogether: s.failedTogether, Backlog: s.cfg.hooks.Backlog}),
	}
	for producer, handler := range s.cfg.handlers {
		opts = append(opts, tagging.WithFailedHandler(producer, s.handling(handler)))
	}
	return opts
}

// Run works on resend requests until ctx ends: it claims those that are due, shared with every other process on the same
// ledger, resends, and looks after failed requests and old confirms. When ctx ends it begins nothing more, waits for the
// resends that are under way and records what came of them, for at most the drain timeout. The handlers go on working.
//
// It returns nil after a complete drain; an error that is [reliable.ErrDrain] if something was left to its lease;
// [reliable.ErrSchema] at once if the ledger's tables cannot be used; [reliable.ErrInvalid] if it runs already. That the
// ledger or a producer is away is no reason to return.
func (s *Service) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return fmt.Errorf("delayedcheck: %w", reliable.Invalid("call", "the callback service runs already; make one for each Run"))
	}
	defer s.running.Store(false)
	work, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	s.requests.open(work)
	beside, stop := context.WithCancel(ctx)
	defer stop()
	var doing sync.WaitGroup
	doing.Go(func() { s.chores.loop(beside, "late confirms", s.cfg.reviewEvery, s.review) })
	if s.cfg.retention != keepForEver {
		doing.Go(func() { s.chores.loop(beside, "retention of confirms", purgeEvery, s.purge) })
	}
	err := s.relay.Run(ctx)
	stop()
	giveUp() // what the drain did not wait for
	s.requests.wait()
	doing.Wait()
	if err != nil {
		return fmt.Errorf("delayedcheck: callback service: %w", err)
	}
	return nil
}

// Running reports whether [Service.Run] is active in this process.
func (s *Service) Running() bool { return s.running.Load() }

// Health returns nil if the ledger answers and its tables can be used, and says what is wrong otherwise; it waits no longer
// than ctx. Whether a producer answers shows in [Service.Backlog].
func (s *Service) Health(ctx context.Context) error {
	checker, ok := reliable.Ability[reliable.Checker](s.ledger)
	if !ok {
		_, err := s.confirmations.ProcessedBy(ctx)
		return err
	}
	if err := checker.Check(ctx); err != nil {
		return fmt.Errorf("delayedcheck: ledger: %w", err)
	}
	return nil
}

// Backlog returns how many requests are pending and failed, and the age of the oldest, by producer, of the whole fleet.
// The error is [errors.ErrUnsupported] if the ledger cannot tell.
func (s *Service) Backlog(ctx context.Context) ([]reliable.TopicStats, error) {
	stats, err := s.relay.Stats(ctx)
	if err != nil {
		return nil, errors.Join(errors.New("delayedcheck: backlog"), err)
	}
	return stats, nil
}
