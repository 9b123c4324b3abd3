package retries

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable"
)

var errBroken = errors.New("cannot bill")

// failing fails for one message only.
func failing(id string) message.NoPublishHandlerFunc {
	return func(msg *message.Message) error {
		if msg.UUID == id {
			return errBroken
		}
		return nil
	}
}

// watched is a publisher that notes whether the message on which a copy is made was acked before the copy was confirmed.
type watched struct {
	message.Publisher

	mu       sync.Mutex
	original *message.Message // the one with the handler
	early    int
	copies   int
}

func (w *watched) handle(h message.NoPublishHandlerFunc) message.NoPublishHandlerFunc {
	return func(msg *message.Message) error {
		err := h(msg)
		if err != nil {
			w.mu.Lock()
			w.original = msg
			w.mu.Unlock()
		}
		return err
	}
}

func (w *watched) Publish(topic string, messages ...*message.Message) error {
	err := w.Publisher.Publish(topic, messages...)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		return err
	}
	w.copies++
	select {
	case <-w.original.Acked():
		w.early++
	default:
	}
	return nil
}

func TestPoisonMessage_blocksNothingAndEndsInThePoisonTopicBeforeItsOriginalIsAcked(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		publisher := &watched{Publisher: r.publisher}
		const delay = 5 * time.Second
		preset := r.preset(publisher, middleware.RetryDelayed(delay, delay))
		r.declare(append(preset.Topics(r.topic), r.topic)...)
		dead := r.reader(r.poison(), operators)
		r.consume(preset, publisher.handle(failing("order-bad")))
		healthy := ids("order", 20)
		r.send("ada", append([]string{"order-bad"}, healthy...)...) // one key, so one partition

		r.await(healthy[len(healthy)-1], 1)
		assert.Less(t, len(r.handled("order-bad")), 3, "the rest of its key has not waited for its retries")
		got := dead.next()
		assert.Equal(t, "order-bad", got.UUID)
		assert.Equal(t, "2 teapots", string(got.Payload))
		assert.Equal(t, "eu", got.Metadata["tenant"])
		assert.Equal(t, "ada", got.Metadata[reliable.HeaderKey])
		f, ok := middleware.FailureOf(got)
		require.True(t, ok)
		assert.Equal(t, r.topic, f.Topic)
		assert.Equal(t, 3, f.Attempts)
		assert.Equal(t, "cannot bill", f.Reason)
		assert.GreaterOrEqual(t, f.Last.Sub(f.First), 2*delay)
		assert.Len(t, r.handled("order-bad"), 3)
		for _, id := range healthy {
			assert.Len(t, r.handled(id), 1, id)
		}
		r.shut() // the copy may be read before its confirm is back
		assert.Equal(t, 3, publisher.copies, "two to retry topics, one to the poison topic")
		assert.Zero(t, publisher.early, "acked before the broker has confirmed the copy")
	})
}

func TestPoisonTopicMissing_messageIsRedeliveredUntilItIsThere(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		preset := r.preset(r.publisher)
		r.declare(r.topic)
		began := time.Now()
		r.consume(preset, failing("order-bad"))
		r.send("ada", "order-bad", "order-good")
		r.await("order-bad", 4)
		assert.Greater(t, time.Since(began), 200*time.Millisecond, "there was a pause")

		r.declare(r.poison())
		dead := r.reader(r.poison(), operators)
		assert.Equal(t, "order-bad", dead.next().UUID)
		r.await("order-good", 1)
		dead.none(2 * time.Second)
	})
}

func TestRestart_retriesGoOnWhereTheyWere(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		begin := func() {
			preset := r.preset(r.publisher, middleware.RetryDelayed(5*time.Second))
			r.declare(append(preset.Topics(r.topic), r.topic)...)
			r.consume(preset, failing("order-bad"))
		}
		begin()
		r.send("", "order-bad", "order-good")
		r.await("order-good", 1)
		r.await("order-bad", 1)
		r.shut() // the copy is in the retry topic, with a consumer that waits for it to be due

		r.open()
		begin()
		got := r.reader(r.poison(), operators).next()
		f, _ := middleware.FailureOf(got)
		assert.Equal(t, 2, f.Attempts, "the first one counts")
		tried := make(map[int]int)
		for _, call := range r.handled("order-bad") {
			tried[call.history.Attempts]++
		}
		assert.Len(t, tried, 2, "no copy is tried more often than that")
		assert.LessOrEqual(t, tried[1], tried[0], "each retry goes on from a first attempt")
		// Who dies before his ack is recorded gets the message again; watermill-sql records the acks of a batch together.
		assert.LessOrEqual(t, tried[0], 2)
	})
}

