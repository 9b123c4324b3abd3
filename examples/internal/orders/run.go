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
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// Backend is what an example brings along: a database and a broker, through their adapters.
type Backend struct {
	// DB is the shop's database, in which Store keeps the outbox.
	DB    *sql.DB
	Store Store
	// Numbered says that placeholders in SQL are $1, $2 and not ?.
	Numbered bool
	// Publisher and Confirms are the broker, as the outbox sees it.
	Publisher reliable.Publisher
	Confirms  reliable.ConfirmSource
	// Subscriber is the broker as the consumer sees it.
	Subscriber message.Subscriber
	// Topic can be routed, Nowhere cannot.
	Topic, Nowhere string
	// Stop and Start make the outage.
	Stop, Start func(ctx context.Context) error
}

// Store is a store that can be asked what became of a message.
type Store interface {
	reliable.Store
	reliable.Inspector
}

// Plan is what shall happen.
type Plan struct {
	// Orders is how many are committed, the one that cannot be delivered included; at least 3.
	Orders int
	// Outage is how long the broker is away, at least.
	Outage time.Duration
	// Patience is how long nothing may change before what is then missing counts as lost.
	Patience time.Duration
	// Dir is an empty directory, for the consumer's log.
	Dir string
}

// Run plays the scenario and tells out about it. An error means that the scenario could not be played to its end; what is
// wrong with its result, [Result.Err] says.
func Run(ctx context.Context, b Backend, plan Plan, out io.Writer) (result Result, err error) {
	if plan.Orders < 3 {
		return Result{}, fmt.Errorf("%d orders are too few: take at least 3", plan.Orders)
	}
	flying := newTraffic()
	outbox, err := tagging.New(b.Store, b.Publisher, b.Confirms,
		// Short, because this is a demonstration: the defaults try a refused message for half an hour.
		tagging.WithFailureBudget(3, 0),
		tagging.WithBackoff(100*time.Millisecond, 500*time.Millisecond),
		tagging.WithHooks(flying.hooks()),
		tagging.WithLogger(slog.New(slog.DiscardHandler)),
	)
	if err != nil {
		return Result{}, err
	}
	shop, err := newShop(ctx, b.DB, b.Numbered, tagged(outbox))
	if err != nil {
		return Result{}, err
	}
	consumer, err := newConsumer(ctx, filepath.Join(plan.Dir, "consumer.db"))
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, consumer.close()) }()
	consuming, stopConsuming := context.WithCancel(ctx)
	defer stopConsuming()
	if err := consumer.start(consuming, b.Subscriber, b.Topic, consumer.note); err != nil {
		return Result{}, err
	}

	relaying, stopRelaying := context.WithCancel(ctx)
	defer stopRelaying()
	relayed := make(chan error, 1)
	go func() { relayed <- outbox.Run(relaying) }()

	begun := time.Now()
	p := startProgress(ctx, &progress{shop: shop, consumer: consumer, stats: outbox.Stats, out: out})
	declined, err := play(ctx, b, plan, shop, flying, p)
	if err == nil {
		err = p.awaitQuiet(ctx, plan.Patience)
	}
	lasted := time.Since(begun)
	p.stop()
	stopRelaying()
	if err = errors.Join(err, <-relayed); err != nil {
		return Result{}, err
	}

	result, err = audit(ctx, shop, consumer, b.Store, reliable.ID(declined))
	if err != nil {
		return Result{}, err
	}
	result.Lasted = lasted
	return result, result.print(out)
}

// tagged stores messages in the outbox, in the transaction.
func tagged(outbox *tagging.Outbox) transaction {
	return func(ctx context.Context, db *sql.DB, fn func(tx *sql.Tx, send func(...reliable.Envelope) error) error) error {
		return tagging.InTx(ctx, outbox, db, func(tx *sql.Tx, out *tagging.Scope) error { return fn(tx, out.Send) })
	}
}

// play places the orders, with an outage in their middle, and returns the id of the one that rolled back.
func play(ctx context.Context, b Backend, plan Plan, shop *shop, flying *traffic, p *progress) (declined string, err error) {
	stopAt, startAt, toNowhere := plan.Orders/3, plan.Orders*2/3, plan.Orders/2
	topic := func(number int) string {
		if number == toNowhere {
			return b.Nowhere
		}
		return b.Topic
	}

	p.say("placing %d orders from %d goroutines", plan.Orders, clerks)
	var outage sync.WaitGroup
	var stopErr error
	err = shop.placeAll(ctx, 1, startAt, topic, func(number int) {
		if number == stopAt {
			outage.Go(func() {
				flying.awaitHandOver(ctx)
				p.say("stopping the broker, %d messages are in flight; orders go on", flying.inFlight())
				p.broker("broker down")
				stopErr = b.Stop(ctx)
			})
		}
	})
	outage.Wait()
	if err = errors.Join(err, stopErr); err != nil {
		return "", err
	}
	if declined, err = shop.placeDeclined(ctx, b.Topic); err != nil {
		return "", err
	}
	p.say("%s rolled back after its message was added", declined)
	select {
	case <-time.After(plan.Outage):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	p.say("starting the broker; %d attempts of the outage have no answer", flying.unknown.Load())
	if err := b.Start(ctx); err != nil {
		return "", fmt.Errorf("start the broker: %w", err)
	}
	p.broker("broker up")
	return declined, shop.placeAll(ctx, startAt+1, plan.Orders, topic, func(int) {})
}

// traffic counts what is between the outbox and the broker.
type traffic struct {
	handed, answered, unknown atomic.Int64
	handOver                  chan struct{} // holds a signal once something was handed over
}

func newTraffic() *traffic { return &traffic{handOver: make(chan struct{}, 1)} }

func (t *traffic) inFlight() int64 { return t.handed.Load() - t.answered.Load() }

// awaitHandOver waits for the next hand-over, but not for long: perhaps all orders are placed.
func (t *traffic) awaitHandOver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	select {
	case <-t.handOver:
	default:
	}
	select {
	case <-t.handOver:
	case <-ctx.Done():
	}
}

func (t *traffic) hooks() tagging.Hooks {
	return tagging.Hooks{
		Handed: func(attempts []reliable.Attempt) {
			t.handed.Add(int64(len(attempts)))
			select {
			case t.handOver <- struct{}{}:
			default:
			}
		},
		Answered: func(_ *reliable.Attempt, c *reliable.Confirm, _ time.Duration) {
			t.answered.Add(1)
			if c.Outcome == reliable.Unknown {
				t.unknown.Add(1)
			}
		},
	}
}
