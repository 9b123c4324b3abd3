package health_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/health"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errSecret = errors.New("dial tcp 10.1.2.3:3306: access denied for 'waybill', password hunter2")

// patient is a store that can be made to fail, to hang, and to be counted.
type patient struct {
	*memstore.Store
	check, stats, holds func(ctx context.Context) error // nil is healthy
	topics              []reliable.TopicStats
	held                []reliable.Hold
	asked               atomic.Int64
}

func (p *patient) ask(ctx context.Context, f func(context.Context) error) error {
	p.asked.Add(1)
	if f == nil {
		return nil
	}
	return f(ctx)
}

func (p *patient) Check(ctx context.Context) error { return p.ask(ctx, p.check) }
func (p *patient) Stats(ctx context.Context) ([]reliable.TopicStats, error) {
	return p.topics, p.ask(ctx, p.stats)
}
func (p *patient) Holds(ctx context.Context) ([]reliable.Hold, error) {
	return p.held, p.ask(ctx, p.holds)
}

func newPatient() *patient { return &patient{Store: memstore.New()} }

// broker is one that can be asked.
type broker struct {
	reliable.Publisher
	ping func(ctx context.Context) error
}

func (b broker) Ping(ctx context.Context) error { return b.ping(ctx) }

type relay bool

func (r relay) Running() bool { return bool(r) }

func failing(err error) func(context.Context) error {
	return func(context.Context) error { return err }
}

