package tagging

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// compensationPoll is how often failed messages are looked for that another process has failed, or whose handler's pause
// is over.
const compensationPoll = 5 * time.Second

// leaseMargin is the part of a lease that a handler does not get: while it lasts, what came of the run is recorded before
// anybody else can take the message.
const leaseMargin = 10

// compensation hands failed messages to the handlers of their topics. Each is claimed on its own, so that its handler has
// the lease to itself, and only while its topic has a place for it: what hangs or fails again and again holds up nothing but
// itself, since a message that failed goes behind those that are due before it.
type compensation struct {
	cfg        config
	store      reliable.Compensator
	transactor reliable.Transactor // nil if no handler needs it
	inspector  reliable.Inspector  // nil if the store cannot be asked
	topics     []string
	kicked     chan struct{} // something failed

	mu    sync.Mutex
	busy  map[string]int // handlers that run, by topic
	runs  int            // all of them
	ended chan struct{}  // a handler has ended; set under mu
}

func newCompensation(cfg config, store reliable.Store) *compensation {
	c := &compensation{
		cfg: cfg, topics: slices.Sorted(maps.Keys(cfg.handlers)),
		kicked: make(chan struct{}, 1), busy: make(map[string]int), ended: make(chan struct{}, 1),
	}
	c.store, _ = reliable.Ability[reliable.Compensator](store)
	c.transactor, _ = reliable.Ability[reliable.Transactor](store)
	c.inspector, _ = reliable.Ability[reliable.Inspector](store)
	return c
}

// kick says that something failed.
func (c *compensation) kick() {
	select {
	case c.kicked <- struct{}{}:
	default:
	}
}

// pass compensates until nothing is due and no handler runs, or until ctx ends: then nothing more is begun, and handlers
// that run have the drain timeout to finish.
func (c *compensation) pass(ctx context.Context) error {
	work, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	var handlers sync.WaitGroup
	defer handlers.Wait()
	for ctx.Err() == nil {
		leaseEnd := time.Now().Add(c.cfg.lease)
		record, err := c.claim(ctx)
		if record != nil {
			c.begin(record.Topic)
			handlers.Go(func() {
				defer c.end(record.Topic)
				c.handle(work, record, leaseEnd)
			})
			continue
		}
		if !c.running() {
			return err
		}
		if err != nil {
			c.cfg.logger.WarnContext(ctx, "claiming failed messages failed, will be tried again", "error", err)
		}
		c.await(ctx)
	}
	c.drain()
	giveUp()
	return ctx.Err()
}

// claim takes the failed message that is due first, of the topics that have a place for it.
func (c *compensation) claim(ctx context.Context) (*reliable.Record, error) {
	topics := c.free()
	if len(topics) == 0 {
		return nil, nil //nolint:nilnil // nothing to do is no error
	}
	timed, cancel := context.WithTimeout(ctx, c.cfg.storeTimeout)
	defer cancel()
	records, err := c.store.ClaimFailed(timed, reliable.ClaimRequest{
		Worker: c.cfg.worker, Max: 1, Lease: c.cfg.lease,
	}, topics...)
	if len(records) == 0 || err != nil {
		return nil, err
	}
	return &records[0], nil
}

func (c *compensation) free() (topics []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, topic := range c.topics {
		if c.busy[topic] < c.cfg.handlersAtOnce {
			topics = append(topics, topic)
		}
	}
	return topics
}

func (c *compensation) begin(topic string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy[topic]++
	c.runs++
}

func (c *compensation) end(topic string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy[topic]--
	c.runs--
	select {
	case c.ended <- struct{}{}:
	default:
	}
}

// running reports whether a handler runs, or has ended since await last said so: its place may be wanted.
func (c *compensation) running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.runs > 0 || len(c.ended) > 0
}

// await waits until looking again makes sense: a handler has ended, something failed, or some time has passed.
func (c *compensation) await(ctx context.Context) {
	timer := time.NewTimer(compensationPoll)
	defer timer.Stop()
	select {
	case <-c.ended:
	case <-c.kicked:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// drain waits until no handler runs, no longer than the drain timeout.
func (c *compensation) drain() {
	timer := time.NewTimer(c.cfg.drainTimeout)
	defer timer.Stop()
	for c.running() {
		select {
		case <-c.ended:
		case <-timer.C:
			return
		}
	}
}

// handle runs one handler within its lease and records what came of it.
func (c *compensation) handle(ctx context.Context, record *reliable.Record, leaseEnd time.Time) {
	ctx, cancel := context.WithDeadline(ctx, leaseEnd.Add(-c.cfg.lease/leaseMargin))
	defer cancel()
	h := c.cfg.handlers[record.Topic]
	err := c.call(ctx, h, record)
	switch {
	case errors.Is(err, errPassedOn):
	case err != nil:
		err = c.failed(ctx, record, err)
	case h.inTx == nil: // else it is recorded already
		err = c.settle(ctx, compensationOf(record, nil, 0))
	}
	log := c.cfg.logger.With("id", record.ID, "topic", record.Topic)
	switch {
	case err == nil:
		if c.cfg.hooks.Compensated != nil {
			c.cfg.hooks.Compensated(record)
		}
		return
	case errors.Is(err, errPassedOn):
		log.WarnContext(ctx, "compensation handler ran beyond its lease; somebody else has the message", "error", err)
	default:
		log.WarnContext(ctx, "compensation handler failed, will be tried again", "error", err)
	}
	if c.cfg.hooks.HandlerFailed != nil {
		c.cfg.hooks.HandlerFailed(record, err)
	}
}

// call runs the handler; a panic is a failure.
func (c *compensation) call(ctx context.Context, h handling, record *reliable.Record) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			c.cfg.logger.ErrorContext(ctx, "compensation handler panicked",
				"id", record.ID, "topic", record.Topic, "stack", string(debug.Stack()))
			err = fmt.Errorf("handler panicked: %v", panicked)
		}
	}()
	if h.inTx != nil {
		return c.inTx(ctx, h, record)
	}
	return h.plain(ctx, record)
}

