package natsbroker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybillmq/waybill/reliable"
)

// subscription is one call of Subscribe. A goroutine fetches messages as far as there is room for them, others bring
// them to the handler, and one tells the server that the process which holds them is alive.
type subscription struct {
	s      *Subscriber
	js     jetstream.JetStream
	stream string
	config jetstream.ConsumerConfig

	consumer string // its name
	nc       *nats.Conn
	out      chan *message.Message
	queue    chan *nats.Msg
	room     chan struct{}   // a token for each message that may be held
	again    chan struct{}   // a note that the connection is a new one
	silent   chan struct{}   // closed when nothing is asked for any more
	caller   context.Context //nolint:containedctx // parent of the messages' own
	ctx      context.Context //nolint:containedctx // ends with the caller's, and with Close
	stop     context.CancelFunc

	mu   sync.Mutex
	held map[*nats.Msg]struct{}
}

// makeConsumer creates the durable consumer, or brings the one that exists up to date.
func (sub *subscription) makeConsumer(ctx context.Context) error {
	consumer, err := sub.js.CreateOrUpdateConsumer(ctx, sub.stream, sub.config)
	if err != nil {
		return err
	}
	sub.consumer = consumer.CachedInfo().Name
	return nil
}

func (sub *subscription) start(caller context.Context) error {
	s := sub.s
	sub.out = make(chan *message.Message)
	sub.queue = make(chan *nats.Msg, s.prefetch)
	sub.room = make(chan struct{}, s.prefetch)
	for range s.prefetch {
		sub.room <- struct{}{}
	}
	sub.held = make(map[*nats.Msg]struct{}, s.prefetch)
	sub.again = make(chan struct{}, 1)
	sub.silent = make(chan struct{})
	sub.caller = caller
	sub.ctx, sub.stop = context.WithCancel(caller)
	ended := context.AfterFunc(s.closing, sub.stop)

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Err() != nil {
		sub.stop()
		return reliable.ErrClosed
	}
	s.subs[sub] = struct{}{}
	s.active.Go(func() {
		sub.run()
		ended()
		s.mu.Lock()
		delete(s.subs, sub)
		s.mu.Unlock()
	})
	return nil
}

func (sub *subscription) run() {
	defer sub.stop()
	var handling, others sync.WaitGroup
	over := make(chan struct{})
	others.Go(func() { sub.keepAlive(over) })
	for range sub.s.concurrency {
		handling.Go(func() {
			for msg := range sub.queue {
				sub.deliver(msg)
				sub.release(msg)
			}
		})
	}
	sub.fetchAll()
	close(sub.silent)
	close(sub.queue)
	handling.Wait()
	close(over)
	others.Wait()
	close(sub.out)
}

// fetchAll fetches until the subscription ends.
func (sub *subscription) fetchAll() {
	var p *puller
	defer func() {
		if p != nil {
			p.close()
		}
	}()
	wait := sub.s.b.reconnectMin
	for sub.ctx.Err() == nil {
		if !sub.nc.IsConnected() { // a question would be kept, and asked when nobody waits for its answer any more
			select {
			case <-sub.again:
			case <-sub.ctx.Done():
			}
			continue
		}
		err := sub.fetch(&p)
		if err == nil {
			wait = sub.s.b.reconnectMin
			continue
		}
		if p != nil {
			p.close()
			p = nil
		}
		if errors.Is(err, errReconnected) || sub.ctx.Err() != nil {
			continue
		}
		sub.s.b.logger.LogAttrs(sub.ctx, slog.LevelWarn, "nats fetch failed",
			slog.String("consumer", sub.consumer), slog.Any("error", err))
		pause(sub.ctx, wait)
		wait = min(2*wait, sub.s.b.reconnectMax)
		if errors.Is(err, errNoConsumer) {
			sub.revive()
		}
	}
}