func hanging(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func quiet() health.Option { return health.WithLogger(slog.New(slog.DiscardHandler)) }

func newHandler(t *testing.T, store reliable.Store, opts ...health.Option) *health.Handler {
	t.Helper()
	h, err := health.New(store, append([]health.Option{quiet()}, opts...)...)
	require.NoError(t, err)
	return h
}

func get(t *testing.T, h http.Handler, path string) (code int, report health.Report, body string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	body = recorder.Body.String()
	if recorder.Header().Get("Content-Type") == "application/json" {
		require.NoError(t, json.Unmarshal(recorder.Body.Bytes(), &report))
	}
	return recorder.Code, report, body
}

func codesOf(report health.Report) (codes []health.Code) {
	for _, reason := range report.Reasons {
		codes = append(codes, reason.Code)
	}
	return codes
}

func TestHandler_saysWhatIsWrong(t *testing.T) {
	const good, bad = http.StatusOK, http.StatusServiceUnavailable
	schema := fmt.Errorf("mysqlstore: check: %w: version 1, need 2", reliable.ErrSchema)
	for name, c := range map[string]struct {
		sicken        func(p *patient)
		opts          []health.Option
		ready, health int
		codes         []health.Code
		text          string
	}{
		"nothing": {ready: good, health: good},
		"the store answers with an error": {
			sicken: func(p *patient) {
				p.check, p.stats, p.holds = failing(errSecret), failing(errSecret), failing(errSecret)
			},
			ready: bad, health: bad, codes: []health.Code{health.StoreUnreachable}, text: "the store does not answer",
		},
		"the store hangs": {
			sicken: func(p *patient) { p.check, p.stats, p.holds = hanging, hanging, hanging },
			ready:  bad, health: bad, codes: []health.Code{health.StoreUnreachable},
		},
		"the tables are old": {
			sicken: func(p *patient) { p.check, p.stats = failing(schema), failing(errSecret) },
			ready:  bad, health: bad, codes: []health.Code{health.StoreUnmigrated}, text: "migrate",
		},
		"counting takes too long": {
			sicken: func(p *patient) { p.stats = hanging },
			ready:  good, health: bad, codes: []health.Code{health.CountsUnknown},
		},
		"the relay does not run": {
			opts:  []health.Option{health.WithRelay(relay(false))},
			ready: bad, health: bad, codes: []health.Code{health.RelayStopped},
		},
		"the relay runs": {opts: []health.Option{health.WithRelay(relay(true))}, ready: good, health: good},
		"the broker is away": {
			opts:  []health.Option{health.WithBroker(broker{ping: failing(errSecret)})},
			ready: good, health: bad, codes: []health.Code{health.BrokerUnreachable}, text: "messages are stored and wait",
		},
		"the broker hangs": {
			opts:  []health.Option{health.WithBroker(broker{ping: hanging})},
			ready: good, health: bad, codes: []health.Code{health.BrokerUnreachable},
		},
		"the broker is there": {opts: []health.Option{health.WithBroker(broker{ping: failing(nil)})}, ready: good, health: good},
		"old messages": {
			sicken: func(p *patient) {
				p.topics = []reliable.TopicStats{
					{Topic: "a", Pending: 7, OldestPending: 5*time.Minute + time.Second}, {Topic: "b", Pending: 7, OldestPending: 5 * time.Minute},
				}
			},
			ready: good, health: bad, codes: []health.Code{health.PendingOld}, text: "the oldest of 7 pending is 5m1s old, the limit is 5m0s",
		},
		"a limit for old messages": {
			sicken: func(p *patient) { p.topics = []reliable.TopicStats{{Topic: "a", Pending: 7, OldestPending: time.Hour}} },
			opts:   []health.Option{health.WithMaxPendingAge(time.Hour)}, ready: good, health: good,
		},
		"failed messages": {
			sicken: func(p *patient) { p.topics = []reliable.TopicStats{{Topic: "a", Failed: 1, OldestFailed: time.Hour}} },
			ready:  good, health: bad, codes: []health.Code{health.FailedMessages}, text: "1 have failed, the limit is 0; the oldest is 1h0m0s old",
		},
		"a limit for failed messages": {
			sicken: func(p *patient) { p.topics = []reliable.TopicStats{{Topic: "a", Failed: 3}, {Topic: "b", Failed: 4}} },
			opts:   []health.Option{health.WithMaxFailed(3)}, ready: good, health: bad, codes: []health.Code{health.FailedMessages}, text: `"topic":"b"`,
		},
		"a held topic": {
			sicken: func(p *patient) { p.held = []reliable.Hold{{Topic: "a", Refusals: 5, HeldFor: time.Minute}} },
			ready:  good, health: bad, codes: []health.Code{health.TopicHeld}, text: "held for 1m0s after 5 refusals",
		},
		"everything, the worst first": {
			sicken: func(p *patient) {
				p.held = []reliable.Hold{{Topic: "a"}}
				p.topics = []reliable.TopicStats{{Topic: "z", Failed: 1}, {Topic: "y", Failed: 1, OldestPending: time.Hour}}
			},
			opts:  []health.Option{health.WithRelay(relay(false)), health.WithBroker(broker{ping: failing(errSecret)})},
			ready: bad, health: bad, codes: []health.Code{
				health.RelayStopped, health.BrokerUnreachable, health.FailedMessages, health.FailedMessages, health.PendingOld, health.TopicHeld,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				p := newPatient()
				if c.sicken != nil {
					c.sicken(p)
				}
				h := newHandler(t, p, c.opts...)
				code, report, body := get(t, h, "/health")
				assert.Equal(t, c.health, code)
				assert.Equal(t, c.codes, codesOf(report))
				assert.Contains(t, body, c.text)
				assert.NotContains(t, body, "hunter2")
				assert.NotContains(t, body, "10.1.2.3")
				code, _, _ = get(t, h, "/ready")
				assert.Equal(t, c.ready, code)
				code, report, _ = get(t, h, "/live")
				assert.Equal(t, http.StatusOK, code)
				assert.Equal(t, health.OK, report.Status)
			})
		})
	}
}

func TestHandler_aFloodOfProbesAsksOncePerInterval(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		p := newPatient()
		p.check = func(context.Context) error {
			time.Sleep(time.Second)
			return nil
		}
		h := newHandler(t, p)
		began := time.Now()
		var probes sync.WaitGroup
		for range 100 {
			probes.Go(func() {
				for time.Since(began) < 9*time.Second {
					code, _, _ := get(t, h, "/health")
					assert.Equal(t, http.StatusOK, code)
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		probes.Wait()
		assert.EqualValues(t, 2*3, p.asked.Load(), "two rounds of three questions")
	})
}

func TestHandler_answersInTimeThoughAStoreNeverDoes(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		p := newPatient()
		back := make(chan struct{})
		p.check = func(context.Context) error { // it is deaf
			<-back
			return nil
		}
		h := newHandler(t, p, health.WithTimeout(time.Second), health.WithInterval(2*time.Second))
		for range 5 {
			began := time.Now()
			code, report, _ := get(t, h, "/ready")
			assert.LessOrEqual(t, time.Since(began), time.Second)
			assert.Equal(t, http.StatusServiceUnavailable, code)
			assert.Equal(t, []health.Code{health.StoreUnreachable}, codesOf(report))
			time.Sleep(2 * time.Second)
		}
		assert.EqualValues(t, 1+5*2, p.asked.Load(), "the question that hangs is not asked again")
		close(back)
		time.Sleep(2 * time.Second)
		code, _, _ := get(t, h, "/ready")
		assert.Equal(t, http.StatusOK, code)
	})
}

