package engine

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
)

// claimStore is a store in which nothing is due, and of which only Claim is asked.
type claimStore struct {
	reliable.Store

	mu  sync.Mutex
	ats []time.Time
}

func (s *claimStore) Claim(context.Context, reliable.ClaimRequest) ([]reliable.Attempt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ats = append(s.ats, time.Now())
	return nil, nil
}

func (s *claimStore) claims() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ats
}

func TestClaimLoop_answersAWakeUpAtOnceAndAStormWithFewClaims(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := &claimStore{}
		e := New(Config{
			Store: store, Logger: slog.New(slog.DiscardHandler), StoreTimeout: time.Second, PollInterval: time.Minute, ClaimBatch: 10,
			Window: 100, Capacity: 100, CapacityBytes: 1 << 20,
		})
		e.window.open(false)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); e.claimLoop(ctx) }()
		defer func() { cancel(); <-done }()
		began := time.Now()
		after(time.Second)
		assert.Equal(t, []time.Time{began}, store.claims(), "it looks once, and waits")

		e.Kick()
		synctest.Wait()
		assert.Equal(t, []time.Time{began, began.Add(time.Second)}, store.claims(), "it was quiet before")
		e.Kick()
		after(minClaimPause)
		assert.Equal(t, began.Add(time.Second+minClaimPause), store.claims()[2], "not so soon after another")

		for range 1000 {
			e.Kick()
			after(time.Millisecond)
		}
		assert.InDelta(t, 3+time.Second/minClaimPause, len(store.claims()), 1)
	})
}
