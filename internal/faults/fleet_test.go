//go:build services

package faults

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// claimLog is what all relays of a fleet claimed and gave back, told by a witness at each store.
type claimLog struct {
	mu     sync.Mutex
	claims map[reliable.ID][]claim
}

type claim struct {
	fence         int64
	asked, got    time.Time     // the lease began between these
	lease         time.Duration // and lasts this long
	settled       time.Time     // when it began to be settled
	settledByThis bool
}

func newClaimLog() *claimLog { return &claimLog{claims: make(map[reliable.ID][]claim)} }

// witnessed is a store that tells a claimLog.
type witnessed struct {
	reliable.Store
	log *claimLog
}

func (w witnessed) Unwrap() any { return w.Store }

func (w witnessed) Claim(ctx context.Context, req reliable.ClaimRequest) ([]reliable.Attempt, error) {
	asked := time.Now()
	attempts, err := w.Store.Claim(ctx, req)
	got := time.Now()
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	for i := range attempts {
		id := attempts[i].ID
		w.log.claims[id] = append(w.log.claims[id], claim{fence: attempts[i].Fence, asked: asked, got: got, lease: req.Lease})
	}
	return attempts, err
}

func (w witnessed) Settle(ctx context.Context, ss ...reliable.Settlement) ([]reliable.SettleResult, error) {
	began := time.Now()
	w.log.mu.Lock()
	for i := range ss {
		for j := range w.log.claims[ss[i].ID] {
			if c := &w.log.claims[ss[i].ID][j]; c.fence == ss[i].Fence && !c.settledByThis {
				c.settledByThis, c.settled = true, began
			}
		}
	}
	w.log.mu.Unlock()
	return w.Store.Settle(ctx, ss...)
}

// overlaps returns how many claims came while another one's lease of the same envelope ran and was not given up.
func (l *claimLog) overlaps() (overlapping, claims int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, of := range l.claims {
		claims += len(of)
		for i := range of {
			for j := range of {
				first, second := &of[i], &of[j]
				if first.fence >= second.fence {
					continue
				}
				running := second.got.Before(first.asked.Add(first.lease))
				givenUp := first.settledByThis && first.settled.Before(second.got)
				if running && !givenUp {
					overlapping++
				}
			}
		}
	}
	return overlapping, claims
}

// fleet starts relays on one table, each with its own pool, connection and name, as separate processes have them.
func fleet(t *testing.T, n int, cfg rigConfig) []*rig {
	t.Helper()
	rigs := make([]*rig, n)
	for i := range rigs {
		rigs[i] = newRig(t, cfg)
	}
	return rigs
}

func TestFleet_claimsNothingTwiceWithinALease(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d, amqpURL := makeDatabase(t), testenv.RabbitMQ(t)
			declare(t, amqpURL, queue, quorum)
			log := newClaimLog()
			rigs := fleet(t, 4, rigConfig{
				database: d, amqpURL: amqpURL,
				broker:    []rabbitmqbroker.Option{rabbitmqbroker.WithoutDeclaring(), rabbitmqbroker.WithConfirmTimeout(10 * time.Second), rabbitmqbroker.WithBlockedTimeout(10 * time.Second)},
				outbox:    append([]tagging.Option{tagging.WithLease(time.Minute), tagging.WithPollInterval(20 * time.Millisecond)}, endless...),
				wrapStore: func(s reliable.Store) reliable.Store { return witnessed{s, log} },
			})
			sender, err := tagging.NewSender(rigs[0].store)
			require.NoError(t, err)
			const batches, batch = 40, 100
			for i := range batches {
				envs := make([]reliable.Envelope, batch)
				for j := range envs {
					envs[j] = order(fmt.Sprintf("%d-%d", i, j))
				}
				// Some are refused again and again, so that envelopes are claimed more than once.
				envs[0].Topic = refusedTopic
				_, err := sender.Publish(t.Context(), envs...)
				require.NoError(t, err)
			}
			rigs[0].eventuallySettledBut(batches)
			rigs[0].awaitRefusalsOf(rigs, 20)
			overlapping, claims := log.overlaps()
			assert.Zero(t, overlapping, "claims during another one's lease")
			assert.GreaterOrEqual(t, claims, batches*(batch-1))
			receipts := consume(t, amqpURL, queue)
			assert.Len(t, receipts, batches*(batch-1))
			for id, n := range receipts {
				assert.Equal(t, 1, n, "copies of %s", id)
			}
			busy := 0
			for _, r := range rigs {
				if r.seen.outcome(reliable.Acked) > 0 {
					busy++
				}
			}
			assert.Greater(t, busy, 1, "the work must be shared")
		})
	}
}

// awaitRefusalsOf is awaitRefusals over several relays.
func (r *rig) awaitRefusalsOf(rigs []*rig, n int) {
	r.t.Helper()
	require.Eventually(r.t, func() bool { return attemptsOf(rigs, refusedTopic) >= n }, patience, 20*time.Millisecond)
}

func attemptsOf(rigs []*rig, topic string) (n int) {
	for _, r := range rigs {
		n += r.seen.attempts(topic)
	}
	return n
}

func TestFleet_doesNotRetryMoreBecauseThereAreMoreOfIt(t *testing.T) {
	t.Parallel()
	const (
		refused = 200
		watched = 6 * time.Second
		pause   = 300 * time.Millisecond // shortened by up to half
	)
	attempts := func(t *testing.T, relays int) (n, most int) {
		amqpURL := testenv.RabbitMQ(t)
		declare(t, amqpURL, queue, quorum)
		rigs := fleet(t, relays, rigConfig{
			database: postgres(t), amqpURL: amqpURL, broker: notDeclaring,
			outbox: []tagging.Option{tagging.WithBackoff(pause, pause), tagging.WithPollInterval(50 * time.Millisecond)},
		})
		publishAll(t, rigs[0], refusedTopic, "refused", refused)
		rigs[0].awaitRefusalsOf(rigs, refused)
		before, began := attemptsOf(rigs, refusedTopic), time.Now()
		time.Sleep(watched)
		probes := attemptsOf(rigs, refusedTopic) - before
		// What one process would do at its quickest, and some for probes that two asked for at the same moment.
		most = int(2*time.Since(began)/pause) + 8
		t.Logf("%d relays: %d attempts at %d envelopes at first, then %d in %v", relays, before, refused, probes, watched)
		assert.NotZero(t, probes)
		return probes, most
	}
	for _, relays := range []int{1, 4} {
		n, most := attempts(t, relays)
		assert.LessOrEqual(t, n, most, "attempts of %d relays: the backoff is that of the fleet", relays)
	}
}