func TestHandler_aProbeThatGoesAwayKeepsNobody(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		p := newPatient()
		p.check = hanging
		h := newHandler(t, p)
		go h.Report(t.Context())
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		began := time.Now()
		assert.Equal(t, health.Unavailable, h.Report(ctx).Status, "nothing is known yet")
		assert.Equal(t, time.Millisecond, time.Since(began))
		time.Sleep(time.Minute) // the other one's questions end
	})
}

func TestHandler_looksAtTheRelayEachTime(t *testing.T) {
	h := newHandler(t, newPatient(), health.WithRelay(new(switchable)), health.WithInterval(time.Hour))
	assert.Equal(t, health.Unavailable, h.Report(t.Context()).Status)
	running := &switchable{}
	h = newHandler(t, newPatient(), health.WithRelay(running), health.WithInterval(time.Hour))
	for _, on := range []bool{true, false, true} {
		running.on.Store(on)
		assert.Equal(t, on, h.Report(t.Context()).Status == health.OK)
	}
}

type switchable struct{ on atomic.Bool }

func (s *switchable) Running() bool { return s.on.Load() }

func TestHandler_boundsItsAnswer(t *testing.T) {
	p := newPatient()
	for i := range 1000 {
		p.topics = append(p.topics, reliable.TopicStats{Topic: fmt.Sprintf("topic-%04d", i), Failed: 1})
	}
	_, report, body := get(t, newHandler(t, p), "/health")
	assert.Len(t, report.Reasons, health.MaxReasons)
	assert.Equal(t, 1000-health.MaxReasons, report.More)
	assert.Less(t, len(body), 8<<10)
}

func TestHandler_hasItsPathsAndNoOthers(t *testing.T) {
	h := newHandler(t, newPatient())
	for path, want := range map[string]int{
		"/live": 200, "/ready": 200, "/health": 200, "/": 404, "/metrics": 404, "/ready/x": 404,
	} {
		code, _, _ := get(t, h, path)
		assert.Equal(t, want, code, path)
	}
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/ready", nil))
	assert.Equal(t, http.StatusMethodNotAllowed, recorder.Code)
	recorder = httptest.NewRecorder()
	h.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodHead, "/ready", nil))
	assert.Equal(t, http.StatusOK, recorder.Code)
	assert.Equal(t, "no-store", recorder.Header().Get("Cache-Control"))
}

func TestHandler_logsChangesWithTheErrorsBehindThem(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := newPatient()
		h := newHandler(t, p, health.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		h.Report(t.Context())
		assert.Empty(t, log.String(), "it is well")
		p.check = failing(errBoring)
		for range 3 {
			time.Sleep(10 * time.Second)
			h.Report(t.Context())
		}
		assert.Equal(t, 1, bytes.Count(log.Bytes(), []byte("health changed")))
		assert.Contains(t, log.String(), errBoring.Error())
		p.check = nil
		time.Sleep(10 * time.Second)
		h.Report(t.Context())
		assert.Contains(t, log.String(), "from=unavailable to=ok")
	})
}

var errBoring = errors.New("connection refused")

// bare is a store of which nothing can be asked.
type bare struct{ reliable.Store }

func TestHandler_aStoreThatCannotBeAskedIsTakenForWell(t *testing.T) {
	code, _, _ := get(t, newHandler(t, bare{memstore.New()}), "/health")
	assert.Equal(t, http.StatusOK, code)
}

func TestNew_refusesWhatMakesNoSense(t *testing.T) {
	_, err := health.New(nil)
	require.ErrorIs(t, err, reliable.ErrInvalid)
	mute := membroker.New()
	defer func() { require.NoError(t, mute.Close()) }()
	for name, opt := range map[string]health.Option{
		"WithRelay": health.WithRelay(nil), "WithBroker": health.WithBroker(bareBroker{mute}), "WithMaxPendingAge": health.WithMaxPendingAge(0),
		"WithMaxFailed": health.WithMaxFailed(-1), "WithTimeout": health.WithTimeout(0), "WithInterval": health.WithInterval(-1),
		"WithLogger": health.WithLogger(nil),
	} {
		_, err := health.New(memstore.New(), opt)
		require.ErrorIs(t, err, reliable.ErrInvalid, name)
		assert.ErrorContains(t, err, name)
	}
}

type bareBroker struct{ reliable.Publisher }
