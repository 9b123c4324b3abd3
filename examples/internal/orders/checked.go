package orders

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// Checking is what the delayed check needs besides a [Backend].
type Checking struct {
	// Witness tells whether the transaction that inserted an order committed.
	Witness reliable.Witness
	// Scheduler delivers checks after Delay; Move is to be run while it is used.
	Scheduler reliable.Scheduler
	Move      func(ctx context.Context) error
	// ForSender is what the sender is made with in place of Scheduler; nil for that.
	ForSender func() (reliable.Scheduler, []delayedcheck.SenderOption)
	Delay     time.Duration
	// Processed publishes processed confirms.
	Processed message.Publisher
	// Callback is the broker as the callback service sees it.
	Callback message.Subscriber
	// ProcessedTopic and ChecksTopic are its topics.
	ProcessedTopic, ChecksTopic string
}

// consumerGroup is who confirms what was processed.
const consumerGroup = "shipping"

// RunChecked plays the scenario without a message row in the shop's database, with the ledger of the callback service in
// b.Store. All orders can be delivered: one that nobody can route would be asked about for as long as an outage may last.
// While the broker is away no order is placed, and each is tried again.
func RunChecked(ctx context.Context, b Backend, c Checking, plan Plan, out io.Writer) (result Result, err error) {
	if plan.Orders < 3 {
		return Result{}, fmt.Errorf("%d orders are too few: take at least 3", plan.Orders)
	}
	callback := &callbackService{answered: make(map[reliable.ID]bool), confirmed: make(map[reliable.ID]bool)}
	sender, err := c.sender(b)
	if err != nil {
		return Result{}, err
	}
	if callback.service, err = c.service(b, sender, callback); err != nil {
		return Result{}, err
	}
	shop, err := newShop(ctx, b.DB, b.Numbered, checked(sender))
	if err != nil {
		return Result{}, err
	}
	consumer, err := newConsumer(ctx, filepath.Join(plan.Dir, "consumer.db"))
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, consumer.close()) }()
	confirmed, err := middleware.ConfirmProcessed(consumerGroup, c.Processed, c.ProcessedTopic)
	if err != nil {
		return Result{}, err
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	if err := consumer.start(working, b.Subscriber, b.Topic, confirmed(consumer.note)); err != nil {
		return Result{}, err
	}
	end, err := callback.start(working, c, sender)
	if err != nil {
		return Result{}, err
	}

	begun := time.Now()
	p := startProgress(ctx, &progress{shop: shop, consumer: consumer, stats: callback.service.Backlog, checked: callback.done, out: out})
	declined, err := playChecked(ctx, b, plan, shop, p)
	if err == nil {
		err = p.awaitQuiet(ctx, plan.Patience)
	}
	lasted := time.Since(begun)
	p.stop()
	stop()
	if err = errors.Join(err, end()); err != nil {
		return Result{}, err
	}
	result, err = auditChecked(ctx, b, shop, consumer, reliable.ID(declined))
	if err != nil {
		return Result{}, err
	}
	result.Lasted, result.Checks, result.Resends = lasted, len(callback.answered), int(sender.Stats().Resent)
	return result, result.printChecked(out)
}

func (c *Checking) sender(b Backend) (*delayedcheck.Sender, error) {
	transactions, ok := reliable.Ability[reliable.Transactor](b.Store)
	if !ok {
		return nil, errors.New("the store begins no transactions")
	}
	scheduler, opts := c.Scheduler, []delayedcheck.SenderOption(nil)
	if c.ForSender != nil {
		scheduler, opts = c.ForSender()
	}
	return delayedcheck.NewSender(b.Publisher, b.Confirms, scheduler, append(opts,
		delayedcheck.WithTransactions(transactions), delayedcheck.WithWitness(c.Witness), delayedcheck.WithGroups(consumerGroup),
		delayedcheck.WithCheckTopic(c.ChecksTopic), delayedcheck.WithCheckDelay(c.Delay), delayedcheck.WithCheckTimeout(time.Second),
		delayedcheck.WithSenderLogger(slog.New(slog.DiscardHandler)))...)
}

