package backends

import (
	"context"
	"time"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// Delay is who delivers messages later on a broker.
type Delay struct {
	reliable.Scheduler
	atOnce bool // messages are published at once, and whoever receives them keeps them
	run    func(ctx context.Context) error
	close  func() error
}

// DelayOf returns who delays on a broker: the broker itself, or, where it cannot, whoever receives. It keeps one delay. What
// it needs on the broker is declared.
func DelayOf(ctx context.Context, broker backend.Broker, delay time.Duration) (*Delay, error) {
	if rabbitmq, ok := reliable.Ability[*rabbitmqbroker.Broker](broker); ok {
		scheduler, err := rabbitmq.Scheduler([]time.Duration{delay}, rabbitmqbroker.WithBundles())
		if err != nil {
			return nil, err
		}
		return &Delay{Scheduler: scheduler, close: scheduler.Close}, nil
	}
	if nats, ok := reliable.Ability[*natsbroker.Broker](broker); ok {
		scheduler := nats.Scheduler()
		return &Delay{Scheduler: scheduler, close: scheduler.Close}, nil
	}
	if tables, ok := reliable.Ability[*sqlbroker.Broker](broker); ok {
		scheduler, err := tables.Scheduler()
		if err != nil {
			return nil, err
		}
		return &Delay{Scheduler: scheduler, run: scheduler.Run}, scheduler.Declare(ctx)
	}
	publisher := broker.Watermill()
	scheduler, err := delayedcheck.NewTopicScheduler(publisher)
	return &Delay{Scheduler: scheduler, atOnce: true, close: publisher.Close}, err
}

// ForSender returns what a sender is made with: where checks are published at once they take the sender's own way.
func (d *Delay) ForSender() (reliable.Scheduler, []delayedcheck.SenderOption) {
	if d.atOnce {
		return nil, []delayedcheck.SenderOption{delayedcheck.WithTopicChecks()}
	}
	return d, nil
}

// Run moves what is due to its topic where the broker does not do that by itself, until ctx ends. It must run somewhere:
// here in the callback service.
func (d *Delay) Run(ctx context.Context) error {
	if d.run != nil {
		return d.run(ctx)
	}
	<-ctx.Done()
	return nil
}

// Close ends the scheduler's connection; its broker is closed later.
func (d *Delay) Close() error {
	if d.close == nil {
		return nil
	}
	return d.close()
}
