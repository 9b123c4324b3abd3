package tagging_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// refusedStore is a store with n failed messages.
func refusedStore(t *testing.T, n int) (*memstore.Store, []reliable.ID) {
	t.Helper()
	store := memstore.New()
	envs, ids := make([]reliable.Envelope, n), make([]reliable.ID, n)
	for i := range envs {
		ids[i] = reliable.ID(fmt.Sprintf("order-%05d", i))
		envs[i] = reliable.Envelope{ID: ids[i], Topic: "orders", Payload: []byte("x")}
	}
	_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envs...)
	require.NoError(t, err)
	refuse(t, store)
	return store, ids
}

// refuse has everything that is due fail.
func refuse(t *testing.T, store reliable.Store) {
	t.Helper()
	for {
		attempts, err := store.Claim(t.Context(), reliable.ClaimRequest{Worker: "w", Max: 1000, Lease: time.Hour})
		require.NoError(t, err)
		if len(attempts) == 0 {
			return
		}
		settlements := make([]reliable.Settlement, len(attempts))
		for i, a := range attempts {
			settlements[i] = reliable.Settlement{
				ID: a.ID, Fence: a.Fence, Topic: a.Topic, Sent: true, Outcome: reliable.Rejected, To: reliable.Failed, Reason: "too large",
			}
		}
		_, err = store.Settle(t.Context(), settlements...)
		require.NoError(t, err)
	}
}

func TestOperator_pagesThroughAllThatMatches(t *testing.T) {
	store, ids := refusedStore(t, 1234)
	operator, err := tagging.NewOperator(store)
	require.NoError(t, err)
	var walked []reliable.ID
	for records, err := range operator.Pages(t.Context(), reliable.Filter{Status: reliable.Failed}) {
		require.NoError(t, err)
		for i := range records {
			walked = append(walked, records[i].ID)
		}
	}
	assert.ElementsMatch(t, ids, walked)
}

func TestOperator_decidesInBatchesAndAboutEachIDOnce(t *testing.T) {
	store, ids := refusedStore(t, 1234)
	operator, err := tagging.NewOperator(store)
	require.NoError(t, err)
	var decided []reliable.ID
	batches := 0
	for results, err := range operator.Decide(t.Context(), reliable.Requeue, "alice", "repaired", slices.Concat(ids, ids)...) {
		require.NoError(t, err)
		batches++
		for _, r := range results {
			assert.Equal(t, reliable.Decided, r.Verdict)
			decided = append(decided, r.ID)
		}
	}
	assert.Equal(t, ids, decided)
	assert.Equal(t, 3, batches)
}

// comingBack fails again at once what is requeued.
type comingBack struct {
	reliable.Store
	t      *testing.T
	inner  *memstore.Store
	faulty func(d reliable.Decision) error
}

func (c *comingBack) Unwrap() any { return c.inner }

func (c *comingBack) List(ctx context.Context, req reliable.ListRequest) (reliable.Page, error) {
	return c.inner.List(ctx, req)
}

func (c *comingBack) Decide(ctx context.Context, d reliable.Decision) ([]reliable.DecisionResult, error) {
	if c.faulty != nil {
		if err := c.faulty(d); err != nil {
			return nil, err
		}
	}
	results, err := c.inner.Decide(ctx, d)
	refuse(c.t, c.inner)
	return results, err
}

func TestOperator_decidesOnceAboutWhatComesBack(t *testing.T) {
	inner, ids := refusedStore(t, 1100)
	operator, err := tagging.NewOperator(&comingBack{Store: inner, t: t, inner: inner})
	require.NoError(t, err)
	decided := 0
	for results, err := range operator.DecideAll(t.Context(), reliable.Requeue, "alice", "hope", reliable.Filter{Status: reliable.Failed}, 0) {
		require.NoError(t, err)
		decided += len(results)
		require.LessOrEqual(t, decided, len(ids), "it goes round in circles")
	}
	assert.Equal(t, len(ids), decided)
}

func TestOperator_decidesAboutNoMoreThanTheLimit(t *testing.T) {
	store, _ := refusedStore(t, 1100)
	operator, err := tagging.NewOperator(store)
	require.NoError(t, err)
	decided := 0
	for results, err := range operator.DecideAll(t.Context(), reliable.Discard, "alice", "enough", reliable.Filter{Status: reliable.Failed}, 777) {
		require.NoError(t, err)
		decided += len(results)
	}
	assert.Equal(t, 777, decided)
}

func TestOperator_stopsAtAnErrorAndSaysIt(t *testing.T) {
	inner, _ := refusedStore(t, 1100)
	cut := errors.New("cut off")
	calls := 0
	operator, err := tagging.NewOperator(&comingBack{Store: inner, t: t, inner: inner, faulty: func(reliable.Decision) error {
		if calls++; calls == 2 {
			return cut
		}
		return nil
	}})
	require.NoError(t, err)
	decided := 0
	var failed error
	for results, err := range operator.DecideAll(t.Context(), reliable.Compensate, "alice", "refunded", reliable.Filter{Status: reliable.Failed}, 0) {
		decided += len(results)
		failed = err
	}
	require.ErrorIs(t, failed, cut)
	assert.Equal(t, 500, decided, "the first batch was recorded, and nothing after the error")
	assert.Equal(t, 2, calls)
}

func TestOperator_explainsNothingThatIsNotStored(t *testing.T) {
	store, _ := refusedStore(t, 1)
	operator, err := tagging.NewOperator(store)
	require.NoError(t, err)
	life, err := operator.Explain(t.Context(), "ORDER-00000")
	require.NoError(t, err)
	assert.Nil(t, life)
}

func TestOperator_explainsARequeuedMessageAsOneThatBeginsAnew(t *testing.T) {
	store, ids := refusedStore(t, 1)
	operator, err := tagging.NewOperator(store)
	require.NoError(t, err)
	claimed, err := store.ClaimFailed(t.Context(), reliable.ClaimRequest{Worker: "handler", Max: 1, Lease: time.Hour}, "orders")
	require.NoError(t, err)
	_, err = store.SettleCompensation(t.Context(), reliable.Compensation{
		ID: ids[0], Fence: claimed[0].Fence, Topic: "orders", Delay: time.Hour, Reason: "the bank is closed",
	})
	require.NoError(t, err)
	state := func() tagging.State {
		life, err := operator.Explain(t.Context(), ids[0])
		require.NoError(t, err)
		return life.Next.State
	}
	assert.Equal(t, tagging.CompensationLater, state())
	for _, err := range operator.Decide(t.Context(), reliable.Requeue, "alice", "again", ids[0]) {
		require.NoError(t, err)
	}
	assert.Equal(t, tagging.Due, state())
	refuse(t, store)
	assert.Equal(t, tagging.Undelivered, state(), "the handler's failures of before the requeue are no sign of a handler")

	life, err := operator.Explain(t.Context(), ids[0])
	require.NoError(t, err)
	whats := make([]string, len(life.Events))
	for i, event := range life.Events {
		whats[i] = event.What
	}
	assert.Equal(t, []string{
		"stored", "attempt with fence 1: rejected", "compensation handler failed", "requeue", "attempt with fence 4: rejected",
	}, whats)
}

func TestNewOperator_saysWhatTheStoreLacks(t *testing.T) {
	_, err := tagging.NewOperator(struct{ reliable.Store }{memstore.New()})
	require.ErrorIs(t, err, errors.ErrUnsupported)
}