// fetch asks once for as many messages as there is room for.
func (sub *subscription) fetch(p **puller) (err error) {
	room := sub.takeRoom()
	if room == 0 {
		return nil
	}
	got := 0
	defer func() {
		for range room - got {
			sub.room <- struct{}{}
		}
	}()
	if *p == nil {
		subject := sub.s.b.apiPrefix() + "CONSUMER.MSG.NEXT." + sub.stream + "." + sub.consumer
		if *p, err = newPuller(sub.nc, subject, sub.s.prefetch); err != nil {
			*p = nil
			return err
		}
	}
	got, err = (*p).pull(room, sub.ctx.Done(), sub.again, func(msg *nats.Msg) {
		sub.mu.Lock()
		sub.held[msg] = struct{}{}
		sub.mu.Unlock()
		sub.queue <- msg // has room for all that may be held
	})
	return err
}

// takeRoom waits until one message more may be held, and returns how many may; 0 once the subscription has ended.
func (sub *subscription) takeRoom() int {
	select {
	case <-sub.ctx.Done():
		return 0
	case <-sub.room:
	}
	for n := 1; ; n++ {
		select {
		case <-sub.room:
		default:
			return n
		}
	}
}

// revive makes the consumer again.
func (sub *subscription) revive() {
	ctx, cancel := context.WithTimeout(sub.ctx, sub.s.b.confirmTimeout)
	defer cancel()
	if err := sub.makeConsumer(ctx); err != nil {
		sub.s.b.logger.LogAttrs(ctx, slog.LevelWarn, "nats consumer not made again",
			slog.String("consumer", sub.consumer), slog.Any("error", err))
	}
}

// deliver brings one message to the handler and tells the server what came of it. An ack that does not reach the server
// leads to a redelivery.
func (sub *subscription) deliver(msg *nats.Msg) {
	if sub.ctx.Err() != nil {
		sub.giveBack(msg, 0)
		return
	}
	wm := Unmarshal(msg.Header, msg.Data)
	ctx, cancel := context.WithCancel(sub.caller) // Close leaves a handler the time to finish
	defer cancel()
	wm.SetContext(ctx)
	select {
	case sub.out <- wm:
	case <-sub.ctx.Done():
		sub.giveBack(msg, 0)
		return
	}

	ending := sub.ctx.Done()
	var grace <-chan time.Time
	for {
		select {
		case <-wm.Acked():
			ack(sub.nc, msg)
			return
		case <-wm.Nacked():
			sub.giveBack(msg, sub.s.nackDelay(deliveries(msg)))
			return
		case <-ending:
			ending = nil
			timer := time.NewTimer(sub.s.closeTimeout)
			defer timer.Stop()
			grace = timer.C
		case <-grace:
			sub.giveBack(msg, 0)
			return
		}
	}
}

// giveBack tells the server that the message was not handled. Once the subscription ends it waits until nothing is asked
// for any more: the message would be the answer to a question whose inbox is about to be forgotten, and then count as
// delivered until the ack wait.
func (sub *subscription) giveBack(msg *nats.Msg, delay time.Duration) {
	if sub.ctx.Err() != nil {
		<-sub.silent
	}
	nak(sub.nc, msg, delay)
}

func deliveries(msg *nats.Msg) int {
	about, err := msg.Metadata()
	if err != nil {
		return 1
	}
	return int(about.NumDelivered) //nolint:gosec // a count of deliveries
}

func (sub *subscription) release(msg *nats.Msg) {
	sub.mu.Lock()
	delete(sub.held, msg)
	sub.mu.Unlock()
	sub.room <- struct{}{}
}

// keepAlive restarts the ack wait of what is held, so that it ends only for a process that does not run.
func (sub *subscription) keepAlive(over <-chan struct{}) {
	ticker := time.NewTicker(sub.s.ackWait / 3)
	defer ticker.Stop()
	for {
		select {
		case <-over:
			return
		case <-ticker.C:
		}
		sub.mu.Lock()
		held := make([]*nats.Msg, 0, len(sub.held))
		for msg := range sub.held {
			held = append(held, msg)
		}
		sub.mu.Unlock()
		for _, msg := range held {
			inProgress(sub.nc, msg) // changes nothing of one that was acked meanwhile
		}
	}
}
