//go:build services

package faults

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// childVariable holds the job of a child process: this test binary, run again.
const childVariable = "WAYBILL_FAULTS_CHILD"

// point is a place in a message's way at which a child stands still, to be killed there.
type point string

const (
	beforeCommit  point = "before commit"  // inserted, not committed
	beforePublish point = "before publish" // committed, nothing sent
	beforeConfirm point = "before confirm" // sent, the confirm not taken
	beforeSettle  point = "before settle"  // confirmed, not recorded
	nowhere       point = "nowhere"        // runs until it is stopped
)

// childConfirm is how long a child waits for a broker's confirm. With two seconds of margin it is below crashLease, and a busy
// machine keeps to it.
const childConfirm = 4 * time.Second

// job is what a child is told.
type job struct {
	Database database
	AMQPURL  string
	Prefix   string // of its orders' ids
	Orders   int    // how many it places; then it goes on relaying
	Stand    point
	StopAt   int // in place of standing still for good, it stops itself (SIGSTOP) the n-th time that it comes to Stand
	Settled  int // how many orders are placed, and settled, before it counts that; it places no more than twice as many before it stops
	Lease    time.Duration
	Sweep    bool // makes single passes in place of running

	Compensate bool // runs handlers, and places nothing
	InTx       bool // their effect is in the transaction of the status

	Shop *shop // where its orders are, if not in Database

	SQLBroker string // joinedBroker or apartBroker for a broker in Database, in place of RabbitMQ

	Delayed *delayedPart // plays a part of a delayed check, in place of all that is above
	Pausing *pausing     // places orders with checks, in place of all that is above
	Supply  *supply      // places orders without an end, in place of all that is above
}

// runAsChild does the job in the environment, if there is one, and does not return then.
func runAsChild() bool {
	if os.Getenv(natsVariable) != "" {
		serveNATS()
	}
	text := os.Getenv(childVariable)
	if text == "" {
		return false
	}
	var j job
	err := json.Unmarshal([]byte(text), &j)
	if err == nil {
		err = j.run(context.Background())
	}
	fmt.Println("ended:", err)
	os.Exit(3)
	return true
}

func (j job) run(ctx context.Context) error {
	if j.Delayed != nil {
		return j.Delayed.play(ctx)
	}
	if j.Pausing != nil {
		return j.Pausing.run(ctx)
	}
	if j.Supply != nil {
		return j.Supply.run(ctx)
	}
	db, store, err := j.Database.open(ctx)
	if err != nil {
		return err
	}
	if j.Compensate {
		return j.compensate(ctx, db, store)
	}
	logger := slog.New(slog.DiscardHandler)
	broker, err := j.connect(logger)
	if err != nil {
		return err
	}
	if j.Shop != nil {
		return j.elsewhere(ctx, store, broker)
	}
	stand := newStandstill(j)
	options := []tagging.Option{tagging.WithLease(j.Lease), tagging.WithLogger(logger), tagging.WithoutRetention()}
	if j.Sweep {
		options = append(options, tagging.Classic(classicInterval, 3))
	}
	outbox, err := tagging.New(standingStore{store, stand}, standingPublisher{broker, stand}, standingConfirms{broker, stand}, options...)
	if err != nil {
		return err
	}
	if j.Sweep {
		return sweep(ctx, outbox)
	}
	relayed := make(chan error, 1)
	go func() { relayed <- outbox.Run(ctx) }()
	for !outboxRuns(outbox) {
		time.Sleep(time.Millisecond)
	}
	fmt.Println("relays")
	r := &rig{db: db, kind: j.Database.kind(), outbox: outbox, topic: queue}
	for i := range j.Orders {
		if j.Settled > 0 && i == j.Settled {
			if err := awaitSettled(ctx, db); err != nil {
				return err
			}
			stand.counts.Store(true)
		}
		if j.Settled > 0 && i == 2*j.Settled {
			<-stand.resumed
		}
		if err := r.place(ctx, fmt.Sprintf("%s-%d", j.Prefix, i)); err != nil {
			return err
		}
	}
	fmt.Println("placed")
	return <-relayed
}

// How a child's broker in its database works.
const (
	joinedBroker = "joined" // in the outbox's transactions
	apartBroker  = "apart"  // in its own
)

func (j job) connect(logger *slog.Logger) (connection, error) {
	switch j.SQLBroker {
	case joinedBroker:
		return j.Database.connectSQL(sqlbroker.WithConfirmTimeout(childConfirm))
	case apartBroker:
		return j.Database.connectSQL(sqlbroker.WithConfirmTimeout(childConfirm), sqlbroker.WithoutHandOver())
	}
	return rabbitmqbroker.NewFromURL(j.AMQPURL, rabbitmqbroker.WithQuorumQueues(), rabbitmqbroker.WithLogger(logger),
		rabbitmqbroker.WithConfirmTimeout(childConfirm), rabbitmqbroker.WithBlockedTimeout(childConfirm), rabbitmqbroker.WithoutDeclaring())
}

