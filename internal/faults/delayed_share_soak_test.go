//go:build services && soak

package faults

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/testservers"
)

// The fault schedule that all ways to send meet, side by side.
const (
	shareSeed    = 6
	shareTime    = 2 * time.Minute
	shareEvery   = 80 * time.Millisecond // an order of each
	shareRestart = 20 * time.Second      // between two kills of the broker
	shareLostOf  = 100                   // checks, of which one is lost
)

// One fault schedule for every way to send: the broker and the producers are killed with -9 again and again, and checks are
// lost. It prints the table of docs/delayedcheck.md.
func TestSoakDelayed_theShareThatEachWayToSendDelivers(t *testing.T) {
	broker, ledgers := testservers.StartRabbitMQ(t), testservers.StartPostgres(t)
	var all []*supplied
	for suffix, way := range map[string]string{
		"tagging": byTagging, "checkfirst": byCheckFirst, "messagefirst": byMessageFirst, "publish": byPublish,
	} {
		all = append(all, &supplied{scenario: newScenario(t, suffix, way == byMessageFirst, broker, ledgers), way: way})
	}
	for _, s := range all {
		s.open()
	}
	random := rand.New(rand.NewPCG(shareSeed, 0))
	kills, restarts, back := 0, 0, closed()
	var away atomic.Int64
	began, restart := time.Now(), time.Now().Add(shareRestart)
	for time.Since(began) < shareTime {
		time.Sleep(3*time.Second + time.Duration(random.Int64N(int64(4*time.Second))))
		for _, s := range all {
			s.producer.kill()
		}
		kills++
		select {
		case <-back:
			if time.Now().After(restart) {
				restarts++
				broker.Kill()
				back = make(chan struct{})
				go func(killed time.Time) { // customers place orders meanwhile, and producers are killed
					defer close(back)
					broker.Start()
					away.Add(int64(time.Since(killed)))
				}(time.Now())
				restart = time.Now().Add(shareRestart)
			}
		default:
		}
		for _, s := range all {
			s.supply(shareEvery)
		}
	}
	<-back
	for _, s := range all {
		s.producer.kill()
		s.supply(0) // what is left is sent by a process that places no more
	}
	t.Logf("seed=%d time=%v kills=%d of each producer, restarts=%d of the broker, which was away for %v, one check in %d lost",
		shareSeed, time.Since(began).Round(time.Second), kills, restarts, time.Duration(away.Load()).Round(time.Second), shareLostOf)
	for _, s := range all {
		t.Run(s.part.Suffix, func(t *testing.T) {
			s.scenario.t = t
			s.audit()
		})
	}
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// supplied is a scenario under load.
type supplied struct {
	*scenario
	way      string
	runs     int
	producer *child
}

func (s *supplied) open() {
	s.start(consumerPart)
	if s.way == byCheckFirst || s.way == byMessageFirst {
		s.start(callbackPart)
	}
	s.supply(shareEvery)
}

func (s *supplied) supply(every time.Duration) {
	s.runs++
	s.producer = startChild(s.t, job{Supply: &supply{Way: s.way, Part: s.part, Run: s.runs, Every: every, LostOf: shareLostOf}})
}

// shareHeals is how long what is left may take once all is sound.
const shareHeals = 10 * time.Minute

// audit waits until nothing more can come, and counts.
func (s *supplied) audit() {
	s.producer.await("ready")
	switch s.way {
	case byTagging:
		require.Eventually(s.t, func() bool { return s.orders.pending() == 0 }, shareHeals, time.Second)
	case byCheckFirst, byMessageFirst:
		quiet := 0
		require.Eventually(s.t, func() bool {
			quiet++
			if s.ledger.pending()+s.waiting(s.part.checksTopic())+s.waiting(delayQueue(checkDelay)) > 0 {
				quiet = 0
			}
			return quiet > 3 // what moves is nowhere for a moment
		}, shareHeals, time.Second)
	}
	committed, copies := s.orders.orders(), s.copies()
	delivered, sent := 0, 0
	for id, n := range copies {
		require.True(s.t, committed[id], "%s: sent, and never committed: %s", s.way, id)
		delivered++
		sent += n
	}
	s.t.Logf("| %s | %d | %d | %d | %.2f %% | %d |", s.way, len(committed), delivered, len(committed)-delivered,
		100*float64(delivered)/float64(len(committed)), sent-delivered)
	if s.way == byTagging {
		assert.Len(s.t, copies, len(committed), "tagging loses nothing")
	}
}
