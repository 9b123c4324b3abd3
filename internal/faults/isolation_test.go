//go:build services

package faults

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// The tests of this file measure, and so run one after the other, before those that run side by side.

const (
	// sound is the part of the healthy rate that must be left beside what fails.
	sound = 0.8
	// pairs of measurements make a round. On a machine that others use, too, one pair says little, and some rounds are unlucky:
	// the median of one round, or of all so far, counts.
	pairs, rounds = 7, 8
	// sample is how many messages one measurement takes.
	sample = 800
)

// rate stores healthy messages, by a few callers at a time, and returns how many a second were confirmed.
func (r *rig) rate(prefix string) float64 {
	r.t.Helper()
	const callers, batch = 4, 20
	began := time.Now()
	receipts := make(chan *tagging.Receipt, sample/batch)
	for caller := range callers {
		go func() {
			for i := caller; i < sample/batch; i += callers {
				envs := make([]reliable.Envelope, batch)
				for j := range envs {
					envs[j] = order(fmt.Sprintf("%s-%d-%d", prefix, i, j))
				}
				receipt, err := r.outbox.Publish(context.Background(), envs...)
				assert.NoError(r.t, err)
				receipts <- receipt
			}
		}()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for range sample / batch {
		receipt := <-receipts
		require.NotNil(r.t, receipt)
		_, err := receipt.Wait(ctx)
		require.NoError(r.t, err)
	}
	return sample / time.Since(began).Seconds()
}

// requireSound measures two processes in turn and compares the medians of the pairs.
func requireSound(t *testing.T, alone, beside *rig) {
	t.Helper()
	alone.rate("warm")
	beside.rate("warm")
	var ratios []float64
	left := 0.0
	for round := 0; round < rounds && left < sound; round++ {
		for pair := range pairs {
			name := fmt.Sprintf("round-%d-pair-%d", round, pair)
			undisturbed := alone.rate(name)
			ratios = append(ratios, beside.rate(name)/undisturbed)
		}
		left = max(median(ratios[round*pairs:]), median(ratios))
	}
	t.Logf("of the healthy rate is left: %.2f", ratios)
	assert.GreaterOrEqual(t, left, sound, "of the healthy rate must be left, ratios %.2f", ratios)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// pressing is a backoff so short that what fails would weigh on the others, were it not kept apart.
var pressing = []tagging.Option{tagging.WithBackoff(400*time.Millisecond, 400*time.Millisecond), tagging.WithPollInterval(100 * time.Millisecond)}

func TestRefusal_leavesTheOthersTheirRate(t *testing.T) {
	for _, d := range destinations {
		t.Run(d.name, func(t *testing.T) {
			alone, _, _ := d.rig(t, pressing...)
			beside, _, _ := d.rig(t, pressing...)
			refused := publishAll(t, beside, refusedTopic, "refused", 1000)
			beside.awaitRefusals(3)
			requireSound(t, alone, beside)
			assert.Zero(t, beside.count(reliable.Confirmed, refused))
			assert.Empty(t, beside.withStatus(reliable.Failed))
		})
	}
}

// awaitRefusals waits until the broker has refused that many attempts.
func (r *rig) awaitRefusals(n int) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		return r.seen.outcome(reliable.Returned)+r.seen.outcome(reliable.Nacked) >= n
	}, patience, 10*time.Millisecond)
}

// backlog is what others must not be slowed by.
type backlog struct {
	name   string
	outbox []tagging.Option
	store  func(t *testing.T, r *rig)
}

const followers = 100_000

// neverFailed keeps what is refused from ever using up its budget; it comes back at the usual pace. Their fifty topics are
// held one by one and each sends its probe on a connection of its own, which at a pace of a test's would be a load.
var neverFailed = []tagging.Option{tagging.WithFailureBudget(1_000_000, 24*time.Hour)}

var backlogs = []backlog{
	{"500 rows that always fail, the oldest of all", neverFailed, func(t *testing.T, r *rig) {
		t.Helper()
		for i := range 50 {
			publishAll(t, r, fmt.Sprintf("nowhere-%d", i), fmt.Sprintf("failing-%d", i), 10)
		}
		r.awaitRefusals(500)
	}},
	{"100,000 followers of a key that fails", pressing, func(t *testing.T, r *rig) {
		t.Helper()
		const batch = 2000
		for i := range followers / batch {
			envs := make([]reliable.Envelope, batch)
			for j := range envs {
				envs[j] = reliable.Envelope{ID: reliable.ID(fmt.Sprintf("f-%d-%d", i, j)), Topic: refusedTopic, Key: "k", Payload: []byte("x")}
			}
			_, err := r.store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envs...)
			require.NoError(t, err)
		}
		r.awaitRefusals(2)
	}},
}

func TestBacklog_thatCannotMoveLeavesTheOthersTheirRate(t *testing.T) {
	for _, b := range backlogs {
		for kind, makeDatabase := range databases {
			t.Run(b.name+"/"+kind, func(t *testing.T) {
				process := func() *rig {
					amqpURL := testenv.RabbitMQ(t)
					declare(t, amqpURL, queue, quorum)
					return newRig(t, rigConfig{database: makeDatabase(t), amqpURL: amqpURL, outbox: b.outbox, broker: notDeclaring})
				}
				alone, beside := process(), process()
				b.store(t, beside)
				requireSound(t, alone, beside)
			})
		}
	}
}
