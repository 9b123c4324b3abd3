package sqlbroker

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

var (
	_ reliable.Publisher     = (*Broker)(nil)
	_ reliable.ConfirmSource = (*Broker)(nil)
	_ reliable.Bounded       = (*Broker)(nil)
	_ reliable.Limited       = (*Broker)(nil)
)

const (
	// chunk is how many attempts are encoded and handed over at a time.
	chunk = 64
	// slack is what MaxConfirmWait adds to the confirm timeout for giving up a connection on a busy machine.
	slack = 2 * time.Second
)

// Broker publishes to tables. It is safe for concurrent use; Receive has one reader at a time.
type Broker struct {
	kind    Dialect
	dialect dialect
	tables  tables
	db      *sql.DB
	settings

	life context.Context //nolint:containedctx // what writers and connect do ends with Close, not with a call
	end  context.CancelFunc
	work sync.WaitGroup // writers, and connect
	turn chan struct{}  // a token for each transaction under way

	mu        sync.Mutex
	closed    bool
	reachable bool // as far as the last transaction knew
	lastErr   error
	facts     facts
	mover     reliable.Mover // nil unless joined
	same      sameness       // whether it is in this database
	trying    bool           // connect is running
	wanting   int            // how many wait until the database can be reached
	lanes     map[string]*lane
	free      int // slots of the window
	inFlight  int // handed over, not confirmed
	confirms  []reliable.Confirm
	changed   chan struct{} // closed and replaced when a slot is free, the database can be reached, or all is over
	waiting   int           // how many wait for that
	ready     chan struct{} // a note that confirms are there, or all is over
}

// New returns a broker on db, which the caller keeps and closes, after the broker. It does no I/O and starts nothing;
// goroutines run while there is something to store. Whoever makes a broker closes it.
func New(kind Dialect, db *sql.DB, opts ...Option) (*Broker, error) {
	s, err := configure(opts)
	if err != nil {
		return nil, fmt.Errorf("sqlbroker: new: %w", err)
	}
	if dialectOf(kind) == nil {
		return nil, fmt.Errorf("sqlbroker: new: %w", reliable.Invalid("kind", "is %d, which is none of the constants", kind))
	}
	if db == nil {
		return nil, fmt.Errorf("sqlbroker: new: %w", reliable.Invalid("db", "is nil"))
	}
	return prepare(kind, db, s), nil
}

func prepare(kind Dialect, db *sql.DB, s settings) *Broker {
	b := &Broker{
		kind:     kind,
		dialect:  dialectOf(kind),
		db:       db,
		settings: s,
		turn:     make(chan struct{}, s.writers),
		lastErr:  errNotYet,
		lanes:    make(map[string]*lane),
		free:     s.window,
		changed:  make(chan struct{}),
		ready:    make(chan struct{}, 1),
	}
	b.tables = b.dialect.tables(s.prefix)
	b.life, b.end = context.WithCancel(context.Background())
	return b
}

// Publish implements [reliable.Publisher]. It waits while the window is full or the database cannot be reached. What is
// handed over is stored by a goroutine of its topic, in the order of hand-over; an attempt that is Alone has a
// transaction to itself.
func (b *Broker) Publish(ctx context.Context, batch []reliable.Attempt) (int, error) {
	handed := 0
	for handed < len(batch) {
		n, limits, err := b.reserve(ctx, min(chunk, len(batch)-handed))
		if err != nil {
			return handed, err
		}
		fs := make([]flight, n)
		overdue := time.Now().Add(b.confirmTimeout)
		for i := range fs {
			fs[i].overdue = overdue
			b.encode(&fs[i], &batch[handed+i], limits)
		}
		if err := b.handOver(fs); err != nil {
			return handed, err
		}
		handed += n
	}
	return handed, nil
}

