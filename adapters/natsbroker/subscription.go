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

// fetchWait is how long the server keeps a question for messages open.
const fetchWait = 30 * time.Second

// subscription is one call of Subscribe. A goroutine fetches messages as far as there is room for them, others bring them
// to the handler, and one tells the server that the process which holds them is alive.
type subscription struct {
	s      *Subscriber
	js     jetstream.JetStream
	stream string
	config jetstream.ConsumerConfig

	consumer jetstream.Consumer // the fetching goroutine's, once started
	out      chan *message.Message
	queue    chan jetstream.Msg
	room     chan struct{} // a token for each message that may be held
	caller   context.Context
	ctx      context.Context //nolint:containedctx // ends with the caller's, and with Close
	stop     context.CancelFunc

	mu        sync.Mutex
	held      map[jetstream.Msg]struct{}
	stopFetch context.CancelFunc
}

// makeConsumer creates the durable consumer, or brings the one that exists up to date.
func (sub *subscription) makeConsumer(ctx context.Context) (err error) {
	sub.consumer, err = sub.js.CreateOrUpdateConsumer(ctx, sub.stream, sub.config)
	return err
}

func (sub *subscription) start(caller context.Context) error {
	s := sub.s
	sub.out = make(chan *message.Message)
	sub.queue = make(chan jetstream.Msg, s.prefetch)
	sub.room = make(chan struct{}, s.prefetch)
	for range s.prefetch {
		sub.room <- struct{}{}
	}
	sub.held = make(map[jetstream.Msg]struct{}, s.prefetch)
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
	close(sub.queue)
	handling.Wait()
	close(over)
	others.Wait()
	close(sub.out)
}

// fetchAll fetches until the subscription ends.
func (sub *subscription) fetchAll() {
	wait := sub.s.b.reconnectMin
	for {
		room := sub.takeRoom()
		if room == 0 {
			return
		}
		got, err := sub.fetch(room)
		for range room - got {
			sub.room <- struct{}{}
		}
		if err == nil {
			wait = sub.s.b.reconnectMin
			continue
		}
		if sub.ctx.Err() != nil {
			return
		}
		sub.s.b.logger.LogAttrs(sub.ctx, slog.LevelWarn, "nats fetch failed",
			slog.String("consumer", sub.config.Durable), slog.Any("error", err))
		pause(sub.ctx, wait)
		wait = min(2*wait, sub.s.b.reconnectMax)
		sub.revive(err)
	}
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

// fetch asks for messages once and returns how many came.
func (sub *subscription) fetch(limit int) (got int, err error) {
	ctx, cancel := context.WithTimeout(sub.ctx, fetchWait)
	defer cancel()
	sub.mu.Lock()
	sub.stopFetch = cancel
	sub.mu.Unlock()

	batch, err := sub.consumer.Fetch(limit, jetstream.FetchContext(ctx))
	if err != nil {
		return 0, err
	}
	for msg := range batch.Messages() {
		got++
		sub.mu.Lock()
		sub.held[msg] = struct{}{}
		sub.mu.Unlock()
		sub.queue <- msg // has room for all that may be held
	}
	if err = batch.Error(); errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return got, nil // the time is over, or a new connection was made
	}
	return got, err
}

func (sub *subscription) giveUpFetch() {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	if sub.stopFetch != nil {
		sub.stopFetch()
	}
}

// revive makes the consumer again if it is gone.
func (sub *subscription) revive(cause error) {
	if !errors.Is(cause, jetstream.ErrConsumerDeleted) && !errors.Is(cause, jetstream.ErrConsumerNotFound) &&
		!errors.Is(cause, nats.ErrNoResponders) {
		return
	}
	ctx, cancel := context.WithTimeout(sub.ctx, sub.s.b.confirmTimeout)
	defer cancel()
	kept := sub.consumer
	if err := sub.makeConsumer(ctx); err != nil {
		sub.consumer = kept
		sub.s.b.logger.LogAttrs(ctx, slog.LevelWarn, "nats consumer not made again",
			slog.String("consumer", sub.config.Durable), slog.Any("error", err))
	}
}

// deliver brings one message to the handler and tells the server what came of it. An ack that does not reach the server
// leads to a redelivery.
func (sub *subscription) deliver(msg jetstream.Msg) {
	if sub.ctx.Err() != nil {
		_ = msg.Nak()
		return
	}
	wm := Unmarshal(msg.Headers(), msg.Data())
	ctx, cancel := context.WithCancel(sub.caller) // Close leaves a handler the time to finish
	defer cancel()
	wm.SetContext(ctx)
	select {
	case sub.out <- wm:
	case <-sub.ctx.Done():
		_ = msg.Nak()
		return
	}

	ending := sub.ctx.Done()
	var grace <-chan time.Time
	for {
		select {
		case <-wm.Acked():
			_ = msg.Ack()
			return
		case <-wm.Nacked():
			_ = msg.NakWithDelay(sub.s.nackDelay(deliveries(msg)))
			return
		case <-ending:
			ending = nil
			timer := time.NewTimer(sub.s.closeTimeout)
			defer timer.Stop()
			grace = timer.C
		case <-grace:
			_ = msg.Nak()
			return
		}
	}
}

func deliveries(msg jetstream.Msg) int {
	about, err := msg.Metadata()
	if err != nil {
		return 1
	}
	return int(about.NumDelivered) //nolint:gosec // a count of deliveries
}

func (sub *subscription) release(msg jetstream.Msg) {
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
		held := make([]jetstream.Msg, 0, len(sub.held))
		for msg := range sub.held {
			held = append(held, msg)
		}
		sub.mu.Unlock()
		for _, msg := range held {
			_ = msg.InProgress() // one that was acked meanwhile says so
		}
	}
}
