package rabbitmqbroker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
)

// fakeChannel behaves as amqp091's channel towards a session, at the test's command.
type fakeChannel struct {
	mu        sync.Mutex
	published []*fakePending // the delivery tag is the index + 1
	closed    bool
	whenSent  func(tag int) // called before publish returns
	stuck     chan struct{} // publish waits until it is closed
	returns   chan amqp.Return
	closes    chan *amqp.Error
	blocked   chan amqp.Blocking
}

type fakePending struct {
	id    string
	done  chan struct{}
	acked bool
}

func (p *fakePending) Done() <-chan struct{} { return p.done }
func (p *fakePending) Acked() bool           { return isDone(p.done) && p.acked }

func newFakeChannel(window int) *fakeChannel {
	return &fakeChannel{
		returns: make(chan amqp.Return, window), closes: make(chan *amqp.Error, 1), blocked: make(chan amqp.Blocking, 16),
	}
}

func (f *fakeChannel) link() link {
	return link{
		channel: f, returns: f.returns, closed: f.closes, blocked: f.blocked,
		together: func(publish func()) { publish() },
		abort:    func() { f.die(nil) }, close: func() { f.die(nil) },
	}
}

func (f *fakeChannel) publish(_, _ string, _ bool, msg *amqp.Publishing) (pending, error) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil, amqp.ErrClosed
	}
	p := &fakePending{id: msg.MessageId, done: make(chan struct{})}
	f.published = append(f.published, p)
	tag, whenSent, stuck := len(f.published), f.whenSent, f.stuck
	f.mu.Unlock()
	if stuck != nil {
		<-stuck
		return nil, amqp.ErrClosed
	}
	if whenSent != nil {
		whenSent(tag)
	}
	return p, nil
}

func (f *fakeChannel) isClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

// answer resolves a tag, or with multiple all up to it. A tag that was answered before is left alone, as amqp091 does.
func (f *fakeChannel) answer(tag int, multiple, ack bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	from := tag
	if multiple {
		from = 1
	}
	for i := from; i <= min(tag, len(f.published)); i++ {
		f.published[i-1].resolve(ack)
	}
}

func (p *fakePending) resolve(ack bool) {
	if !isDone(p.done) {
		p.acked = ack
		close(p.done)
	}
}

// comeBack returns a message, then acks it.
func (f *fakeChannel) comeBack(tag int) {
	f.sendBack(tag)
	f.answer(tag, false, true)
}

func (f *fakeChannel) sendBack(tag int) {
	f.mu.Lock()
	id := f.published[tag-1].id
	f.mu.Unlock()
	f.returns <- amqp.Return{MessageId: id, ReplyCode: amqp.NoRoute, ReplyText: "NO_ROUTE"}
}

// die closes the channel in amqp091's order: marked closed, the reason told, what is pending given up.
func (f *fakeChannel) die(reason *amqp.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.closed = true
	if f.stuck != nil {
		close(f.stuck)
	}
	if reason != nil {
		f.closes <- reason
	}
	close(f.closes)
	close(f.returns)
	for _, p := range f.published {
		p.resolve(false)
	}
}

func (f *fakeChannel) tags() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.published)
}

// bench is a session on a fake channel, with what it delivered.
type bench struct {
	t *testing.T
	*fakeChannel
	s     *session
	stop  context.CancelFunc
	cause chan error

	delivery  sync.Mutex
	delivered map[reliable.ID][]reliable.Confirm
}

// confirms returns what was delivered so far.
func (b *bench) confirms() map[reliable.ID][]reliable.Confirm {
	b.delivery.Lock()
	defer b.delivery.Unlock()
	return maps.Clone(b.delivered)
}

const (
	testConfirmTimeout = 10 * time.Second
	testBlockedTimeout = 25 * time.Second
)

// newBench must be called in a synctest bubble.
func newBench(t *testing.T, change ...func(*sessionConfig)) *bench {
	t.Helper()
	b := &bench{
		t: t, fakeChannel: newFakeChannel(100), delivered: make(map[reliable.ID][]reliable.Confirm), cause: make(chan error, 1),
	}
	config := sessionConfig{
		confirmTimeout: testConfirmTimeout, blockedTimeout: testBlockedTimeout, mandatory: true,
		onBlocking: func(amqp.Blocking) {}, onReturn: func(string) {},
		deliver: func(confirms []reliable.Confirm) {
			b.delivery.Lock()
			defer b.delivery.Unlock()
			for _, c := range confirms {
				b.delivered[c.ID] = append(b.delivered[c.ID], c)
			}
		},
	}
	for _, f := range change {
		f(&config)
	}
	b.s = newSession(b.link(), config)
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	go func() { b.cause <- b.s.run(ctx) }()
	return b
}

