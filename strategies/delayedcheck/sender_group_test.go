package delayedcheck_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// slowScheduler takes a second for each call, counts them, and refuses what it is told to.
type slowScheduler struct {
	refuse func(check delayedcheck.Check) error

	mu    sync.Mutex
	calls []int // how many checks each had
	atOne int
	most  int
}

func (s *slowScheduler) Schedule(ctx context.Context, _ time.Duration, envs ...reliable.Envelope) error {
	s.mu.Lock()
	s.calls = append(s.calls, len(envs))
	s.atOne++
	s.most = max(s.most, s.atOne)
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.atOne--; s.mu.Unlock() }()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	for i := range envs {
		check, err := delayedcheck.CheckOf(envs[i].Message())
		if err != nil {
			return err
		}
		if s.refuse == nil {
			continue
		}
		if err := s.refuse(check); err != nil {
			return err
		}
	}
	return nil
}

// publishTogether publishes n messages from as many goroutines and returns their errors.
func publishTogether(ctx context.Context, t *testing.T, scheduler reliable.Scheduler, n int) []error {
	broker := membroker.New()
	defer broker.Close()
	sender, err := delayedcheck.NewSender(broker, broker, scheduler, delayedcheck.WithGroups("billing"))
	require.NoError(t, err)
	stop := running(sender)
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = sender.Publish(ctx, order(reliable.ID(fmt.Sprint("order-", i)))) })
	}
	all.Wait()
	require.NoError(t, stop())
	return errs
}

func TestGroups_concurrentCallersShareCalls(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		scheduler := &slowScheduler{}
		start := time.Now()
		require.NoError(t, errors.Join(publishTogether(t.Context(), t, scheduler, 200)...))
		assert.Less(t, time.Since(start), 4*time.Second)
		assert.Less(t, len(scheduler.calls), 30)
		assert.LessOrEqual(t, scheduler.most, 16)
		total := 0
		for _, checks := range scheduler.calls {
			total += checks
		}
		assert.Equal(t, 200, total)
	})
}

func TestGroups_oneThatCanNeverBeTakenDoesNotSpoilTheOthers(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		scheduler := &slowScheduler{refuse: func(check delayedcheck.Check) error {
			if check.Message.ID == "order-42" {
				return reliable.Invalid("Payload", "is too large")
			}
			return nil
		}}
		for i, err := range publishTogether(t.Context(), t, scheduler, 100) {
			if i == 42 {
				require.ErrorIs(t, err, reliable.ErrInvalid)
			} else {
				require.NoError(t, err)
			}
		}
	})
}

func TestGroups_whoGivesUpDoesNotWaitForTheCall(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		start := time.Now()
		for _, err := range publishTogether(ctx, t, &slowScheduler{}, 100) {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		assert.Equal(t, 500*time.Millisecond, time.Since(start))
	})
}
