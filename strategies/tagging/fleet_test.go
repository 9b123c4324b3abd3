package tagging_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// process is one process of a simulated fleet: an Outbox with a way to the shared store and a connection to the shared
// broker of its own, both of which can be cut, which is what the death of a process looks like from the outside.
type process struct {
	*tagging.Outbox
	line *line
	conn *membroker.Conn

	cancel context.CancelFunc
	done   chan error
}

// newProcess makes a process that does not relay yet.
func newProcess(store *memstore.Store, broker *membroker.Broker, opts ...tagging.Option) (*process, error) {
	p := &process{line: &line{store: store}, conn: broker.Connect()}
	opts = append([]tagging.Option{tagging.WithLogger(slog.New(slog.DiscardHandler))}, opts...)
	outbox, err := tagging.New(p.line, p.conn, p.conn, opts...)
	p.Outbox = outbox
	return p, err
}

// start relays in the background.
func (p *process) start() {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.done = cancel, make(chan error, 1)
	go func() { p.done <- p.Run(ctx) }()
}

// stop ends the relay in order and returns what Run returned.
func (p *process) stop() error {
	p.cancel()
	return <-p.done
}

// crash ends the process without a goodbye: from now on nothing of it reaches the store or the broker, and no answer
// reaches it. What was in flight on its connection is Unknown to everybody.
func (p *process) crash() {
	p.line.dead.Store(true)
	_ = p.conn.Close()
	if p.cancel != nil {
		p.cancel()
	}
}

var errDead = errors.New("this process is dead")

// line is a process's way to the store. It has every ability of the store, can be cut, and counts what goes over it.
type line struct {
	store *memstore.Store
	dead  atomic.Bool
	seen  func(op string, leased []reliable.Attempt, asked time.Time) // leases that were granted; may be nil

	mu    sync.Mutex
	count map[string]int
}

var (
	_ reliable.Store       = (*line)(nil)
	_ reliable.Transactor  = (*line)(nil)
	_ reliable.Holder      = (*line)(nil)
	_ reliable.Compensator = (*line)(nil)
	_ reliable.Inspector   = (*line)(nil)
	_ reliable.Purger      = (*line)(nil)
	_ reliable.Elector     = (*line)(nil)
	_ reliable.Waker       = (*line)(nil)
	_ reliable.Checker     = (*line)(nil)
)

// counted returns how often an operation was asked for, all of them together for "".
func (l *line) counted(op string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, count := range l.count {
		if op == "" || op == name {
			n += count
		}
	}
	return n
}

func over[T any](l *line, op string, f func() (T, error)) (answer T, err error) {
	l.mu.Lock()
	if l.count == nil {
		l.count = make(map[string]int)
	}
	l.count[op]++
	l.mu.Unlock()
	var none T
	if l.dead.Load() {
		return none, errDead
	}
	if answer, err = f(); l.dead.Load() {
		return none, fmt.Errorf("%w: %w", reliable.ErrUnknown, errDead)
	}
	return answer, err
}