// reserve takes up to n slots of the window, at least one, once the database can be reached.
func (b *Broker) reserve(ctx context.Context, n int) (int, reliable.Limits, error) {
	if err := ctx.Err(); err != nil {
		return 0, reliable.Limits{}, fmt.Errorf("sqlbroker: publish: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.closed:
			return 0, reliable.Limits{}, fmt.Errorf("sqlbroker: publish: %w", reliable.ErrClosed)
		case b.reachable && b.free > 0:
			n = min(n, b.free)
			b.free -= n
			return n, b.limits(), nil
		}
		if err := b.await(ctx); err != nil {
			return 0, reliable.Limits{}, fmt.Errorf("sqlbroker: publish: %w", err)
		}
	}
}

// encode fills f from an attempt. The payload is shared until the confirm.
func (b *Broker) encode(f *flight, a *reliable.Attempt, limits reliable.Limits) {
	f.id, f.fence, f.topic, f.key, f.alone = a.ID, a.Fence, a.Topic, a.Key, a.Alone
	if f.refused = limits.Check(&a.Envelope); f.refused != nil {
		return
	}
	if f.refused = b.tables.check(a.Topic); f.refused != nil {
		return
	}
	msg := a.Message()
	metadata, err := json.Marshal(msg.Metadata)
	if err != nil {
		f.refused = err
		return
	}
	f.payload, f.metadata = a.Payload, string(metadata)
	f.size = len(f.id) + len(f.payload) + len(f.metadata)
}

// handOver gives flights, whose slots are reserved, to the writers of their topics.
func (b *Broker) handOver(fs []flight) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		b.free += len(fs)
		return fmt.Errorf("sqlbroker: publish: %w", reliable.ErrClosed)
	}
	b.inFlight += len(fs)
	for i := range fs {
		f := &fs[i]
		if f.refused != nil {
			b.confirm(f, reliable.Rejected, f.refused, false)
			continue
		}
		l := b.lanes[f.topic]
		if l == nil {
			l = &lane{topic: f.topic}
			b.lanes[f.topic] = l
			b.work.Go(func() { b.write(l) })
		}
		l.queue = append(l.queue, f)
	}
	return nil
}

// MaxConfirmWait implements [reliable.Bounded]: the confirm timeout and two seconds for giving up the connection.
func (b *Broker) MaxConfirmWait() time.Duration { return b.confirmTimeout + slack }

// Limits implements [reliable.Limited]. Those of topics are what names of tables have room for.
func (b *Broker) Limits() reliable.Limits {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.limits()
}

func (b *Broker) limits() reliable.Limits {
	limits := reliable.DefaultLimits()
	limits.Payload = b.maxPayload
	if most := b.facts.maxPayload; most > 0 {
		limits.Payload = min(limits.Payload, most)
	}
	limits.Topic = maxTableName - len(b.prefix) - len(offsetsInfix)
	return limits
}

// Check returns the [*reliable.InvalidError] for what this broker would reject of env: sizes, and a topic that can be no
// table. It does no I/O.
func (b *Broker) Check(env *reliable.Envelope) error {
	limits := b.Limits()
	if err := limits.Check(env); err != nil {
		return err
	}
	return b.tables.check(env.Topic)
}

// Ping returns nil once the database answers, and says what is wrong otherwise. It waits no longer than ctx.
func (b *Broker) Ping(ctx context.Context) error {
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return fmt.Errorf("sqlbroker: ping: %w", reliable.ErrClosed)
	}
	if _, err := b.look(ctx); err != nil {
		return fmt.Errorf("sqlbroker: ping: %w", err)
	}
	return nil
}

// Close ends at once and leaves the *sql.DB open. What is in flight is unknown, whatever its transaction may come to;
// whoever wants to know receives all confirms first. What was not received yet can be received still, and then io.EOF.
// Subscribers live on. Closing again does nothing.
func (b *Broker) Close() error {
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		b.end()
		b.wake()
	}
	b.mu.Unlock()
	b.work.Wait()
	signal(b.ready)
	return nil
}
