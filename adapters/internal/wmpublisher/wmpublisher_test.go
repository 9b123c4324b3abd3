package wmpublisher_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/adapters/internal/wmpublisher"
	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(b *membroker.Broker, opts ...wmpublisher.Option) *wmpublisher.Publisher {
	c := b.Connect()
	return wmpublisher.New(c, c, c.Close, opts...)
}

func messages(n int) []*message.Message {
	msgs := make([]*message.Message, n)
	for i := range msgs {
		msgs[i] = message.NewMessage(fmt.Sprint(i), []byte("x"))
	}
	return msgs
}

func scripted(verdicts map[reliable.ID]membroker.Verdict, opts ...membroker.Option) *membroker.Broker {
	return membroker.New(append(opts, membroker.WithScript(func(a membroker.Attempt) membroker.Verdict {
		return verdicts[a.ID]
	}))...)
}

func TestPublish_costsOneRoundTripHoweverManyMessages(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := membroker.New(membroker.WithLatency(time.Second))
		p := open(b)
		began := time.Now()
		require.NoError(t, p.Publish("orders", messages(100)...))
		assert.Equal(t, time.Second, time.Since(began))
		assert.Len(t, b.Delivered("orders"), 100)
		require.NoError(t, p.Close())
		require.NoError(t, b.Close())
	})
}

func TestPublish_namesEachMessageThatWasNotAckedWithItsOutcomeAndCause(t *testing.T) {
	cause := errors.New("no queue")
	b := scripted(map[reliable.ID]membroker.Verdict{
		"1": {Act: membroker.Return, Err: cause}, "3": {Act: membroker.Nack}, "4": {Act: membroker.Reject},
		"6": {Act: membroker.LoseConfirm},
	})
	p := open(b)
	err := p.Publish("orders", messages(8)...)
	failed := make(map[reliable.ID]reliable.Outcome)
	for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
		for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
			var one *reliable.PublishError
			require.ErrorAs(t, err, &one)
			assert.Equal(t, "orders", one.Topic)
			failed[one.ID] = one.Outcome
		}
	}
	assert.Equal(t, map[reliable.ID]reliable.Outcome{
		"1": reliable.Returned, "3": reliable.Nacked, "4": reliable.Rejected, "6": reliable.Unknown,
	}, failed)
	for _, target := range []error{
		reliable.ErrUnroutable, reliable.ErrNacked, reliable.ErrRejected, reliable.ErrUnknown, cause,
	} {
		assert.ErrorIs(t, err, target)
	}
	require.NoError(t, p.Close())
	require.NoError(t, b.Close())
}

func TestPublish_saysWhatWasNotSent(t *testing.T) {
	b := scripted(map[reliable.ID]membroker.Verdict{"3": {Act: membroker.Refuse}, "1": {Act: membroker.Nack}})
	p := open(b)
	err := p.Publish("orders", messages(5)...)
	require.ErrorIs(t, err, membroker.ErrRefused)
	require.ErrorIs(t, err, reliable.ErrNacked)
	assert.ErrorContains(t, err, `2 of 5 messages not sent, the first of them "3"`)
	assert.Len(t, b.Delivered("orders"), 2)
	require.NoError(t, p.Publish("orders", messages(5)[4]), "what was not sent is not in flight")
	require.NoError(t, p.Close())
	require.NoError(t, b.Close())
}

func TestPublish_takesNoOtherAttemptsConfirmForItsOwn(t *testing.T) {
	b := scripted(map[reliable.ID]membroker.Verdict{"0": {Act: membroker.Nack}})
	stray := make(chan struct{})
	p := wmpublisherOver(b, func([]reliable.Attempt) {}, func(confirms []reliable.Confirm) {
		for i := range confirms {
			confirms[i].Fence, confirms[i].Outcome = confirms[i].Fence+1, reliable.Acked
		}
		if len(confirms) > 0 {
			close(stray)
		}
	})
	ended := make(chan error, 1)
	go func() { ended <- p.Publish("orders", messages(1)...) }()
	<-stray
	require.NoError(t, p.Close())
	require.ErrorIs(t, <-ended, reliable.ErrUnknown)
	require.NoError(t, b.Close())
}

func TestPublish_aUUIDIsNeverInFlightTwice(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		inFlight, most := make(map[reliable.ID]bool), 0
		b := membroker.New(membroker.WithLatency(time.Second))
		p := wmpublisherOver(b, func(batch []reliable.Attempt) {
			for i := range batch {
				if inFlight[batch[i].ID] {
					most++
				}
				inFlight[batch[i].ID] = true
			}
		}, func(confirms []reliable.Confirm) {
			for _, confirm := range confirms {
				delete(inFlight, confirm.ID)
			}
		})
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() {
				msgs := messages(4)
				assert.NoError(t, p.Publish("orders", append(msgs, msgs[2], msgs[0])...))
			})
		}
		calls.Wait()
		assert.Zero(t, most)
		assert.Len(t, b.Delivered("orders"), 18)
		require.NoError(t, p.Close())
		require.NoError(t, b.Close())
	})
}

// spy sees attempts and confirms pass; calls are serialised, as the bubble's scheduling is.
type spy struct {
	*membroker.Conn
	mu       sync.Mutex
	publish  func([]reliable.Attempt)
	received func([]reliable.Confirm)
}