func overAll(l *line, op string, f func() error) error {
	_, err := over(l, op, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

func (l *line) leased(op string, asked time.Time, attempts []reliable.Attempt, err error) {
	if err == nil && l.seen != nil {
		l.seen(op, attempts, asked)
	}
}

func (l *line) leasedOf(asked time.Time, stored []reliable.Stored, err error) {
	var attempts []reliable.Attempt
	for i := range stored {
		if stored[i].Leased {
			attempts = append(attempts, stored[i].Attempt)
		}
	}
	l.leased("enqueue", asked, attempts, err)
}

func (l *line) Enqueue(ctx context.Context, req reliable.EnqueueRequest, envs ...reliable.Envelope) ([]reliable.Stored, error) {
	asked := time.Now()
	stored, err := over(l, "enqueue", func() ([]reliable.Stored, error) { return l.store.Enqueue(ctx, req, envs...) })
	l.leasedOf(asked, stored, err)
	return stored, err
}

func (l *line) Claim(ctx context.Context, req reliable.ClaimRequest) ([]reliable.Attempt, error) {
	asked := time.Now()
	attempts, err := over(l, "claim", func() ([]reliable.Attempt, error) { return l.store.Claim(ctx, req) })
	l.leased("claim", asked, attempts, err)
	return attempts, err
}

func (l *line) Settle(ctx context.Context, ss ...reliable.Settlement) ([]reliable.SettleResult, error) {
	return over(l, "settle", func() ([]reliable.SettleResult, error) { return l.store.Settle(ctx, ss...) })
}

func (l *line) Bind(tx any) (reliable.Enqueuer, error) {
	return over(l, "bind", func() (reliable.Enqueuer, error) { return l.store.Bind(tx) })
}

func (l *line) Begin(ctx context.Context, db any) (reliable.Tx, error) {
	tx, err := over(l, "begin", func() (reliable.Tx, error) { return l.store.Begin(ctx, db) })
	if err != nil {
		return nil, err
	}
	return &lineTx{Tx: tx, l: l}, nil
}

func (l *line) Hold(ctx context.Context, topic string, delay time.Duration) (reliable.Hold, error) {
	return over(l, "hold", func() (reliable.Hold, error) { return l.store.Hold(ctx, topic, delay) })
}

func (l *line) Holds(ctx context.Context) ([]reliable.Hold, error) {
	return over(l, "holds", func() ([]reliable.Hold, error) { return l.store.Holds(ctx) })
}

func (l *line) Probe(ctx context.Context, topic string, req reliable.ClaimRequest) ([]reliable.Attempt, error) {
	asked := time.Now()
	attempts, err := over(l, "probe", func() ([]reliable.Attempt, error) { return l.store.Probe(ctx, topic, req) })
	l.leased("probe", asked, attempts, err)
	return attempts, err
}

func (l *line) Unhold(ctx context.Context, topic string, limit int) (bool, error) {
	return over(l, "unhold", func() (bool, error) { return l.store.Unhold(ctx, topic, limit) })
}

func (l *line) FailHeld(ctx context.Context, topic string, req reliable.FailHeldRequest) (int, error) {
	return over(l, "fail held", func() (int, error) { return l.store.FailHeld(ctx, topic, req) })
}

func (l *line) ClaimFailed(ctx context.Context, req reliable.ClaimRequest, topics ...string) ([]reliable.Record, error) {
	return over(l, "claim failed", func() ([]reliable.Record, error) { return l.store.ClaimFailed(ctx, req, topics...) })
}

func (l *line) SettleCompensation(ctx context.Context, c reliable.Compensation) (reliable.SettleResult, error) {
	return over(l, "settle compensation", func() (reliable.SettleResult, error) { return l.store.SettleCompensation(ctx, c) })
}

func (l *line) Stats(ctx context.Context) ([]reliable.TopicStats, error) {
	return over(l, "stats", func() ([]reliable.TopicStats, error) { return l.store.Stats(ctx) })
}

func (l *line) Lookup(ctx context.Context, ids ...reliable.ID) ([]reliable.Record, error) {
	return over(l, "lookup", func() ([]reliable.Record, error) { return l.store.Lookup(ctx, ids...) })
}

func (l *line) Purge(ctx context.Context, status reliable.Status, olderThan time.Duration, limit int) (int, error) {
	return over(l, "purge", func() (int, error) { return l.store.Purge(ctx, status, olderThan, limit) })
}

func (l *line) Elect(ctx context.Context, chore, worker string, lease time.Duration) (bool, error) {
	return over(l, "elect", func() (bool, error) { return l.store.Elect(ctx, chore, worker, lease) })
}

func (l *line) Wake(ctx context.Context) error {
	return overAll(l, "wake", func() error { return l.store.Wake(ctx) })
}

func (l *line) Check(ctx context.Context) error {
	return overAll(l, "check", func() error { return l.store.Check(ctx) })
}

// AwaitWake is no question to the database, and is not counted.
func (l *line) AwaitWake(ctx context.Context) error { return l.store.AwaitWake(ctx) }

// lineTx is a transaction over a line. It is rolled back by the database when the process dies.
type lineTx struct {
	reliable.Tx
	l *line
}

func (tx *lineTx) Enqueue(ctx context.Context, req reliable.EnqueueRequest, envs ...reliable.Envelope) ([]reliable.Stored, error) {
	asked := time.Now()
	stored, err := over(tx.l, "enqueue", func() ([]reliable.Stored, error) { return tx.Tx.Enqueue(ctx, req, envs...) })
	tx.l.leasedOf(asked, stored, err)
	return stored, err
}

func (tx *lineTx) SettleCompensation(ctx context.Context, c reliable.Compensation) (reliable.SettleResult, error) {
	settler, ok := reliable.Ability[reliable.CompensationSettler](tx.Tx)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	return over(tx.l, "settle compensation in tx", func() (reliable.SettleResult, error) { return settler.SettleCompensation(ctx, c) })
}

func (tx *lineTx) Commit(ctx context.Context) error {
	return overAll(tx.l, "commit", func() error { return tx.Tx.Commit(ctx) })
}
