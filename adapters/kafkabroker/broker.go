package kafkabroker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillmq/waybill/reliable"
)

var (
	_ reliable.Publisher     = (*Broker)(nil)
	_ reliable.ConfirmSource = (*Broker)(nil)
	_ reliable.Bounded       = (*Broker)(nil)
	_ reliable.Limited       = (*Broker)(nil)
	_ reliable.Pinger        = (*Broker)(nil)
)

// Broker publishes to Kafka. It is safe for concurrent use; Receive has one caller. It connects when it is first used, and
// again by itself whenever that is needed, until Close.
type Broker struct {
	settings

	closing   chan struct{} // closed when Close begins
	aloneSlot chan struct{} // capacity 1: one attempt at a time travels alone
	closeOnce sync.Once
	calls     sync.WaitGroup // of what uses a client
	grounded  chan struct{}  // closed when Close has ended all calls: nothing more is handed over

	mu     sync.Mutex
	closed bool
	// main is what everything but a lone attempt goes through, alone what those go through.
	main, alone link
	window      window
}

// link is a client with what is known of it. It belongs to the Broker's mu.
type link struct {
	client *kgo.Client // nil until first used
	sound  bool        // some broker answered, and nothing was left without an answer since
}

// New returns a Broker for the cluster that the brokers given (host:port) belong to. It does no I/O and starts no goroutine;
// the brokers need not be up. Errors are [reliable.ErrInvalid], all of them joined. Whoever makes a Broker closes it.
func New(brokers []string, opts ...Option) (*Broker, error) {
	s := defaults(brokers)
	for _, opt := range opts {
		opt(&s)
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("kafkabroker: new: %w", err)
	}
	return start(s), nil
}

func start(s settings) *Broker {
	return &Broker{
		settings:  s,
		closing:   make(chan struct{}),
		aloneSlot: make(chan struct{}, 1),
		grounded:  make(chan struct{}),
		window:    newWindow(s.window),
	}
}

// Publish implements [reliable.Publisher]. It waits while the window is full or no broker can be reached. What it hands
// over is the client's: batched, and sent again by the client until there is a verdict.
func (b *Broker) Publish(ctx context.Context, batch []reliable.Attempt) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("kafkabroker: publish: %w", err)
	}
	if err := b.enter(); err != nil {
		return 0, fmt.Errorf("kafkabroker: publish: %w", err)
	}
	defer b.calls.Done()
	for handed := 0; handed < len(batch); {
		n, err := b.handOver(ctx, batch[handed:])
		handed += n
		if err != nil {
			return handed, fmt.Errorf("kafkabroker: publish: %w", err)
		}
	}
	return len(batch), nil
}

// enter keeps the clients open until calls.Done.
func (b *Broker) enter() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return reliable.ErrClosed
	}
	b.calls.Add(1)
	return nil
}

