package schedulertest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// punctual demands that what was booked has come, not early and not late. slack is how much later it may be for what
// happened to it on its way.
func punctual(t testing.TB, h Harness, l *log, booked []booking, slack time.Duration) {
	t.Helper()
	for _, b := range booked {
		a, ok := l.first(b.id)
		if !assert.True(t, ok, "%s never came", b.id) {
			continue
		}
		assert.GreaterOrEqual(t, a.at.Sub(b.from), b.delay, "%s came early", b.id)
		assert.LessOrEqual(t, a.at.Sub(b.until), b.delay+h.Tolerance+slack+busy, "%s came late", b.id)
	}
}

func onTime(t testing.TB, h Harness) {
	s := h.Open(t)
	topic := s.Topic(t)
	l := listen(t, s, topic)
	var booked []booking
	for i := range 5 {
		for _, delay := range []time.Duration{h.Delay, h.Delay / 2, 3 * h.Delay} {
			booked = append(booked, schedule(t, s.Scheduler, delay, envelope(topic, fmt.Sprint(i)))...)
		}
	}
	l.await(t, len(booked), 3*h.Delay+patience)
	for i := range booked {
		if booked[i].delay < h.Delay { // it is rounded up
			a, _ := l.first(booked[i].id)
			assert.GreaterOrEqual(t, a.at.Sub(booked[i].from), booked[i].delay, "%s came early", booked[i].id)
			booked[i].delay = 0
		}
	}
	punctual(t, h, l, booked, h.Delay)
}

func unchanged(t testing.TB, h Harness) {
	s := h.Open(t)
	topic := s.Topic(t)
	l := listen(t, s, topic)
	sent := []reliable.Envelope{
		{ID: "order-1", Topic: topic, Payload: []byte("plain")},
		{ID: "Order-1", Topic: topic, Payload: []byte("another id")},
		{ID: "order-2", Topic: topic, Key: "customer-7", Payload: []byte("keyed")},
		{ID: "order-3", Topic: topic, Payload: []byte{0, 0xff, 0xfe, '\n'}, Metadata: map[string]string{"traceparent": "00-ab", "grüße": "an alle"}},
		{ID: "order-4", Topic: topic, Payload: []byte{}, Metadata: map[string]string{"empty": ""}},
	}
	schedule(t, s.Scheduler, h.Delay, sent...)
	l.await(t, len(sent), h.Delay+patience)
	for _, want := range sent {
		a, _ := l.first(want.ID)
		assert.Equal(t, want.Key, a.envelope.Key, want.ID)
		assert.Equal(t, string(want.Payload), string(a.envelope.Payload), want.ID)
		for name, value := range want.Metadata {
			assert.Equal(t, value, a.envelope.Metadata[name], "%s: %s", want.ID, name)
		}
	}
}

func notBehindLonger(t testing.TB, h Harness) {
	s := h.Open(t)
	topic := s.Topic(t)
	l := listen(t, s, topic)
	long := schedule(t, s.Scheduler, 3*h.Delay, envelope(topic, "long"))
	short := schedule(t, s.Scheduler, h.Delay, envelope(topic, "short"))
	l.await(t, 2, 3*h.Delay+patience)
	early, _ := l.first(short[0].id)
	late, _ := l.first(long[0].id)
	assert.True(t, early.at.Before(late.at), "the short delay came %v after the long one", early.at.Sub(late.at))
}

func nackedComesAgain(t testing.TB, h Harness) {
	s := h.Open(t)
	topic := s.Topic(t)
	messages := s.Subscribe(t, topic)
	schedule(t, s.Scheduler, h.Delay, envelope(topic, "nacked"))
	for _, ack := range []bool{false, true} {
		select {
		case msg := <-messages:
			require.NotNil(t, msg)
			if ack {
				msg.Ack()
			} else {
				msg.Nack()
			}
		case <-time.After(h.Delay + patience):
			require.FailNow(t, "the message did not come", "ack %v", ack)
		}
	}
}

func refusals(t testing.TB, h Harness) {
	s := h.Open(t)
	topic := s.Topic(t)
	require.ErrorIs(t, s.Scheduler.Schedule(t.Context(), -time.Second, envelope(topic, "")), reliable.ErrInvalid)
	require.ErrorIs(t, s.Scheduler.Schedule(t.Context(), h.Delay, envelope("", "")), reliable.ErrInvalid, "no topic")
	if h.TooLong > 0 {
		require.ErrorIs(t, s.Scheduler.Schedule(t.Context(), h.TooLong, envelope(topic, "")), reliable.ErrInvalid)
	}
}

func nothing(t testing.TB, h Harness) {
	require.NoError(t, h.Open(t).Scheduler.Schedule(t.Context(), h.Delay))
}

func endedContext(t testing.TB, h Harness) {
	s := h.Open(t)
	topic := s.Topic(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, s.Scheduler.Schedule(ctx, h.Delay, envelope(topic, "")))
}

func outlivesScheduler(t testing.TB, h Harness) {
	s := h.Open(t)
	if s.Reopen == nil {
		t.Log("not claimed: another process goes on with what was accepted")
		return
	}
	topic := s.Topic(t)
	l := listen(t, s, topic)
	booked := schedule(t, s.Scheduler, 3*h.Delay, envelope(topic, "1"), envelope(topic, "2"))
	again := s.Reopen(t)
	booked = append(booked, schedule(t, again, h.Delay, envelope(topic, "3"))...)
	l.await(t, len(booked), 3*h.Delay+patience)
	punctual(t, h, l, booked, h.Delay)
}

// outlivesCrash kills the broker with messages waiting in it. What Schedule returned nil for must come.
func outlivesCrash(t testing.TB, h Harness) {
	if h.OpenToCrash == nil {
		t.Log("not claimed: what was accepted outlives a crash of the broker")
		return
	}
	s := h.OpenToCrash(t)
	topic := s.Topic(t)
	l := listen(t, s, topic)
	var booked []booking
	for range 20 {
		envs := make([]reliable.Envelope, 25)
		for i := range envs {
			envs[i] = envelope(topic, "crash")
		}
		booked = append(booked, schedule(t, s.Scheduler, 3*h.Delay, envs...)...)
	}
	s.Crash(t)
	l.await(t, len(booked), 3*h.Delay+2*patience)
	punctual(t, h, l, booked, patience)
}

func many(t testing.TB, h Harness) {
	s := h.Open(t)
	topic := s.Topic(t)
	l := listen(t, s, topic)
	const goroutines, batch = 16, 25
	var (
		group  sync.WaitGroup
		lock   sync.Mutex
		booked []booking
	)
	for range goroutines {
		group.Go(func() {
			for range h.Volume / goroutines / batch {
				envs := make([]reliable.Envelope, batch)
				for i := range envs {
					envs[i] = envelope(topic, "many")
				}
				mine := schedule(t, s.Scheduler, h.Delay, envs...)
				lock.Lock()
				booked = append(booked, mine...)
				lock.Unlock()
			}
		})
	}
	group.Wait()
	l.await(t, len(booked), h.Delay+patience)
	punctual(t, h, l, booked, 0)
}
