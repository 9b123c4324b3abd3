package watermillbroker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/adapters/watermillbroker"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
)

// sarama's metrics keep one goroutine for as long as the process lives.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// fake is a Watermill publisher whose calls do as handle says.
type fake struct {
	handle func(topic string, msg *message.Message) error

	mu      sync.Mutex
	begun   []string
	running int
	most    int
}

func (f *fake) Publish(topic string, msgs ...*message.Message) error {
	f.mu.Lock()
	f.begun = append(f.begun, msgs[0].UUID)
	f.running++
	f.most = max(f.most, f.running)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.running--
		f.mu.Unlock()
	}()
	return f.handle(topic, msgs[0])
}

func (f *fake) Close() error { return nil }

func (f *fake) calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.begun...)
}

func attemptOf(id, key string) reliable.Attempt {
	return reliable.Attempt{Envelope: reliable.Envelope{ID: reliable.ID(id), Topic: "orders", Key: key, Payload: []byte(id)}, Fence: 1}
}

func open(t *testing.T, f *fake, opts ...watermillbroker.Option) *watermillbroker.Broker {
	t.Helper()
	b, err := watermillbroker.New(f, opts...)
	require.NoError(t, err)
	return b
}

func receive(t *testing.T, b *watermillbroker.Broker, n int) map[reliable.ID]reliable.Confirm {
	t.Helper()
	got := make(map[reliable.ID]reliable.Confirm)
	for range n {
		confirms, err := b.Receive(t.Context(), 1)
		require.NoError(t, err)
		require.Len(t, confirms, 1)
		got[confirms[0].ID] = confirms[0]
	}
	return got
}

func TestPublish_anErrorIsUnknownUnlessItSaysItsOutcome(t *testing.T) {
	errSocket := errors.New("socket gone")
	f := &fake{handle: func(_ string, msg *message.Message) error {
		switch msg.UUID {
		case "lost":
			return errSocket
		case "returned":
			return fmt.Errorf("wrapped: %w", &reliable.PublishError{ID: "returned", Outcome: reliable.Returned})
		}
		return nil
	}}
	b := open(t, f)
	n, err := b.Publish(t.Context(), []reliable.Attempt{attemptOf("fine", ""), attemptOf("lost", ""), attemptOf("returned", "")})
	require.NoError(t, err)
	require.Equal(t, 3, n)
	got := receive(t, b, 3)
	assert.Equal(t, reliable.Confirm{ID: "fine", Fence: 1, Outcome: reliable.Acked}, got["fine"])
	assert.Equal(t, reliable.Unknown, got["lost"].Outcome)
	assert.ErrorIs(t, got["lost"].Err, errSocket)
	assert.Equal(t, reliable.Returned, got["returned"].Outcome)
	require.NoError(t, b.Close())
}

func TestWithClassifier_decidesWhatAnErrorMeans(t *testing.T) {
	f := &fake{handle: func(_ string, msg *message.Message) error { return errors.New(msg.UUID) }}
	b := open(t, f, watermillbroker.WithClassifier(func(err error) reliable.Outcome {
		if err.Error() == "duplicate" {
			return reliable.Acked
		}
		return reliable.Nacked
	}))
	_, err := b.Publish(t.Context(), []reliable.Attempt{attemptOf("duplicate", ""), attemptOf("full", "")})
	require.NoError(t, err)
	got := receive(t, b, 2)
	assert.Equal(t, reliable.Confirm{ID: "duplicate", Fence: 1, Outcome: reliable.Acked}, got["duplicate"])
	assert.Equal(t, reliable.Nacked, got["full"].Outcome)
	require.NoError(t, b.Close())
}

