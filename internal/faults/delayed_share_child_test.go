//go:build services

package faults

import (
	"context"
	"database/sql"
	"fmt"
	"hash/fnv"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// The ways to send that are compared.
const (
	byTagging      = "tagging"
	byCheckFirst   = "check first"
	byMessageFirst = "message first"
	byPublish      = "confirmed publish" // after COMMIT, once
)

// supply is the process of a shop under load: its customers place one order after the other.
type supply struct {
	Way    string
	Part   delayedPart
	Run    int           // of this process, in the ids of its orders
	Every  time.Duration // 0: it places none, and sends what is left
	LostOf int           // one check in so many is lost in its delay hop
}

// customers is how many orders are placed at a time.
const customers = 8

func (s supply) run(ctx context.Context) error {
	db, transactor, witness, err := s.Part.Shop.open(ctx)
	if err != nil {
		return err
	}
	events, err := s.Part.events("shop")
	if err != nil {
		return err
	}
	place, err := s.placing(ctx, db, transactor, witness, events)
	if err != nil {
		return err
	}
	newCues() // which ends with the test
	fmt.Println("ready")
	for customer := range customers {
		if s.Every == 0 {
			break
		}
		go func() {
			pace := time.NewTicker(customers * s.Every)
			defer pace.Stop()
			for i := 0; ; i++ {
				<-pace.C
				_ = place(ctx, fmt.Sprintf("%s/%d-%d-%d", load, s.Run, customer, i)) // the table says whether it is there
			}
		}()
	}
	select {}
}

type placing func(ctx context.Context, id string) error

func (s supply) placing(
	ctx context.Context, db *sql.DB, transactor reliable.Transactor, witness reliable.Witness, events *rabbitmqbroker.Broker,
) (placing, error) {
	kind := s.Part.Shop.Database.kind()
	envelope := func(id string) reliable.Envelope {
		return reliable.Envelope{ID: reliable.ID(id), Topic: s.Part.ordersTopic(), Payload: []byte(id)}
	}
	switch s.Way {
	case byTagging:
		store, _ := transactor.(reliable.Store)
		outbox, err := tagging.New(store, events, events, tagging.WithLease(crashLease), tagging.WithLogger(slog.New(slog.DiscardHandler)),
			tagging.WithUnknownBackoff(100*time.Millisecond, time.Second), tagging.WithoutRetention())
		if err != nil {
			return nil, err
		}
		go func() { fmt.Println("ended:", outbox.Run(ctx)) }()
		return func(ctx context.Context, id string) error {
			return tagging.InTx(ctx, outbox, db, func(tx *sql.Tx, out *tagging.Scope) error {
				if err := insertOrder(ctx, tx, kind, id); err != nil {
					return err
				}
				return out.Send(envelope(id))
			})
		}, nil
	case byPublish:
		publisher := events.Watermill()
		return func(ctx context.Context, id string) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback() }()
			if err := insertOrder(ctx, tx, kind, id); err != nil {
				return err
			}
			if err := tx.Commit(); err != nil {
				return err
			}
			return publisher.Publish(s.Part.ordersTopic(), message.NewMessage(id, []byte(id)))
		}, nil
	}
	sender, err := s.checked(transactor, witness, events)
	if err != nil {
		return nil, err
	}
	go func() { fmt.Println("ended:", sender.Run(ctx)) }()
	seller := &seller{delayedPart: s.Part}
	if err := seller.serve(sender, s.Part.Address); err != nil {
		return nil, err
	}
	return func(ctx context.Context, id string) error {
		return delayedcheck.InTx(ctx, sender, db, func(tx *sql.Tx, out *delayedcheck.Scope) error {
			if err := insertOrder(ctx, tx, kind, id); err != nil {
				return err
			}
			return out.Send(envelope(id))
		})
	}, nil
}

func (s supply) checked(
	transactor reliable.Transactor, witness reliable.Witness, events *rabbitmqbroker.Broker,
) (*delayedcheck.Sender, error) {
	queues, err := s.Part.queues()
	if err != nil {
		return nil, err
	}
	scheduler, err := queues.Scheduler([]time.Duration{checkDelay}, rabbitmqbroker.WithShards(1))
	if err != nil {
		return nil, err
	}
	options := []delayedcheck.SenderOption{
		delayedcheck.WithTransactions(transactor), delayedcheck.WithWitness(witness), delayedcheck.WithGroups(billing),
		delayedcheck.WithProducerName(shopName), delayedcheck.WithCheckTopic(s.Part.checksTopic()), delayedcheck.WithCheckDelay(checkDelay),
		delayedcheck.WithCheckTimeout(time.Second), delayedcheck.WithSenderLogger(slog.New(slog.DiscardHandler)),
	}
	if s.Way == byMessageFirst {
		options = append(options, delayedcheck.MessageFirst())
	}
	return delayedcheck.NewSender(events, events, losing{scheduler, s.LostOf, s.Part.lostTopic()}, options...)
}

// losing has some checks come due where nobody handles them.
type losing struct {
	reliable.Scheduler
	one  int // in so many
	lost string
}

func (l losing) Schedule(ctx context.Context, after time.Duration, envs ...reliable.Envelope) error {
	for i := range envs {
		hash := fnv.New32a()
		_, _ = hash.Write([]byte(envs[i].ID))
		if hash.Sum32()%uint32(l.one) == 0 {
			envs[i].Topic = l.lost
		}
	}
	return l.Scheduler.Schedule(ctx, after, envs...)
}