// errPassedOn means that a handler's lease ended and the message went on without it.
var errPassedOn = errors.New("the lease of this run passed on")

// inTx runs the handler in a transaction and commits it with the status. The status comes last, so that the message's row,
// which a late ack may want, is locked for the commit only.
func (c *compensation) inTx(ctx context.Context, h handling, record *reliable.Record) error {
	tx, err := c.transactor.Begin(ctx, h.db)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	// After COMMIT this does nothing; it also ends the transaction of a handler that panicked.
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	settler, ok := reliable.Ability[reliable.CompensationSettler](tx)
	if !ok {
		return reliable.Invalid("store", "its transactions are no reliable.CompensationSettler; use WithFailedHandler")
	}
	if err := h.inTx(ctx, tx.Native(), record); err != nil {
		return err
	}
	result, err := settler.SettleCompensation(ctx, compensationOf(record, nil, 0))
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	if result != reliable.Applied {
		return fmt.Errorf("%w (%v), and what it wrote is rolled back", errPassedOn, result)
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// failed records that a run did not succeed, and returns why. It returns nil if the run did succeed after all: the answer
// to its COMMIT was lost, and the store has it.
func (c *compensation) failed(ctx context.Context, record *reliable.Record, why error) error {
	delay := c.cfg.handlerBackoff.Delay(failedRuns(record) + 1)
	err := c.settle(ctx, compensationOf(record, why, delay))
	switch {
	case errors.Is(err, errPassedOn) && errors.Is(why, reliable.ErrUnknown) && c.compensatedBy(ctx, record):
		return nil
	case err != nil:
		return errors.Join(why, err)
	}
	return why
}

// failedRuns is how many runs in a row have failed so far, since the message failed or a person decided about it.
func failedRuns(record *reliable.Record) (n int) {
	for _, entry := range slices.Backward(record.History) {
		switch entry.Kind {
		case reliable.CompensationFailed:
			n++
		case reliable.AttemptEnded, reliable.GivenUp, reliable.OperatorDecided:
			return n
		}
	}
	return n
}

// compensatedBy asks the store whether the message was compensated under the lease of this record.
func (c *compensation) compensatedBy(ctx context.Context, record *reliable.Record) bool {
	if c.inspector == nil {
		return false
	}
	timed, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.storeTimeout)
	defer cancel()
	now, err := c.inspector.Lookup(timed, record.ID)
	return err == nil && len(now) == 1 && now[0].Status == reliable.Compensated && now[0].Fence == record.Fence
}

// settle records what came of a run, even if ctx has ended. A store that does not take it is asked again until ctx ends:
// what a handler did and nobody recorded is done twice.
func (c *compensation) settle(ctx context.Context, outcome reliable.Compensation) error {
	for failures := 1; ; failures++ {
		result, err := c.settleOnce(ctx, outcome)
		switch {
		case err != nil:
			err = fmt.Errorf("record the compensation: %w", err)
		case result == reliable.Applied || result == reliable.Repeated:
			return nil
		default:
			return fmt.Errorf("%w (%v)", errPassedOn, result)
		}
		timer := time.NewTimer(c.cfg.policy.Again.Delay(failures))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

func (c *compensation) settleOnce(ctx context.Context, outcome reliable.Compensation) (reliable.SettleResult, error) {
	timed, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.storeTimeout)
	defer cancel()
	return c.store.SettleCompensation(timed, outcome)
}

// compensationOf is the outcome of a run: done, or why not and how long until the next one.
func compensationOf(record *reliable.Record, why error, delay time.Duration) reliable.Compensation {
	outcome := reliable.Compensation{ID: record.ID, Fence: record.Fence, Topic: record.Topic, Key: record.Key, Done: why == nil}
	if why != nil {
		outcome.Delay, outcome.Reason = delay, why.Error()
	}
	return outcome
}