func TestPublish_runsNoMoreCallsThanTheConcurrency(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		f := &fake{handle: func(string, *message.Message) error {
			time.Sleep(time.Second)
			return nil
		}}
		b := open(t, f, watermillbroker.WithConcurrency(3))
		for i := range 10 {
			n, err := b.Publish(t.Context(), []reliable.Attempt{attemptOf(fmt.Sprint(i), "")})
			require.NoError(t, err)
			require.Equal(t, 1, n)
		}
		receive(t, b, 10)
		assert.Equal(t, 3, f.most)
		require.NoError(t, b.Close())
	})
}

func TestPublish_keepsTheOrderOfAKeyWhateverTheConcurrency(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		ended := make(map[string][]string)
		delays := []int{9, 2, 7, 1, 5} // milliseconds
		f := &fake{}
		f.handle = func(_ string, msg *message.Message) error {
			time.Sleep(time.Duration(delays[len(f.calls())%len(delays)]) * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			key := msg.Metadata.Get(reliable.HeaderKey)
			ended[key] = append(ended[key], msg.UUID)
			return nil
		}
		b := open(t, f, watermillbroker.WithConcurrency(8))
		want := make(map[string][]string)
		for i := range 60 {
			key, id := fmt.Sprint("key-", i%4), fmt.Sprint(i)
			want[key] = append(want[key], id)
			_, err := b.Publish(t.Context(), []reliable.Attempt{attemptOf(id, key)})
			require.NoError(t, err)
		}
		receive(t, b, 60)
		assert.Equal(t, want, ended)
		assert.Greater(t, f.most, 1, "keys waited for each other")
		require.NoError(t, b.Close())
	})
}

// A publisher that hangs must not make the relay hang: the attempt is answered, a second one for the same id is not begun
// beside the first, and other messages go on.
func TestPublish_aCallThatHangsIsUnknownAfterTheTimeoutAndKeepsItsIDToItself(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		f := &fake{handle: func(_ string, msg *message.Message) error {
			if msg.UUID == "hangs" {
				<-release
			}
			return nil
		}}
		b := open(t, f, watermillbroker.WithTimeout(time.Second))
		began := time.Now()
		_, err := b.Publish(t.Context(), []reliable.Attempt{attemptOf("hangs", "")})
		require.NoError(t, err)
		got := receive(t, b, 1)
		assert.Equal(t, reliable.Unknown, got["hangs"].Outcome)
		assert.Equal(t, b.MaxConfirmWait(), time.Since(began))

		again := attemptOf("hangs", "")
		again.Fence = 2
		n, err := b.Publish(t.Context(), []reliable.Attempt{again, attemptOf("other", "")})
		require.NoError(t, err)
		require.Equal(t, 2, n)
		got = receive(t, b, 2)
		assert.Equal(t, reliable.Unknown, got["hangs"].Outcome)
		assert.Equal(t, int64(2), got["hangs"].Fence)
		assert.Equal(t, reliable.Acked, got["other"].Outcome)
		assert.Equal(t, []string{"hangs", "other"}, f.calls(), "a second call was begun beside the one that hangs")

		close(release)
		synctest.Wait()
		again.Fence = 3
		_, err = b.Publish(t.Context(), []reliable.Attempt{again})
		require.NoError(t, err)
		assert.Equal(t, reliable.Acked, receive(t, b, 1)["hangs"].Outcome, "its id was not free again")
		require.NoError(t, b.Close())
	})
}

func TestPublish_blocksUntilItsContextEndsWhenEveryCallHangs(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		f := &fake{handle: func(string, *message.Message) error { <-release; return nil }}
		b := open(t, f, watermillbroker.WithTimeout(time.Second), watermillbroker.WithConcurrency(2))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		n, err := b.Publish(ctx, []reliable.Attempt{attemptOf("1", ""), attemptOf("2", ""), attemptOf("3", "")})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 2, n)
		receive(t, b, 2)
		require.NoError(t, b.Close())
		close(release)
	})
}