// replay replays the poison topic as often as it takes to find what it should. On a busy machine a member of a group may
// take its time to join, and a broker to deliver what another reader has just given back. Replayed is summed up.
func (r *rig) replay(enough func(middleware.Report) bool, opts ...middleware.ReplayOption) {
	r.t.Helper()
	var sum middleware.Report
	idle := 2 * time.Second
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); idle = min(2*idle, patience/8) {
		report, err := middleware.Replay(within(r.t), r.subscriber(operators), r.publisher, r.poison(),
			append([]middleware.ReplayOption{middleware.ReplayIdle(idle)}, opts...)...)
		require.NoError(r.t, err)
		require.True(r.t, report.Drained)
		report.Replayed += sum.Replayed
		if sum = report; enough(sum) {
			return
		}
	}
	require.Fail(r.t, "not found", "%+v", sum)
}

func TestReplay_bringsBackTheSameMessageAndLeavesTheOthers(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		var poisoned atomic.Int32
		preset := r.preset(r.publisher, middleware.WithHooks(middleware.Hooks{
			Poisoned: func(*message.Message, middleware.Failure) { poisoned.Add(1) },
		}))
		r.declare(append(preset.Topics(r.topic), r.topic)...)
		var repaired atomic.Bool
		r.consume(preset, func(*message.Message) error {
			if !repaired.Load() {
				return errBroken
			}
			return nil
		})
		all := ids("order", 5)
		r.send("ada", all...)
		require.Eventually(t, func() bool { return poisoned.Load() >= 5 }, patience, 10*time.Millisecond)
		// What one pass has held comes late in the next, which may end before it.
		seen := make(map[string]bool)
		r.replay(func(sum middleware.Report) bool { return len(seen) == 5 && sum.Kept == 0 }, middleware.ReplayDryRunThrough(),
			middleware.ReplayEach(func(msg *message.Message, _ middleware.Failure, _ middleware.ReplayResult) { seen[msg.UUID] = true }))
		for _, id := range all {
			assert.Len(t, r.handled(id), 1, "a dry run sends nothing")
		}

		repaired.Store(true)
		r.replay(func(sum middleware.Report) bool { return sum.Replayed == 2 && sum.Kept > 0 },
			middleware.ReplayIDs("order-01", "order-03"))
		r.await("order-01", 2)
		r.await("order-03", 2)
		assert.Equal(t, 1, r.handled("order-01")[1].history.Replays)
		assert.Len(t, r.handled("order-02"), 1, "it was not asked for")

		r.replay(func(sum middleware.Report) bool { return sum.Replayed == 3 })
		for _, id := range all {
			r.await(id, 2)
			assert.Len(t, r.handled(id), 2)
		}
	})
}

// Where several entries are read, and their acks recorded, at a time, what was replayed is gone although what was read
// behind it stays.
func TestReplay_ofOneEntryAmongManyTakesItAway(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		r.declare(r.topic, r.poison())
		all := ids("order", 13)
		wanted := all[len(all)-1]
		poisoned := make([]*message.Message, len(all))
		for i, id := range all {
			env := reliable.Envelope{ID: reliable.ID(id), Topic: r.poison(), Key: "ada", Payload: []byte("2 teapots")}
			poisoned[i] = env.Message()
			poisoned[i].Metadata[reliable.HeaderFailureTopic] = r.topic
			poisoned[i].Metadata[reliable.HeaderFailureGroup] = group
		}
		require.NoError(t, r.publisher.Publish(r.poison(), poisoned...))

		r.replay(func(sum middleware.Report) bool { return sum.Replayed == 1 && sum.Kept == len(all)-1 },
			middleware.ReplayIDs(reliable.ID(wanted)))
		left := make(map[string]int)
		r.replay(func(sum middleware.Report) bool { return sum.Replayed == len(all)-1 },
			middleware.ReplayEach(func(msg *message.Message, _ middleware.Failure, _ middleware.ReplayResult) { left[msg.UUID]++ }))
		assert.Zero(t, left[wanted], "it was replayed before")
		for _, id := range all[:len(all)-1] {
			assert.Equal(t, 1, left[id], id)
		}
	})
}