func (b *bench) offer(ids ...reliable.ID) bool {
	entries := make([]*entry, 0, len(ids))
	for _, id := range ids {
		entries = append(entries, &entry{id: id, fence: 7, topic: "orders", msg: amqp.Publishing{MessageId: string(id)}})
	}
	ok := b.s.offer(entries)
	synctest.Wait()
	return ok
}

// settle lets the session work until it has nothing to do but wait, ticks included.
func (b *bench) settle() {
	time.Sleep(2 * scanEvery)
	synctest.Wait()
}

func (b *bench) end() error {
	b.stop()
	return <-b.cause
}

// outcome requires that there is one confirm.
func (b *bench) outcome(id reliable.ID) reliable.Confirm {
	b.t.Helper()
	confirms := b.confirms()[id]
	require.Len(b.t, confirms, 1, "confirms of %q", id)
	require.EqualValues(b.t, 7, confirms[0].Fence)
	return confirms[0]
}

func (b *bench) requireOutcome(id reliable.ID, want reliable.Outcome) reliable.Confirm {
	b.t.Helper()
	c := b.outcome(id)
	require.Equal(b.t, want.String(), c.Outcome.String(), "%q: %v", id, c.Err)
	return c
}

func TestSession_anAckThatComesBeforePublishHasReturnedIsNotLost(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.whenSent = func(tag int) { b.answer(tag, false, true) }
		b.offer("a", "b")
		b.requireOutcome("a", reliable.Acked)
		b.requireOutcome("b", reliable.Acked)
		require.ErrorIs(t, b.end(), reliable.ErrClosed)
	})
}

func TestSession_aReturnThatComesBeforePublishHasReturnedIsNotLost(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.whenSent = b.comeBack
		b.offer("a", "b")
		b.requireOutcome("a", reliable.Returned)
		b.requireOutcome("b", reliable.Returned)
		_ = b.end()
	})
}

func TestSession_oneAckForSeveralConfirmsEachOfThem(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.offer("a", "b", "c", "d")
		b.answer(3, true, true)
		synctest.Wait()
		for _, id := range []reliable.ID{"a", "b", "c"} {
			b.requireOutcome(id, reliable.Acked)
		}
		require.Empty(t, b.confirms()["d"])
		b.answer(4, true, false)
		synctest.Wait()
		b.requireOutcome("d", reliable.Nacked)
		_ = b.end()
	})
}

func TestSession_anAckForATagOfAnotherSessionConfirmsNothing(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		old, fresh := newBench(t), newBench(t)
		old.offer("a")
		old.die(nil)
		require.ErrorIs(t, <-old.cause, reliable.ErrConnectionLost)
		old.requireOutcome("a", reliable.Unknown)
		require.False(t, old.offer("b"), "a session that is over takes nothing")

		fresh.offer("b")
		old.answer(1, true, true) // a late ack of the old channel's tag 1, which is b's tag on the new one
		fresh.settle()
		require.Empty(t, fresh.confirms())
		old.requireOutcome("a", reliable.Unknown)
		fresh.answer(1, false, true)
		synctest.Wait()
		fresh.requireOutcome("b", reliable.Acked)
		_ = fresh.end()
	})
}

func TestSession_returnedThenAckedIsReturned(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var lost []string
		b := newBench(t, func(c *sessionConfig) { c.onReturn = func(topic string) { lost = append(lost, topic) } })
		b.offer("a", "b", "c")
		b.sendBack(2)
		b.answer(3, true, true)
		synctest.Wait()
		b.requireOutcome("a", reliable.Acked)
		require.ErrorContains(t, b.requireOutcome("b", reliable.Returned).Err, "NO_ROUTE")
		b.requireOutcome("c", reliable.Acked)
		require.Equal(t, []string{"orders"}, lost)
		_ = b.end()
	})
}

func TestSession_aNackOnALiveChannelIsNacked(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.offer("a")
		b.answer(1, false, false)
		synctest.Wait()
		b.requireOutcome("a", reliable.Nacked)
		_ = b.end()
	})
}

func TestSession_whatTheClientGivesUpBecauseTheConnectionDiedIsUnknown(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.offer("acked", "returned", "unanswered")
		b.mu.Lock() // the three at once, so that nothing is settled in between
		b.published[0].resolve(true)
		b.mu.Unlock()
		b.sendBack(2)
		b.die(&amqp.Error{Code: amqp.NotFound, Reason: "no exchange", Server: true})
		cause := <-b.cause
		require.ErrorIs(t, cause, reliable.ErrConnectionLost)
		b.requireOutcome("acked", reliable.Acked)
		b.requireOutcome("returned", reliable.Returned)
		c := b.requireOutcome("unanswered", reliable.Unknown)
		require.ErrorIs(t, c.Err, reliable.ErrConnectionLost)
		var reason *amqp.Error
		require.ErrorAs(t, c.Err, &reason)
	})
}