func TestPublish_theContextOfTheMessageEndsWithTheTimeout(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		f := &fake{handle: func(_ string, msg *message.Message) error {
			<-msg.Context().Done()
			return msg.Context().Err()
		}}
		b := open(t, f, watermillbroker.WithTimeout(time.Second))
		_, err := b.Publish(t.Context(), []reliable.Attempt{attemptOf("1", "")})
		require.NoError(t, err)
		assert.Equal(t, reliable.Unknown, receive(t, b, 1)["1"].Outcome)
		require.NoError(t, b.Close())
	})
}

// After Unknown the caller may reuse the payload, while the call that hangs still reads it.
func TestPublish_aCallThatHangsDoesNotReadTheCallersPayload(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		read := make(chan string, 1)
		f := &fake{handle: func(_ string, msg *message.Message) error {
			<-release
			read <- string(msg.Payload)
			return nil
		}}
		b := open(t, f, watermillbroker.WithTimeout(time.Second))
		a := attemptOf("payload", "")
		_, err := b.Publish(t.Context(), []reliable.Attempt{a})
		require.NoError(t, err)
		receive(t, b, 1)
		copy(a.Payload, "#######")
		close(release)
		assert.Equal(t, "payload", <-read)
		require.NoError(t, b.Close())
	})
}

func TestPublish_anAttemptAloneHasNoCompany(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		company := 0
		f := &fake{}
		f.handle = func(_ string, msg *message.Message) error {
			time.Sleep(time.Second)
			f.mu.Lock()
			defer f.mu.Unlock()
			if msg.UUID == "alone" {
				company = f.running - 1
			}
			return nil
		}
		b := open(t, f)
		solo := attemptOf("alone", "")
		solo.Alone = true
		batch := []reliable.Attempt{attemptOf("1", ""), attemptOf("2", ""), solo, attemptOf("3", ""), attemptOf("4", "")}
		_, err := b.Publish(t.Context(), batch)
		require.NoError(t, err)
		receive(t, b, 5)
		assert.Zero(t, company)
		assert.Equal(t, 2, f.most)
		require.NoError(t, b.Close())
	})
}

func TestClose_givesUpCallsThatHang(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		f := &fake{handle: func(string, *message.Message) error { <-release; return nil }}
		b := open(t, f, watermillbroker.WithTimeout(time.Hour), watermillbroker.WithCloseTimeout(3*time.Second))
		_, err := b.Publish(t.Context(), []reliable.Attempt{attemptOf("1", ""), attemptOf("2", "")})
		require.NoError(t, err)
		began := time.Now()
		require.ErrorIs(t, b.Close(), reliable.ErrDrain)
		assert.Equal(t, 3*time.Second, time.Since(began))
		for _, confirm := range receive(t, b, 2) {
			assert.Equal(t, reliable.Unknown, confirm.Outcome)
			assert.ErrorIs(t, confirm.Err, reliable.ErrClosed)
		}
		_, err = b.Receive(t.Context(), 1)
		require.ErrorIs(t, err, io.EOF)
		close(release)
	})
}

func TestClose_waitsForCallsThatRun(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		f := &fake{handle: func(string, *message.Message) error { time.Sleep(time.Second); return nil }}
		b := open(t, f)
		_, err := b.Publish(t.Context(), []reliable.Attempt{attemptOf("1", "")})
		require.NoError(t, err)
		require.NoError(t, b.Close())
		assert.Equal(t, reliable.Acked, receive(t, b, 1)["1"].Outcome)
	})
}

func TestNew_reportsAllContradictionsTogether(t *testing.T) {
	_, err := watermillbroker.New(nil,
		watermillbroker.WithConcurrency(0), watermillbroker.WithWindow(-1), watermillbroker.WithTimeout(0),
		watermillbroker.WithCloseTimeout(-1), watermillbroker.WithClassifier(nil))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, field := range []string{
		"publisher", "WithConcurrency", "WithWindow", "WithTimeout", "WithCloseTimeout", "WithClassifier",
	} {
		assert.ErrorContains(t, err, "invalid "+field)
	}
}