// handOver hands over as many of the attempts as the window has room for, at least one, either one that goes alone or only
// such as do not.
func (b *Broker) handOver(ctx context.Context, batch []reliable.Attempt) (int, error) {
	through := &b.main
	if batch[0].Alone {
		through = &b.alone
	}
	client, err := b.reach(ctx, through)
	if err != nil {
		return 0, err
	}
	n := 1
	if batch[0].Alone {
		select {
		case b.aloneSlot <- struct{}{}:
		case <-b.closing:
			return 0, reliable.ErrClosed
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	} else {
		for n < len(batch) && !batch[n].Alone {
			n++
		}
	}
	n, err = b.reserve(ctx, n)
	if err != nil {
		if batch[0].Alone {
			<-b.aloneSlot
		}
		return 0, err
	}
	flights := make([]flight, n)
	for i := range flights {
		flights[i].begin(b, through, &batch[i])
	}
	b.depart(flights)
	for i := range flights {
		if f := &flights[i]; f.refused == nil {
			client.Produce(context.Background(), &f.record, f.land)
		}
	}
	return n, nil
}

// reach returns the link's client once some broker has answered.
func (b *Broker) reach(ctx context.Context, through *link) (*kgo.Client, error) {
	for failures := 0; ; failures++ {
		client, sound, err := b.clientOf(through)
		if err != nil || sound {
			return client, err
		}
		client, err = b.probe(ctx, through, client)
		if err == nil {
			return client, nil
		}
		if failures == 0 {
			b.logger.Warn("kafkabroker: no broker can be reached, will try again", "error", err)
		}
		timer := time.NewTimer(backoff(failures))
		select {
		case <-timer.C:
		case <-b.closing:
			timer.Stop()
			return nil, reliable.ErrClosed
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("%w, while no broker can be reached: %w", ctx.Err(), err)
		}
	}
}

// clientOf makes a client when it is first needed.
func (b *Broker) clientOf(through *link) (client *kgo.Client, sound bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if through.client == nil {
		if through.client, err = b.newClient(); err != nil {
			return nil, false, err
		}
	}
	return through.client, through.sound, nil
}

// probe asks the brokers that are known, one after the other, until one answers, and for the producer id without which
// nothing can be written. It returns the client to use.
func (b *Broker) probe(ctx context.Context, through *link, client *kgo.Client) (*kgo.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, b.confirmTimeout)
	defer cancel()
	defer b.untilClosing(cancel)()
	err := client.Ping(ctx)
	if err == nil {
		_, _, err = client.ProducerID(ctx)
	}
	var refused *kerr.Error
	if errors.As(err, &refused) && !refused.Retriable {
		return b.replace(through, client)
	}
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if through.client == client {
		through.sound = true
	}
	return client, nil
}

// replace puts a new client in the place of one that was refused a producer id, which it would never ask for again. What
// is handed to the new one is answered by the cluster anew.
func (b *Broker) replace(through *link, refused *kgo.Client) (*kgo.Client, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if through.client == refused {
		client, err := b.newClient()
		if err != nil {
			return nil, err
		}
		through.client, through.sound = client, false
		b.calls.Go(refused.Close)
	}
	return through.client, nil
}

// untilClosing calls end when Close begins, or stop is called.
func (b *Broker) untilClosing(end func()) (stop func()) {
	stopped := make(chan struct{})
	b.calls.Go(func() {
		select {
		case <-b.closing:
			end()
		case <-stopped:
		}
	})
	return func() { close(stopped) }
}

// Ping reports whether a broker can be used: nil after a round trip; otherwise why none answered, ctx's error, or
// [reliable.ErrClosed].
func (b *Broker) Ping(ctx context.Context) error {
	if err := b.enter(); err != nil {
		return fmt.Errorf("kafkabroker: ping: %w", err)
	}
	defer b.calls.Done()
	client, _, err := b.clientOf(&b.main)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, b.confirmTimeout)
		defer cancel()
		defer b.untilClosing(cancel)()
		err = client.Ping(ctx)
	}
	if err != nil {
		return fmt.Errorf("kafkabroker: ping: %w: check the addresses, the login, and that a broker is up", err)
	}
	return nil
}

// Close ends the Broker: calls that wait end with [reliable.ErrClosed], what is in flight gets its verdict within the close
// timeout or is Unknown, and Receive returns io.EOF after the last confirm. It may be called again.
func (b *Broker) Close() error {
	b.closeOnce.Do(func() {
		b.mu.Lock()
		b.closed = true
		b.window.wake()
		b.mu.Unlock()
		close(b.closing)
		b.calls.Wait()
		close(b.grounded)
		b.awaitLandings()
		b.mu.Lock()
		clients := []*kgo.Client{b.main.client, b.alone.client}
		b.mu.Unlock()
		for _, client := range clients {
			if client != nil {
				client.Close()
			}
		}
		b.window.announce()
	})
	return nil
}

// awaitLandings waits for what is in flight, no longer than the close timeout.
func (b *Broker) awaitLandings() {
	b.mu.Lock()
	empty := b.window.whenEmpty()
	b.mu.Unlock()
	timer := time.NewTimer(b.closeTimeout)
	defer timer.Stop()
	select {
	case <-empty:
	case <-timer.C:
		b.logger.Warn("kafkabroker: closing before all verdicts have come")
	}
}