func TestSession_aReturnJustBeforeTheEndIsReturned(t *testing.T) {
	for range 50 { // which of the two the session sees first is chance
		virtualtime.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.whenSent = func(tag int) { // even before publish has returned
				b.sendBack(tag)
				b.die(nil)
			}
			b.offer("a")
			_ = <-b.cause
			b.requireOutcome("a", reliable.Returned)
		})
	}
}

func TestSession_aloneTheServersCloseCodeDecides(t *testing.T) {
	for _, test := range []struct {
		reason *amqp.Error
		want   reliable.Outcome
	}{
		{&amqp.Error{Code: amqp.NotFound, Server: true}, reliable.Returned},
		{&amqp.Error{Code: amqp.AccessRefused, Server: true}, reliable.Returned},
		{&amqp.Error{Code: amqp.PreconditionFailed, Server: true}, reliable.Rejected},
		{&amqp.Error{Code: amqp.ContentTooLarge, Server: true}, reliable.Rejected},
		{&amqp.Error{Code: amqp.FrameError, Server: true}, reliable.Rejected},
		{&amqp.Error{Code: amqp.SyntaxError, Server: true}, reliable.Rejected},
		{&amqp.Error{Code: amqp.FrameError}, reliable.Unknown}, // how the client calls a broken pipe
		{&amqp.Error{Code: amqp.ConnectionForced, Server: true}, reliable.Unknown},
		{&amqp.Error{Code: amqp.InternalError, Server: true}, reliable.Unknown},
		{nil, reliable.Unknown},
	} {
		t.Run(fmt.Sprint(test.reason), func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				b := newBench(t, func(c *sessionConfig) { c.alone = true })
				b.offer("a")
				b.die(test.reason)
				_ = <-b.cause
				b.requireOutcome("a", test.want)
			})
		})
	}
}

func TestSession_anAnswerIsNotHeldUpByAnUnansweredOneBeforeIt(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.offer("slow", "b", "c")
		b.answer(2, false, true)
		b.answer(3, false, false)
		b.settle()
		require.Empty(t, b.confirms()["slow"])
		b.requireOutcome("b", reliable.Acked)
		b.requireOutcome("c", reliable.Nacked)
		_ = b.end()
		require.ErrorIs(t, b.requireOutcome("slow", reliable.Unknown).Err, reliable.ErrClosed)
	})
}

func TestSession_withoutAnAnswerInTimeTheConnectionIsAbandonedAndSuspectsNobody(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := newBench(t)
		began := time.Now()
		b.offer("a")
		time.Sleep(testConfirmTimeout / 2)
		b.offer("b")
		b.answer(2, false, true)
		b.offer("c")
		require.ErrorIs(t, <-b.cause, errNoConfirm)
		require.WithinRange(t, time.Now(), began.Add(testConfirmTimeout), began.Add(testConfirmTimeout+time.Second))
		require.True(t, b.isClosed())
		require.NotErrorIs(t, b.requireOutcome("a", reliable.Unknown).Err, reliable.ErrConnectionLost)
		b.requireOutcome("b", reliable.Acked)
		b.requireOutcome("c", reliable.Unknown)
	})
}

func TestSession_aBlockedBrokerHasLongerButNotForEver(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := newBench(t)
		began := time.Now()
		b.offer("a")
		b.blocked <- amqp.Blocking{Active: true}
		time.Sleep(testConfirmTimeout + time.Second)
		require.Empty(t, b.confirms())
		require.ErrorIs(t, <-b.cause, errNoConfirm)
		require.WithinRange(t, time.Now(), began.Add(testBlockedTimeout), began.Add(testBlockedTimeout+time.Second))
	})
}

func TestSession_afterAnAlarmTheConfirmTimeoutStartsAgainWithinTheBlockedOne(t *testing.T) {
	for _, test := range []struct{ alarm, want time.Duration }{
		{8 * time.Second, 8*time.Second + testConfirmTimeout}, {20 * time.Second, testBlockedTimeout},
	} {
		virtualtime.Test(t, func(t *testing.T) {
			b := newBench(t)
			began := time.Now()
			b.offer("a")
			b.blocked <- amqp.Blocking{Active: true}
			time.Sleep(test.alarm)
			b.blocked <- amqp.Blocking{Active: false}
			_ = <-b.cause
			require.WithinRange(t, time.Now(), began.Add(test.want), began.Add(test.want+time.Second))
		})
	}
}