// sweep makes single passes, one after the other, as a scheduler outside would.
func sweep(ctx context.Context, outbox *tagging.Outbox) error {
	fmt.Println("sweeping")
	for {
		if _, err := outbox.SweepOnce(ctx); err != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// outboxRuns reports whether the relay has begun: what is placed before is stored without a lease.
func outboxRuns(outbox *tagging.Outbox) bool { return outbox.Running() }

// awaitSettled waits until the outbox has nothing pending.
func awaitSettled(ctx context.Context, db *sql.DB) error {
	for {
		var pending int
		if err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM waybill_outbox WHERE status = 0").Scan(&pending); err != nil || pending == 0 {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// standstill says where a child is, and stays there, or stops the whole process there once.
type standstill struct {
	at      point
	stopAt  int64       // 0: for good, at the first time
	counts  atomic.Bool // the times until stopAt
	times   atomic.Int64
	once    sync.Once
	resumed chan struct{} // closed once the process goes on
}

func newStandstill(j job) *standstill {
	s := &standstill{at: j.Stand, stopAt: int64(j.StopAt), resumed: make(chan struct{})}
	s.counts.Store(j.Settled == 0)
	return s
}

// reach reports whether the process was stopped here, and goes on.
func (s *standstill) reach(p point) (stopped bool) {
	if p != s.at {
		return false
	}
	if s.stopAt > 0 {
		if !s.counts.Load() || s.times.Add(1) != s.stopAt {
			return false
		}
		goesOn := make(chan os.Signal, 1)
		signal.Notify(goesOn, syscall.SIGCONT)
		fmt.Println("at", p)
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		// The signal stops one thread after the other, on a busy machine later than this one would have come to its end.
		<-goesOn
		close(s.resumed)
		return true
	}
	s.once.Do(func() { fmt.Println("at", p) })
	select {}
}

type standingStore struct {
	reliable.Store
	stand *standstill
}

func (s standingStore) Unwrap() any { return s.Store }

func (s standingStore) Settle(ctx context.Context, ss ...reliable.Settlement) ([]reliable.SettleResult, error) {
	s.stand.reach(beforeSettle)
	return s.Store.Settle(ctx, ss...)
}

func (s standingStore) Bind(tx any) (reliable.Enqueuer, error) {
	transactor, _ := reliable.Ability[reliable.Transactor](s.Store)
	return transactor.Bind(tx)
}

func (s standingStore) Begin(ctx context.Context, db any) (reliable.Tx, error) {
	transactor, _ := reliable.Ability[reliable.Transactor](s.Store)
	tx, err := transactor.Begin(ctx, db)
	return standingTx{tx, s.stand}, err
}

type standingTx struct {
	reliable.Tx
	stand *standstill
}

func (t standingTx) Commit(ctx context.Context) error {
	t.stand.reach(beforeCommit)
	return t.Tx.Commit(ctx)
}

type standingPublisher struct {
	reliable.Publisher
	stand *standstill
}

func (p standingPublisher) Unwrap() any { return p.Publisher }

func (p standingPublisher) Publish(ctx context.Context, batch []reliable.Attempt) (int, error) {
	if p.stand.reach(beforePublish) {
		// As if it had been stopped between its last look at the time and the write.
		ctx = context.WithoutCancel(ctx)
	}
	return p.Publisher.Publish(ctx, batch)
}

type standingConfirms struct {
	reliable.ConfirmSource
	stand *standstill
}

func (c standingConfirms) Receive(ctx context.Context, limit int) ([]reliable.Confirm, error) {
	confirms, err := c.ConfirmSource.Receive(ctx, limit)
	if len(confirms) > 0 {
		c.stand.reach(beforeConfirm)
	}
	return confirms, err
}

// child is a running child process.
type child struct {
	t     testing.TB
	cmd   *exec.Cmd
	ears  io.Writer // its standard input
	lines chan string
	said  map[string]bool // by await
	ended sync.Once
}

// startChild runs this test binary again with a job. The test's end kills it.
func startChild(t testing.TB, j job) *child {
	t.Helper()
	text, err := json.Marshal(j)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	ears, err := cmd.StdinPipe()
	require.NoError(t, err)
	cmd.Stderr = t.Output()
	require.NoError(t, cmd.Start())
	c := &child{t: t, cmd: cmd, ears: ears, lines: make(chan string, 100), said: make(map[string]bool)}
	go c.read(out)
	t.Cleanup(c.kill)
	return c
}

func (c *child) read(out io.Reader) {
	defer close(c.lines)
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		c.lines <- scanner.Text()
	}
}

// await waits until the child says line, or has said it: what its goroutines say comes in any order.
func (c *child) await(line string) {
	c.t.Helper()
	timeout := time.After(patience)
	for !c.said[line] {
		select {
		case said, open := <-c.lines:
			require.True(c.t, open, "the child ended before it said %q", line)
			require.False(c.t, strings.HasPrefix(said, "ended:"), "the child %s", said)
			c.said[said] = true
		case <-timeout:
			require.FailNow(c.t, "the child did not come this far", line)
		}
	}
}

// tell says a line to the child.
func (c *child) tell(words ...string) {
	c.t.Helper()
	_, err := fmt.Fprintln(c.ears, strings.Join(words, " "))
	require.NoError(c.t, err)
}

// kill ends the child with SIGKILL and waits until it is gone.
func (c *child) kill() {
	c.ended.Do(func() {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait() // "signal: killed" is what was asked for
		for range c.lines {
		}
	})
}

func (c *child) signal(s syscall.Signal) {
	c.t.Helper()
	require.NoError(c.t, c.cmd.Process.Signal(s))
}