func (c *Checking) service(b Backend, sender *delayedcheck.Sender, callback *callbackService) (*delayedcheck.Service, error) {
	return delayedcheck.NewService(b.Store, sender, c.Scheduler,
		delayedcheck.WithNextCheck(c.ChecksTopic, c.Delay),
		// Short, because this is a demonstration.
		delayedcheck.WithPollEvery(200*time.Millisecond), delayedcheck.WithResendBackoff(200*time.Millisecond, time.Second),
		delayedcheck.WithServiceHooks(delayedcheck.ServiceHooks{Checked: callback.noteAnswer, Confirmed: callback.noteConfirms}),
		delayedcheck.WithServiceLogger(slog.New(slog.DiscardHandler)))
}

// checked has a check of each message durable before COMMIT, and tries again what could not be checked.
func checked(sender *delayedcheck.Sender) transaction {
	return func(ctx context.Context, db *sql.DB, fn func(tx *sql.Tx, send func(...reliable.Envelope) error) error) error {
		for {
			err := delayedcheck.InTx(ctx, sender, db, func(tx *sql.Tx, out *delayedcheck.Scope) error { return fn(tx, out.Send) })
			if !errors.Is(err, delayedcheck.ErrNotChecked) && !errors.Is(err, delayedcheck.ErrTooOld) {
				return err
			}
			select { // nothing was committed: the customer tries once more
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// playChecked places the orders, with an outage in their middle, and returns the id of the one that rolled back.
func playChecked(ctx context.Context, b Backend, plan Plan, shop *shop, p *progress) (declined string, err error) {
	p.say("placing %d orders from %d goroutines", plan.Orders, clerks)
	var outage sync.WaitGroup
	var outageErr error
	topic := func(int) string { return b.Topic }
	err = shop.placeAll(ctx, 1, plan.Orders, topic, func(number int) {
		if number == plan.Orders/3 {
			outage.Go(func() { outageErr = restart(ctx, b, plan, p) })
		}
	})
	outage.Wait()
	if err = errors.Join(err, outageErr); err != nil {
		return "", err
	}
	if declined, err = shop.placeDeclined(ctx, b.Topic); err != nil {
		return "", err
	}
	p.say("%s rolled back after its message was added", declined)
	return declined, nil
}

func restart(ctx context.Context, b Backend, plan Plan, p *progress) error {
	p.say("stopping the broker; orders are tried again until their checks are durable")
	p.broker("broker down")
	if err := b.Stop(ctx); err != nil {
		return err
	}
	select {
	case <-time.After(plan.Outage):
	case <-ctx.Done():
		return ctx.Err()
	}
	p.say("starting the broker")
	if err := b.Start(ctx); err != nil {
		return fmt.Errorf("start the broker: %w", err)
	}
	p.broker("broker up")
	return nil
}

// callbackService answers the checks, and knows of which messages it has, and which are confirmed.
type callbackService struct {
	service *delayedcheck.Service

	mu                  sync.Mutex
	answered, confirmed map[reliable.ID]bool
}

func (s *callbackService) noteAnswer(check *delayedcheck.Check, _ bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered[check.Message.ID] = true
}

func (s *callbackService) noteConfirms(confirms []reliable.Processed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range confirms {
		s.confirmed[confirms[i].ID] = true
	}
}

// done returns how many messages are confirmed and had a check answered.
func (s *callbackService) done() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.answered {
		if s.confirmed[id] {
			n++
		}
	}
	return n
}

// start runs the service, its handlers, the sender, and what moves checks that are due, until ctx ends; end waits for that.
func (s *callbackService) start(ctx context.Context, c Checking, sender *delayedcheck.Sender) (end func() error, err error) {
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		return nil, err
	}
	router.AddConsumerHandler("processed", c.ProcessedTopic, c.Callback, s.service.Processed)
	router.AddConsumerHandler("checks", c.ChecksTopic, c.Callback, s.service.Checks)
	ctx, stop := context.WithCancel(ctx)
	all := []func(context.Context) error{router.Run, s.service.Run, sender.Run, c.Move}
	failed := make(chan error, len(all))
	for _, run := range all {
		go func() { failed <- run(ctx) }()
	}
	end = func() (err error) {
		stop()
		for range all {
			err = errors.Join(err, <-failed)
		}
		return err
	}
	select {
	case <-router.Running():
		return end, nil
	case err := <-failed:
		failed <- nil
		return nil, errors.Join(err, end())
	}
}
