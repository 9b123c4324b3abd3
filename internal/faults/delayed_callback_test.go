//go:build services

package faults

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
	"github.com/waybillmq/waybill/strategies/delayedcheck/httprpc"
)

const (
	// resendTimeout bounds a resend, and ledgerTimeout a statement of the callback service. What a dead one leaves is taken
	// over after these and 30 s.
	resendTimeout = 2 * time.Second
	ledgerTimeout = 1500 * time.Millisecond

	// refusedConfirm is noted when a confirm could not be stored, decides when an instance has looked for one and not found it.
	refusedConfirm = "a confirm was refused"
	decides        = "decides about "
)

// answer is the process of a callback service.
func (p delayedPart) answer(ctx context.Context, b books, c *cues) error {
	_, ledger, err := p.Ledger.open(ctx)
	if err != nil {
		return err
	}
	queues, err := p.queues()
	if err != nil {
		return err
	}
	scheduler, err := queues.Scheduler([]time.Duration{checkDelay}, rabbitmqbroker.WithShards(1))
	if err != nil {
		return err
	}
	options, err := p.resenders(ctx, b, c)
	if err != nil {
		return err
	}
	service, err := delayedcheck.NewService(deciding{ledger, b, c}, nil, scheduler, append(options,
		delayedcheck.WithNextCheck(p.checksTopic(), checkDelay), delayedcheck.WithMaxRounds(50),
		delayedcheck.WithPollEvery(100*time.Millisecond), delayedcheck.WithResendTimeout(resendTimeout),
		delayedcheck.WithLedgerTimeout(ledgerTimeout), delayedcheck.WithResendBackoff(100*time.Millisecond, 500*time.Millisecond),
		delayedcheck.WithOpenBackoff(100*time.Millisecond, 500*time.Millisecond),
		delayedcheck.WithServiceLogger(slog.New(slog.DiscardHandler)))...)
	if err != nil {
		return err
	}
	go func() { fmt.Println("ended:", service.Run(ctx)) }()
	handlers := map[string]message.NoPublishHandlerFunc{
		p.checksTopic(): func(msg *message.Message) error {
			check, err := delayedcheck.CheckOf(msg)
			if err != nil {
				return err
			}
			id := string(check.Message.ID)
			name := windowOf(id).name
			if p.Stands && name == checkTaken {
				c.stand(id)
			}
			err = service.Checks(msg)
			if p.Stands && name == requestStored && err == nil {
				c.stand(id)
			}
			return err
		},
		p.processedTopic(): func(msg *message.Message) error {
			err := service.Processed(msg)
			if err != nil {
				_ = b.note(refusedConfirm)
			}
			return err
		},
	}
	if p.Topic != "" {
		handlers = map[string]message.NoPublishHandlerFunc{p.Topic: handlers[p.Topic]}
	}
	return route(ctx, queues, handlers, func() { fmt.Println("ready") })
}

// resenders are the shop, under each name that it has, and what sends for a producer that is gone.
func (p delayedPart) resenders(ctx context.Context, b books, c *cues) ([]delayedcheck.ServiceOption, error) {
	client, err := httprpc.NewClient("http://"+p.Address+"/resend", rpcKey())
	if err != nil {
		return nil, err
	}
	refused, err := httprpc.NewClient("http://"+p.Refuses+"/resend", rpcKey())
	if err != nil {
		return nil, err
	}
	_, _, witness, err := p.Shop.open(ctx)
	if err != nil {
		return nil, err
	}
	events, err := p.events("callback")
	if err != nil {
		return nil, err
	}
	direct, err := delayedcheck.Direct(events.Watermill(), witness)
	if err != nil {
		return nil, err
	}
	meanwhile := func(w *window, id string, answered bool) {
		if !p.Stands {
			return
		}
		if w.name == requestStored {
			select {} // it is to be killed before it asks
		}
		if w.name == killedAsking && answered {
			c.stand(id)
		}
	}
	options := []delayedcheck.ServiceOption{delayedcheck.WithResender(shopName, asking{client, b, meanwhile})}
	for i := range windows {
		w := &windows[i]
		resender := delayedcheck.Resender(client)
		switch {
		case w.producer() == shopName:
			continue
		case w.name == callRefused:
			resender = refused
		case w.name == gone:
			resender = direct
		}
		options = append(options, delayedcheck.WithResender(w.producer(), asking{resender, b, meanwhile}))
	}
	return options, nil
}

// deciding is a ledger whose callback service stands after it has looked for confirms in vain, with the order of one window.
type deciding struct {
	reliable.Store
	books books
	cues  *cues
}

func (d deciding) Unwrap() any { return d.Store }

func (d deciding) Enqueue(ctx context.Context, req reliable.EnqueueRequest, envs ...reliable.Envelope) ([]reliable.Stored, error) {
	stood := false
	for i := range envs {
		check, err := delayedcheck.CheckOf(&message.Message{Payload: envs[i].Payload})
		if err != nil || windowOf(string(check.Message.ID)).name != confirmBeside {
			continue
		}
		id := string(check.Message.ID)
		if err := d.books.note(decides + id); err != nil {
			return nil, err
		}
		d.cues.stand(id)
		stood = true
	}
	if stood { // for longer than a statement may take
		ctx = context.WithoutCancel(ctx)
	}
	return d.Store.Enqueue(ctx, req, envs...)
}
