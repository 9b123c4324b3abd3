package engine

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
)

var update = flag.Bool("update", false, "write what happens into the transcripts of testdata")

// TestScenarios_happenAsWritten plays the transcripts of testdata: pages for people, in which a line that begins with ">"
// is done, what stands below it is what then happens, at which second, and "#" is for the reader. Time is virtual and the
// backoff has no jitter. The engine of the transcripts: lease 10s, confirm timeout 2s, poll interval 1s, refusals are
// tried again after 1s, 2s, 4s, 8s, unknown outcomes after 500ms, 1s, 2s, 4s; the failure budget is 3 refusals over 10s.
//
//	> store ID TOPIC [n=COUNT] [key=KEY] [delay=D] [deadline=D]
//	> broker ID ACT...       what the broker does with the next attempts of an ID: serve, nack, return, lose-message, slow ...
//	> topic NAME full|ok     > broker down|up     > store away|back
//	> start [NAME]           > stop [NAME]        > die [NAME]       > sweep [NAME]
//	> cut NAME               > heal NAME: what it asked of the store meanwhile returns now
//	> wait D                 > rows                  > untimed
func TestScenarios_happenAsWritten(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			written, err := os.ReadFile(file)
			require.NoError(t, err)
			var played string
			virtualtime.Test(t, func(t *testing.T) { played = newStage(t).play(string(written)) })
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(played), 0o600))
			}
			assert.Equal(t, string(written), played, "run go test -update ./strategies/internal/engine, and review the difference")
		})
	}
}

// stage is where a transcript is played.
type stage struct {
	t       *testing.T
	store   *memstore.Store
	broker  *membroker.Broker
	actors  map[string]*actor
	began   time.Time
	away    atomic.Bool
	untimed bool
	perform map[reliable.ID][]string

	mu     sync.Mutex
	events []string
}

type actor struct {
	*Engine
	conn   *membroker.Conn
	cancel context.CancelFunc
	done   chan error
	dead   atomic.Bool
	cut    atomic.Pointer[chan struct{}] // nothing it asks of the store returns before this is closed
}

func newStage(t *testing.T) *stage {
	s := &stage{t: t, actors: make(map[string]*actor), began: time.Now(), perform: make(map[reliable.ID][]string)}
	s.store = memstore.New(memstore.WithFault(func(memstore.Op, []reliable.ID) memstore.Fault {
		if s.away.Load() {
			return memstore.Fault{Before: errors.New("connection refused")}
		}
		return memstore.Fault{}
	}))
	s.broker = membroker.New(membroker.WithConfirmTimeout(2*time.Second), membroker.WithLatency(10*time.Millisecond), membroker.WithScript(s.script))
	return s
}

func (s *stage) script(a membroker.Attempt) membroker.Verdict {
	acts := s.perform[a.ID]
	if len(acts) == 0 {
		return membroker.Verdict{}
	}
	if len(acts) > 1 || acts[0] != "poison" { // poison stays what it is
		s.perform[a.ID] = acts[1:]
	}
	if acts[0] == "slow" {
		return membroker.Verdict{Delay: time.Hour}
	}
	for act := membroker.Serve; act <= membroker.Refuse; act++ {
		if strings.ReplaceAll(act.String(), " ", "-") == acts[0] {
			return membroker.Verdict{Act: act}
		}
	}
	s.t.Errorf("the broker knows no %q", acts[0])
	return membroker.Verdict{}
}

func (s *stage) play(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "#"), strings.TrimSpace(line) == "":
			out.WriteString(line)
		case strings.HasPrefix(line, ">"):
			out.WriteString(line)
			s.do(strings.Fields(line[1:]))
			synctest.Wait()
			s.mu.Lock()
			for _, event := range s.events {
				out.WriteString("    " + event + "\n")
			}
			s.events = nil
			s.mu.Unlock()
		}
	}
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range s.actors {
			yield(name)
		}
	}) {
		if a := s.actors[name]; a.cancel != nil {
			a.cancel()
			_ = <-a.done
		}
	}
	assert.NoError(s.t, s.broker.Close())
	return out.String()
}

func (s *stage) happened(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := strconv.FormatFloat(time.Since(s.began).Truncate(10*time.Millisecond).Seconds(), 'f', 2, 64) + "s"
	if s.untimed {
		now = "-"
	}
	s.events = append(s.events, fmt.Sprintf("%7s  %s", now, fmt.Sprintf(format, args...)))
}

func (s *stage) do(words []string) {
	name := "A"
	if len(words) == 2 {
		name = words[1]
	}
	switch words[0] {
	case "store":
		if len(words) == 2 {
			s.away.Store(words[1] == "away")
			return
		}
		s.enqueue(words[1], words[2], words[3:])
	case "broker":
		switch words[1] {
		case "down":
			s.broker.Down()
		case "up":
			s.broker.Up()
		default:
			s.perform[reliable.ID(words[1])] = words[2:]
		}
	case "topic":
		s.broker.Full(words[2] == "full", words[1])
	case "start":
		a := s.actor(name)
		ctx, cancel := context.WithCancel(context.Background())
		a.cancel, a.done = cancel, make(chan error, 1)
		go func() { a.done <- a.Run(ctx) }()
	case "stop":
		a := s.actors[name]
		a.cancel()
		err := <-a.done
		a.cancel = nil
		s.happened("%s stopped: %v", name, err)
	case "die": // what dies is the way to the store, and the connection: nothing of it is seen any more
		a := s.actors[name]
		a.dead.Store(true)
		assert.NoError(s.t, a.conn.Close())
		synctest.Wait()
		s.mu.Lock()
		s.events = nil
		s.mu.Unlock()
		s.happened("%s is dead", name)
	case "cut":
		cut := make(chan struct{})
		s.actors[name].cut.Store(&cut)
	case "heal":
		close(*s.actors[name].cut.Swap(nil))
	case "sweep":
		report, err := s.actor(name).Sweep(context.Background())
		s.happened("%s swept: %+v %v", name, report, err)
	case "wait":
		d, err := time.ParseDuration(words[1])
		require.NoError(s.t, err)
		time.Sleep(d)
	case "untimed": // where retries have a jitter
		s.untimed = true
	case "rows":
		s.rows()
	default:
		s.t.Errorf("%q is no command", words[0])
	}
}

