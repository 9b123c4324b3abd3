package delayedcheck_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// history is one simulated run: producers, consumers and two instances of the service on one ledger, all of which fail at
// random until everything is healed.
type history struct {
	t        *testing.T
	store    *memstore.Store
	services []*delayedcheck.Service
	healed   time.Time
	work     sync.WaitGroup

	mu       sync.Mutex
	random   *rand.Rand
	messages map[reliable.ID]*simulated
}

// simulated is the truth about one message.
type simulated struct {
	committed bool
	open      time.Time // until when its transaction is
	groups    []string
	delivered int             // copies that reached the consumers
	confirmed map[string]bool // by groups whose confirm the ledger has acked
}

func (h *history) chance(p float64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.random.Float64() < p
}

func (h *history) within(limit time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Duration(h.random.Int64N(int64(limit)))
}

// sick is chance while nothing is healed.
func (h *history) sick(p float64) bool { return time.Now().Before(h.healed) && h.chance(p) }

func (h *history) fault(op memstore.Op, _ []reliable.ID) memstore.Fault {
	switch {
	case h.sick(0.1):
		return memstore.Fault{Before: errors.New("the ledger is away")}
	case h.sick(0.05) && op != memstore.OpClaim:
		return memstore.Fault{After: errors.New("the answer is lost")}
	}
	return memstore.Fault{}
}

// sent has a copy reach the consumers, who each confirm it, or lose their confirm.
func (h *history) sent(id reliable.ID) {
	h.mu.Lock()
	m := h.messages[id]
	m.delivered++
	h.mu.Unlock()
	for _, group := range m.groups {
		if h.sick(0.3) {
			continue // the confirm is lost, or the consumer is
		}
		h.work.Go(func() {
			time.Sleep(h.within(20 * time.Minute))
			msg, err := reliable.ProcessedMessage(reliable.Processed{ID: id, Group: group})
			assert.NoError(h.t, err)
			env := reliable.EnvelopeOf("confirms", msg)
			for range 1 + int(h.within(2)) { // duplicated
				deliver(h.any().Processed, env)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			m.confirmed[group] = true
		})
	}
}

func (h *history) any() *delayedcheck.Service {
	return h.services[h.within(time.Duration(len(h.services)))]
}

// Resend is the producer.
func (h *history) Resend(ctx context.Context, check delayedcheck.Check) (delayedcheck.Answer, error) {
	m := h.messages[check.Message.ID]
	time.Sleep(h.within(time.Second))
	switch {
	case h.sick(0.2):
		return 0, errRefused
	case h.sick(0.05):
		<-ctx.Done()
		return 0, ctx.Err()
	case time.Now().Before(m.open):
		return delayedcheck.StillOpen, nil
	case !m.committed:
		return delayedcheck.Aborted, nil
	case h.sick(0.05):
		return delayedcheck.Unknowable, nil
	case !h.sick(0.2): // else the copy is lost
		h.sent(check.Message.ID)
	}
	if h.sick(0.1) {
		return 0, errors.New("it took effect, and nobody heard of it")
	}
	return delayedcheck.Resent, nil
}

func (h *history) produce(id reliable.ID) {
	m := h.messages[id]
	if m.committed && !h.chance(0.4) {
		h.sent(id)
	}
	for range 1 + int(h.within(2)) { // a retried transaction leaves two checks
		check := due(h.t, id, func(c *delayedcheck.Check) { c.Groups = m.groups })
		env := reliable.EnvelopeOf("checks", check)
		h.work.Go(func() {
			time.Sleep(5 * time.Minute)
			deliver(h.any().Checks, env)
			if h.chance(0.2) {
				deliver(h.any().Checks, env) // delivered again after its ack was lost
			}
		})
	}
}

func TestService_losesNothingWhateverFails(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) { simulate(t, seed) })
		})
	}
}

func simulate(t *testing.T, seed uint64) {
	h := &history{
		t: t, healed: time.Now().Add(2 * time.Hour), messages: make(map[reliable.ID]*simulated),
		random: rand.New(rand.NewPCG(seed, 1)),
	}
	h.store = memstore.New(memstore.WithFault(h.fault))
	delays := &hop{}
	for i := range 2 {
		h.services = append(h.services, service(t, h.store, h, delays, delayedcheck.WithServiceWorker(fmt.Sprint("instance ", i)),
			delayedcheck.WithMaxRounds(8), delayedcheck.WithResendRate(0.5, 5), delayedcheck.WithPollEvery(time.Minute)))
	}
	delays.to = func(msg *message.Message) error { return h.any().Checks(msg) }
	var stops []func()
	for _, s := range h.services {
		stops = append(stops, runService(t, s))
	}
	for i := range 60 {
		m := &simulated{committed: h.chance(0.8), groups: []string{"billing"}, confirmed: make(map[string]bool)}
		if h.chance(0.4) {
			m.groups = append(m.groups, "shipping")
		}
		if h.chance(0.2) {
			m.open = time.Now().Add(h.within(90 * time.Minute))
		}
		h.messages[messageID(i)] = m
	}
	for i := range 60 {
		h.produce(messageID(i))
		time.Sleep(h.within(2 * time.Minute))
	}
	time.Sleep(12 * time.Hour)
	h.work.Wait()
	delays.under.Wait()
	for _, stop := range stops {
		stop()
	}

	failed := make(map[reliable.ID]bool)
	for _, record := range h.store.Records() {
		require.NotEqual(t, reliable.Pending, record.Status, "%s is still pending", record.Metadata["message"])
		if record.Status == reliable.Failed {
			failed[reliable.ID(record.Metadata["message"])] = true
		}
	}
	for id, m := range h.messages {
		if !m.committed {
			assert.Zero(t, m.delivered, "%s was never committed", id)
			continue
		}
		if m.delivered == 0 {
			assert.True(t, failed[id], "%s is lost, and nobody sees it", id)
		}
		if len(m.confirmed) == len(m.groups) {
			assert.False(t, failed[id], "%s is confirmed, and failed all the same", id)
		} else {
			assert.True(t, failed[id], "%s is not confirmed by all, and nobody sees it", id)
		}
	}
}
