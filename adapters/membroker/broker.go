package membroker

import (
	"context"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/internal/wmpublisher"
	"github.com/waybillmq/waybill/reliable"
)

// Broker is the server, and a connection to it. It is safe for concurrent use.
type Broker struct {
	settings

	// scriptTurn makes asking the script and doing as it says one step. It is taken before mu, and never while holding it:
	// a script may call the broker's controls.
	scriptTurn sync.Mutex

	mu       sync.Mutex
	topics   map[string]*topic
	conns    []*Conn // open ones, in the order of their opening
	opened   int
	asked    int                 // how often the script was asked
	askedFor map[reliable.ID]int // and for each ID
	schedule schedule
	shelf    shelf     // what was scheduled and is not due
	stalled  []*flight // handed over while blocked, in order
	records  []Record
	counts   Counts
	down     bool
	blocked  bool
	closed   bool

	scheduled int  // how often scripts of schedulers were asked
	keptCount int  // how many messages were ever on the shelf
	serving   gate // opened when an outage or a blockade ends

	own        *Conn
	subscriber *Subscriber
	life       context.Context //nolint:containedctx // subscriptions end with the broker, whoever began them
	end        context.CancelFunc
	consumers  sync.WaitGroup
}

var (
	_ reliable.Publisher     = (*Broker)(nil)
	_ reliable.ConfirmSource = (*Broker)(nil)
	_ reliable.Bounded       = (*Broker)(nil)
	_ reliable.Limited       = (*Broker)(nil)
	_ message.Subscriber     = (*Broker)(nil)
)

// New returns a broker that is up. It panics with all [reliable.InvalidError]s joined if options make no sense, which in a
// test is a mistake of the test.
func New(opts ...Option) *Broker {
	b := &Broker{
		settings: defaults(),
		topics:   make(map[string]*topic),
		askedFor: make(map[reliable.ID]int),
	}
	for _, opt := range opts {
		opt(&b.settings)
	}
	if err := b.check(); err != nil {
		panic(err)
	}
	b.life, b.end = context.WithCancel(context.Background())
	b.own = b.Connect()
	b.subscriber = b.Subscriber("")
	return b
}

// ConnOption makes a connection differ from what the broker's options say.
type ConnOption func(*Conn)

// ConnWindow is [WithWindow] for one connection; 0 leaves the broker's.
func ConnWindow(attempts int) ConnOption {
	return func(c *Conn) {
		if attempts > 0 {
			c.window = attempts
		}
	}
}

// ConnConfirmTimeout is [WithConfirmTimeout] for one connection; 0 leaves the broker's.
func ConnConfirmTimeout(timeout time.Duration) ConnOption {
	return func(c *Conn) {
		if timeout > 0 {
			c.confirmTimeout = timeout
		}
	}
}

// Connect opens one more connection, with a window and confirms of its own. On a closed broker it is closed.
func (b *Broker) Connect(opts ...ConnOption) *Conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opened++
	c := &Conn{b: b, number: b.opened, window: b.window, confirmTimeout: b.confirmTimeout, closed: b.closed}
	for _, opt := range opts {
		opt(c)
	}
	if !c.closed {
		b.conns = append(b.conns, c)
	}
	return c
}

// Publish hands batch over on the broker's own connection, see [Conn.Publish].
func (b *Broker) Publish(ctx context.Context, batch []reliable.Attempt) (int, error) {
	return b.own.Publish(ctx, batch)
}

// Receive returns confirms of the broker's own connection, see [Conn.Receive].
func (b *Broker) Receive(ctx context.Context, limit int) ([]reliable.Confirm, error) {
	return b.own.Receive(ctx, limit)
}

// Subscribe consumes topic in the group "", see [Subscriber.Subscribe]; Close of the broker ends it.
func (b *Broker) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	return b.subscriber.Subscribe(ctx, topic)
}

// MaxConfirmWait is the confirm timeout.
func (b *Broker) MaxConfirmWait() time.Duration { return b.confirmTimeout }

// Limits are those of [WithLimits].
func (b *Broker) Limits() reliable.Limits { return b.limits }

// Watermill returns a Watermill publisher on a connection of its own. Its Close closes that connection only.
func (b *Broker) Watermill() message.Publisher {
	c := b.Connect()
	return wmpublisher.New(c, c, c.Close, wmpublisher.WithConfirmTimeout(b.confirmTimeout+time.Second))
}

// Close closes all connections, then all subscriptions and waits for them to end. What was in flight is Unknown.
func (b *Broker) Close() error {
	b.mu.Lock()
	b.advance()
	if !b.closed {
		b.closed = true
		b.end()
		b.serving.open()
		for len(b.conns) > 0 {
			b.conns[0].close()
		}
	}
	b.mu.Unlock()
	b.consumers.Wait()
	return nil
}

// Down begins an outage: every connection dies, what is in flight is Unknown with [reliable.ErrConnectionLost], and
// Publish waits for Up. What is stored stays stored.
func (b *Broker) Down() { b.disconnect(true) }

// Crash kills every connection, as a broker does that dies and is back at once. What is stored stays stored.
func (b *Broker) Crash() { b.disconnect(false) }

func (b *Broker) disconnect(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.advance()
	b.down = b.down || down
	for _, c := range b.conns {
		c.lose(now, everything, errLost)
	}
}

// Up ends an outage.
func (b *Broker) Up() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = false
	b.serving.open()
	for _, c := range b.conns {
		c.writable.open()
	}
}

// Block makes the broker read nothing more, as RabbitMQ does at a memory alarm: connections take attempts up to their
// window, and none is stored or answered before Unblock. What the confirm timeout ends before that is Unknown, not stored.
func (b *Broker) Block() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance()
	b.blocked = true
}

// Unblock serves what waited, in the order of its hand-over.
func (b *Broker) Unblock() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.advance()
	b.blocked = false
	b.serving.open()
	stalled := b.stalled
	b.stalled = nil
	for _, f := range stalled {
		if !f.answered {
			b.process(now, f)
		}
	}
}

// Declare makes topics routable.
func (b *Broker) Declare(topics ...string) { b.setTopics(topics, func(t *topic) { t.declared = true }) }

// Undeclare makes topics unroutable, and keeps what they hold.
func (b *Broker) Undeclare(topics ...string) {
	b.setTopics(topics, func(t *topic) { t.declared = false })
}

// Full makes topics refuse (Nacked) what is published to them, or take it again.
func (b *Broker) Full(full bool, topics ...string) {
	b.setTopics(topics, func(t *topic) { t.full = full })
}

func (b *Broker) setTopics(names []string, change func(*topic)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance()
	for _, name := range names {
		t := b.topics[name]
		if t == nil {
			t = &topic{name: name, declared: !b.strict}
			b.topics[name] = t
		}
		change(t)
	}
}