func (s *stage) enqueue(id, topic string, rest []string) {
	env, count := reliable.Envelope{ID: reliable.ID(id), Topic: topic}, 0
	for _, word := range rest {
		name, value, _ := strings.Cut(word, "=")
		var err error
		switch name {
		case "n":
			count, err = strconv.Atoi(value)
		case "key":
			env.Key = value
		case "delay":
			env.Delay, err = time.ParseDuration(value)
		case "deadline":
			env.Deadline, err = time.ParseDuration(value)
		}
		require.NoError(s.t, err)
	}
	envs := []reliable.Envelope{env}
	for i := 2; i <= count; i++ {
		if i == 2 {
			envs[0].ID += "1"
		}
		next := env
		next.ID += reliable.ID(strconv.Itoa(i))
		envs = append(envs, next)
	}
	_, err := s.store.Enqueue(context.Background(), reliable.EnqueueRequest{}, envs...)
	require.NoError(s.t, err)
}

func (s *stage) rows() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.store.Records() {
		line := fmt.Sprintf("%-10s %-9v attempts %d failures %d", r.ID, r.Status, r.Attempts, r.Failures)
		switch {
		case r.Held:
			line += " held"
		case r.Waiting:
			line += " waiting"
		case r.Status == reliable.Pending:
			line += fmt.Sprintf(" due in %v", r.DueIn.Round(10*time.Millisecond))
		}
		if r.MayHaveBeenSent {
			line += " may have been sent"
		}
		s.events = append(s.events, line)
		if n := len(r.History); n > 0 && r.Status == reliable.Failed {
			s.events = append(s.events, "           "+r.History[n-1].Reason)
		}
	}
}

// actor returns the engine of that name.
func (s *stage) actor(name string) *actor {
	if a := s.actors[name]; a != nil {
		return a
	}
	a := &actor{conn: s.broker.Connect()}
	s.actors[name] = a
	quiet := func(f func()) {
		if !a.dead.Load() {
			f()
		}
	}
	a.Engine = New(Config{
		Store: &mortal{Store: s.store, actor: a}, Publisher: a.conn, Confirms: a.conn, Logger: slog.New(slog.DiscardHandler), Worker: name,
		Lease: 10 * time.Second, ConfirmWait: 2 * time.Second, PollInterval: time.Second, DrainTimeout: 5 * time.Second, StoreTimeout: time.Second,
		Window: 4, Capacity: 8, CapacityBytes: 1 << 20, ClaimBatch: 8, SettleBatch: 8, SettleDelay: time.Millisecond, AwaitedDelay: time.Millisecond,
		Policy: Policy{MaxFailures: 3, MinFailing: 10 * time.Second, Retry: exact(time.Second, 8*time.Second), Again: exact(500*time.Millisecond, 4*time.Second)},
		Hooks: Hooks{
			Answered: func(at *reliable.Attempt, c *reliable.Confirm, _ time.Duration) {
				quiet(func() { s.happened("%s: %s attempt %d%s %v", name, at.ID, at.Attempts, alone(at), c.Outcome) })
			},
			Settled: func(_ *reliable.Attempt, x *reliable.Settlement, result reliable.SettleResult) {
				quiet(func() { s.happened("%s: %s %s", name, x.ID, settlementText(x, result)) })
			},
			Held: func(h reliable.Hold) {
				s.happened("%s: topic %s held, %d refusals, next probe in %v", name, h.Topic, h.Refusals, h.NextProbe)
			},
			Released:       func(topic string) { s.happened("%s: topic %s released", name, topic) },
			FailedTogether: func(topic string, n int) { s.happened("%s: %d of topic %s failed together", name, n, topic) },
		},
	})
	return a
}

func alone(a *reliable.Attempt) string {
	if a.Alone {
		return " alone"
	}
	return ""
}

func settlementText(x *reliable.Settlement, result reliable.SettleResult) string {
	text := "-> " + x.To.String()
	if !x.Sent {
		text = "given back"
	}
	if x.To == reliable.Pending {
		if x.Park {
			text += ", waits behind the hold"
		} else {
			text += fmt.Sprintf(", due in %v", x.Delay)
		}
	}
	if x.Charge {
		text += ", charged"
	}
	if result != reliable.Applied {
		text += " (" + result.String() + ")"
	}
	return text
}

// mortal is a way to the store that ends with its process.
type mortal struct {
	*memstore.Store
	actor *actor
}

func (a *actor) reaches() error {
	if cut := a.cut.Load(); cut != nil {
		<-*cut
	}
	if a.dead.Load() {
		return errors.New("dead")
	}
	return nil
}

func (m *mortal) Claim(ctx context.Context, req reliable.ClaimRequest) ([]reliable.Attempt, error) {
	if err := m.actor.reaches(); err != nil {
		return nil, err
	}
	return m.Store.Claim(ctx, req)
}

func (m *mortal) Settle(ctx context.Context, ss ...reliable.Settlement) ([]reliable.SettleResult, error) {
	if err := m.actor.reaches(); err != nil {
		return nil, err
	}
	return m.Store.Settle(ctx, ss...)
}
