package delayedcheck_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// producer is a producer as the callback service sees it: it answers, and notes when it was asked.
type producer struct {
	answer func(ctx context.Context, check *delayedcheck.Check, nth int) (delayedcheck.Answer, error)

	mu    sync.Mutex
	asked map[reliable.ID][]time.Time
	all   []time.Time
}

func answering(answer delayedcheck.Answer) *producer {
	return &producer{answer: func(context.Context, *delayedcheck.Check, int) (delayedcheck.Answer, error) { return answer, nil }}
}

func failing(err error) *producer {
	return &producer{answer: func(context.Context, *delayedcheck.Check, int) (delayedcheck.Answer, error) {
		return delayedcheck.Resent, err
	}}
}

func (p *producer) Resend(ctx context.Context, check delayedcheck.Check) (delayedcheck.Answer, error) {
	p.mu.Lock()
	if p.asked == nil {
		p.asked = make(map[reliable.ID][]time.Time)
	}
	p.asked[check.Message.ID] = append(p.asked[check.Message.ID], time.Now())
	p.all = append(p.all, time.Now())
	nth := len(p.asked[check.Message.ID])
	p.mu.Unlock()
	return p.answer(ctx, &check, nth)
}

func (p *producer) times(id reliable.ID) []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]time.Time(nil), p.asked[id]...)
}

func (p *producer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.all)
}

// hop is a scheduler that delivers to a handler until it is acked, and can be broken.
type hop struct {
	mu     sync.Mutex
	broken error
	to     func(*message.Message) error
	booked int
	under  sync.WaitGroup
}

func (h *hop) Schedule(_ context.Context, after time.Duration, envs ...reliable.Envelope) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken != nil {
		return h.broken
	}
	for _, env := range envs {
		h.booked++
		h.under.Go(func() {
			time.Sleep(after)
			deliver(h.to, env)
		})
	}
	return nil
}

// deliver hands a message to a handler until that acks it.
func deliver(to func(*message.Message) error, env reliable.Envelope) {
	for to(env.Message()) != nil {
		time.Sleep(time.Second)
	}
}

// runService runs a service until the test ends, or until stop is called.
func runService(t *testing.T, s *delayedcheck.Service) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			assert.NoError(t, <-done)
		})
	}
	t.Cleanup(stop)
	return stop
}

func service(t *testing.T, ledger reliable.Store, resender delayedcheck.Resender, scheduler reliable.Scheduler,
	opts ...delayedcheck.ServiceOption,
) *delayedcheck.Service {
	t.Helper()
	opts = append([]delayedcheck.ServiceOption{
		delayedcheck.WithServiceLogger(slog.New(slog.DiscardHandler)), delayedcheck.WithPollEvery(15 * time.Second),
	}, opts...)
	s, err := delayedcheck.NewService(ledger, resender, scheduler, opts...)
	require.NoError(t, err)
	return s
}

// due is the check of a message, as it comes when it is due.
func due(t *testing.T, id reliable.ID, change ...func(*delayedcheck.Check)) *message.Message {
	t.Helper()
	check := delayedcheck.Check{
		Message: reliable.Envelope{ID: id, Topic: "orders", Payload: []byte(id)},
		Groups:  []string{"billing"}, Producer: "shop", Round: 1,
	}
	for _, c := range change {
		c(&check)
	}
	env, err := check.Envelope("waybill.checks")
	require.NoError(t, err)
	return env.Message()
}

func confirm(t *testing.T, s *delayedcheck.Service, id reliable.ID, groups ...string) {
	t.Helper()
	for _, group := range groups {
		msg, err := reliable.ProcessedMessage(reliable.Processed{ID: id, Group: group})
		require.NoError(t, err)
		require.NoError(t, s.Processed(msg))
	}
}

// standing is how many requests of each status the ledger has.
func standing(ledger *memstore.Store) map[reliable.Status]int {
	counts := make(map[reliable.Status]int)
	for _, record := range ledger.Records() {
		counts[record.Status]++
	}
	return counts
}

// later waits under virtual time.
func later(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

var errRefused = errors.New("refused")

func messageID(i int) reliable.ID { return reliable.ID(fmt.Sprintf("order-%05d", i)) }