func TestSession_aWriteThatIsStuckEndsWithTheConfirmTimeout(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.stuck = make(chan struct{})
		require.True(t, b.offer("a", "b"))
		require.True(t, b.offer("c"), "handing over does not wait for the socket")
		require.ErrorIs(t, <-b.cause, errNoConfirm)
		for _, id := range []reliable.ID{"a", "b", "c"} {
			b.requireOutcome(id, reliable.Unknown)
		}
	})
}

func TestSession_aWriteThatFailsLeavesEverythingUnknown(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.offer("a")
		b.mu.Lock()
		b.closed = true // as if the channel had just been closed, and nobody were told yet
		b.mu.Unlock()
		b.offer("b")
		b.closes <- &amqp.Error{Code: amqp.NotFound, Server: true}
		require.ErrorIs(t, <-b.cause, reliable.ErrConnectionLost)
		b.requireOutcome("a", reliable.Unknown)
		b.requireOutcome("b", reliable.Unknown)
		for _, p := range b.published {
			p.resolve(false)
		}
	})
}

// TestSession_eachAttemptHasOneTruthfulConfirm lets everything happen in random order, and compares with what the broker
// has said by then.
func TestSession_eachAttemptHasOneTruthfulConfirm(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		errs := make(chan error, 1)
		virtualtime.Test(t, func(t *testing.T) { errs <- randomHistory(t, rt) })
		if err := <-errs; err != nil {
			rt.Fatal(err)
		}
	})
}

func randomHistory(t *testing.T, rt *rapid.T) error {
	b := newBench(t)
	said := make(map[reliable.ID]reliable.Outcome) // what the broker has said on the living channel
	var handed []reliable.ID
	id := func(tag int) reliable.ID { return reliable.ID(b.published[tag-1].id) }
	say := func(tag int, outcome reliable.Outcome) {
		if _, answered := said[id(tag)]; !answered {
			said[id(tag)] = outcome
		}
	}
	tag := func() int { return rapid.IntRange(1, b.tags()).Draw(rt, "tag") }
	for range rapid.IntRange(1, 60).Draw(rt, "steps") {
		event := rapid.SampledFrom([]string{
			"offer", "offer", "ack", "nack", "ack all", "nack all", "return", "come back", "wait", "tick",
		}).Draw(rt, "event")
		if b.tags() == 0 {
			event = "offer"
		}
		switch event {
		case "offer":
			if len(b.returns) > 50 || len(handed) > 90 {
				continue // the window
			}
			var ids []reliable.ID
			for range rapid.IntRange(1, 5).Draw(rt, "n") {
				ids = append(ids, reliable.ID(fmt.Sprint("id-", len(handed)+len(ids))))
			}
			handed = append(handed, ids...)
			if !b.offer(ids...) {
				return errors.New("a living session takes nothing")
			}
		case "ack", "nack":
			n := tag()
			if event == "ack" {
				say(n, reliable.Acked)
			} else {
				say(n, reliable.Nacked)
			}
			b.answer(n, false, event == "ack")
		case "ack all", "nack all":
			n := tag()
			for i := 1; i <= n; i++ {
				if event == "ack all" {
					say(i, reliable.Acked)
				} else {
					say(i, reliable.Nacked)
				}
			}
			b.answer(n, true, event == "ack all")
		case "return", "come back":
			n := tag()
			if _, answered := said[id(n)]; answered {
				continue // a return comes before its ack, and once
			}
			said[id(n)] = reliable.Returned
			b.sendBack(n)
			if event == "come back" {
				b.answer(n, false, true)
			}
		case "wait":
			synctest.Wait()
		case "tick":
			b.settle()
		}
	}
	settled := rapid.Bool().Draw(rt, "settled before the end")
	if settled {
		b.settle()
	}
	switch rapid.SampledFrom([]string{"die", "close code", "stop", "time out"}).Draw(rt, "end") {
	case "die":
		b.die(nil)
	case "close code":
		b.die(&amqp.Error{Code: amqp.NotFound, Server: true})
	case "stop":
		b.stop()
	case "time out":
		if b.offer("last") {
			handed = append(handed, "last")
		}
	}
	_ = <-b.cause
	confirms := b.confirms()
	for _, id := range handed {
		if n := len(confirms[id]); n != 1 {
			return fmt.Errorf("%s has %d confirms", id, n)
		}
		got, want := confirms[id][0].Outcome, said[id]
		// A nack that the end of the channel overtook looks like the end of the channel.
		if got != want && (settled || want != reliable.Nacked || got != reliable.Unknown) {
			return fmt.Errorf("%s is %v, the broker said %v", id, got, want)
		}
	}
	if len(confirms) != len(handed) {
		return fmt.Errorf("%d ids have confirms, %d were handed over", len(confirms), len(handed))
	}
	assert.Empty(t, b.s.entries)
	return nil
}