func wmpublisherOver(
	b *membroker.Broker, publish func([]reliable.Attempt), received func([]reliable.Confirm),
) *wmpublisher.Publisher {
	s := &spy{Conn: b.Connect(), publish: publish, received: received}
	return wmpublisher.New(s, s, s.Close)
}

func (s *spy) Publish(ctx context.Context, batch []reliable.Attempt) (int, error) {
	s.mu.Lock()
	s.publish(batch)
	s.mu.Unlock()
	return s.Conn.Publish(ctx, batch)
}

func (s *spy) Receive(ctx context.Context, limit int) ([]reliable.Confirm, error) {
	confirms, err := s.Conn.Receive(ctx, limit)
	s.mu.Lock()
	s.received(confirms)
	s.mu.Unlock()
	return confirms, err
}

func TestPublish_isUnknownAfterTheConfirmTimeoutAndTheIDIsFreeAgainWithItsAnswer(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := scripted(map[reliable.ID]membroker.Verdict{"0": {Delay: 10 * time.Second}})
		p := open(b, wmpublisher.WithConfirmTimeout(3*time.Second))
		began := time.Now()
		err := p.Publish("orders", messages(2)...)
		require.ErrorIs(t, err, reliable.ErrUnknown)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, "no confirm within 3s")
		assert.Equal(t, 3*time.Second, time.Since(began))

		err = p.Publish("orders", messages(1)...)
		require.ErrorContains(t, err, "its id is still in flight")
		assert.Len(t, b.Attempts(), 2, "an id was handed over again before its confirm")
		time.Sleep(5 * time.Second)
		err = p.Publish("orders", messages(1)...)
		require.ErrorIs(t, err, reliable.ErrUnknown, "the second try takes its 10 s, too")
		assert.Len(t, b.Attempts(), 3)
		require.NoError(t, p.Close())
		require.NoError(t, b.Close())
	})
}

func TestPublish_endsWithTheContextOfAnyOfItsMessages(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := membroker.New(membroker.WithLatency(time.Hour), membroker.WithConfirmTimeout(2*time.Hour))
		p := open(b, wmpublisher.WithConfirmTimeout(2*time.Hour))
		msgs := messages(3)
		ctx, cancel := context.WithCancel(t.Context())
		msgs[1].SetContext(ctx)
		time.AfterFunc(time.Minute, cancel)
		began := time.Now()
		err := p.Publish("orders", msgs...)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, reliable.ErrUnknown)
		assert.Equal(t, time.Minute, time.Since(began))
		require.NoError(t, p.Close())
		require.NoError(t, b.Close())
	})
}

func TestClose_endsCallsThatWaitWithWhatBecameOfThem(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := membroker.New(membroker.WithLatency(time.Minute), membroker.WithConfirmTimeout(time.Hour))
		p := open(b)
		ended := make(chan error, 1)
		go func() { ended <- p.Publish("orders", messages(2)...) }()
		synctest.Wait()
		require.NoError(t, p.Close())
		err := <-ended
		require.ErrorIs(t, err, reliable.ErrUnknown)
		require.ErrorIs(t, err, reliable.ErrClosed)
		require.NoError(t, p.Close())
		require.ErrorIs(t, p.Publish("orders", messages(1)...), reliable.ErrClosed)
		require.NoError(t, b.Close())
	})
}

func TestPublish_afterThePairWasClosedByOthersDoesNotHang(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := membroker.New()
		p := open(b)
		require.NoError(t, p.Publish("orders", messages(1)...))
		require.NoError(t, b.Close())
		for range 2 {
			require.ErrorIs(t, p.Publish("orders", messages(1)...), reliable.ErrClosed)
		}
		require.NoError(t, p.Close())
	})
}

func TestClose_doesNotWaitForAPairThatNeverEnds(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := membroker.New()
		c := b.Connect()
		p := wmpublisher.New(c, c, func() error { return nil }, wmpublisher.WithConfirmTimeout(time.Second))
		require.NoError(t, p.Publish("orders", messages(1)...))
		began := time.Now()
		require.ErrorIs(t, p.Close(), reliable.ErrDrain)
		assert.Equal(t, time.Second, time.Since(began))
		require.NoError(t, b.Close())
	})
}

func TestNew_startsNoGoroutineUntilTheFirstPublish(t *testing.T) {
	before := goleak.IgnoreCurrent()
	b := membroker.New()
	p := open(b)
	require.NoError(t, p.Publish("orders"))
	require.NoError(t, goleak.Find(before))
	require.NoError(t, p.Close())
	require.NoError(t, b.Close())
}

func TestPublish_givesAMessageWithoutUUIDAnID(t *testing.T) {
	b := membroker.New()
	p := open(b)
	require.NoError(t, p.Publish("orders", message.NewMessage("", nil), message.NewMessage("", nil)))
	delivered := b.Delivered("orders")
	require.Len(t, delivered, 2)
	assert.NotEmpty(t, delivered[0].ID)
	assert.NotEqual(t, delivered[0].ID, delivered[1].ID)
	require.NoError(t, p.Close())
	require.NoError(t, b.Close())
}
