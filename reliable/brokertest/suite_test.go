package brokertest_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/brokertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a T that remembers what failed. Checks run under it inside a bubble of synctest, so that a publisher that
// hangs costs no time.
type recorder struct {
	ctx context.Context //nolint:containedctx // it is what Context returns

	mu       sync.Mutex
	failures []string
	cleanups []func()
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) FailNow() { runtime.Goexit() }

func (r *recorder) Helper() {}

func (r *recorder) Context() context.Context { return r.ctx }

func (r *recorder) Logf(string, ...any) {}

func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

// failuresOf runs one check as a test would and returns what it complained about.
func failuresOf(t *testing.T, check brokertest.Check, lie *lie) []string {
	t.Helper()
	var failures []string
	virtualtime.Test(t, func(*testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		r := &recorder{ctx: ctx}
		l := newLab(lie)
		done := make(chan struct{})
		go func() {
			defer close(done)
			check.Run(r, l.harness())
		}()
		<-done
		cancel()
		for _, f := range slices.Backward(r.cleanups) {
			f()
		}
		l.end()
		failures = r.failures
	})
	return failures
}

// lab is a reference broker in which one connection can be made to lie.
type lab struct {
	broker *membroker.Broker
	lie    *lie
	over   chan struct{} // closed at the end of the check: what hangs must end then
	topics int
	kept   [][]byte
	shared brokertest.Connection
}

const payloadLimit = 2 << 20

func newLab(lie *lie) *lab {
	l := &lab{lie: lie, over: make(chan struct{})}
	options := []membroker.Option{
		membroker.WithLatency(time.Millisecond),
		membroker.WithLimits(reliable.Limits{Payload: payloadLimit}),
		membroker.WithScript(func(a membroker.Attempt) membroker.Verdict {
			if lie != nil && lie.script != nil {
				return lie.script(a)
			}
			return honest(a)
		}),
	}
	if lie != nil {
		options = append(options, lie.options...)
	}
	l.broker = membroker.New(options...)
	return l
}

func honest(a membroker.Attempt) membroker.Verdict {
	if a.Metadata["act"] == "poison" {
		return membroker.Verdict{Act: membroker.Poison}
	}
	return membroker.Verdict{}
}

func (l *lab) end() {
	close(l.over)
	_ = l.broker.Close()
}

func (l *lab) name(kind string) string {
	l.topics++
	return fmt.Sprint(kind, "-", l.topics)
}

func (l *lab) harness() brokertest.Harness {
	h := brokertest.Harness{
		Features: brokertest.Features{
			Returns: true, Nacks: true, Rejects: true, Order: true, Keys: true, Window: true, FindsPoison: true, MarksLost: true,
			OutOfProcess: l.lie != nil && l.lie.outOfProcess,
		},
		Volume: 4000,
		Open: func(_ brokertest.T, o brokertest.Options) brokertest.Connection {
			conn := l.broker.Connect(membroker.ConnWindow(o.Window), membroker.ConnConfirmTimeout(o.ConfirmTimeout))
			c := &connection{inner: conn, publish: conn.Publish, receive: conn.Receive, close: conn.Close}
			if l.lie != nil && l.lie.connect != nil {
				l.lie.connect(l, c)
			}
			return c
		},
		Topic: func(brokertest.T) string { return l.name("topic") },
		UnroutableTopic: func(brokertest.T) string {
			topic := l.name("unroutable")
			l.broker.Undeclare(topic)
			return topic
		},
		RefusingTopic: func(brokertest.T) string {
			topic := l.name("full")
			l.broker.Full(true, topic)
			return topic
		},
		Oversize: func(brokertest.T) []byte { return make([]byte, payloadLimit+1) },
		Poison: func(_ brokertest.T, topic string) reliable.Envelope {
			return reliable.Envelope{ID: reliable.NewID(), Topic: topic, Metadata: map[string]string{"act": "poison"}}
		},
		Cut:   func(_ brokertest.T, c brokertest.Connection) { c.(*connection).inner.Cut() },
		Down:  func(brokertest.T) func() { l.broker.Down(); return l.broker.Up },
		Block: func(brokertest.T) func() { l.broker.Block(); return l.broker.Unblock },
		Received: brokertest.ReceivedBy(func(brokertest.T) message.Subscriber {
			return l.broker.Subscriber("suite")
		}, 20*time.Millisecond),
		Watermill: func(brokertest.T) message.Publisher {
			pub := l.broker.Watermill()
			if l.lie != nil && l.lie.watermill != nil {
				return l.lie.watermill(l, pub)
			}
			return pub
		},
	}
	return h
}

// connection is a membroker connection whose methods can be replaced.
type connection struct {
	inner   *membroker.Conn
	publish func(ctx context.Context, batch []reliable.Attempt) (int, error)
	receive func(ctx context.Context, limit int) ([]reliable.Confirm, error)
	close   func() error
}

func (c *connection) Publish(ctx context.Context, batch []reliable.Attempt) (int, error) {
	return c.publish(ctx, batch)
}

func (c *connection) Receive(ctx context.Context, limit int) ([]reliable.Confirm, error) {
	return c.receive(ctx, limit)
}

func (c *connection) Close() error { return c.close() }

func (c *connection) Unwrap() any { return c.inner }

func TestSuite_passesAnHonestBroker(t *testing.T) {
	checks := newLab(nil).harness().Checks()
	require.Greater(t, len(checks), 40)
	for _, check := range checks {
		t.Run(check.Name, func(t *testing.T) {
			assert.Empty(t, failuresOf(t, check, nil))
		})
	}
}

func TestSuite_catchesEveryLie(t *testing.T) {
	for _, lie := range lies {
		t.Run(lie.name, func(t *testing.T) {
			require.NotEmpty(t, lie.caughtBy)
			checks := newLab(&lie).harness().Checks()
			for _, name := range lie.caughtBy {
				at := slices.IndexFunc(checks, func(c brokertest.Check) bool { return c.Name == name })
				require.GreaterOrEqual(t, at, 0, "no check is named %q", name)
				failures := failuresOf(t, checks[at], &lie)
				if assert.NotEmpty(t, failures, "not caught by %q", name) {
					t.Logf("%s: %s", name, strings.Join(failures, "; "))
				}
			}
		})
	}
}

// A check that no lie can fail proves nothing about anybody.
func TestSuite_everyCheckCatchesSomeLie(t *testing.T) {
	caught := make(map[string]bool)
	for _, lie := range lies {
		for _, name := range lie.caughtBy {
			caught[name] = true
		}
	}
	h := newLab(&lie{outOfProcess: true}).harness()
	for _, check := range h.Checks() {
		assert.True(t, caught[check.Name], "no lie is caught by %q", check.Name)
	}
}
