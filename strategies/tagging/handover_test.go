package tagging_test

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// oneDatabase is a store and a broker in the same place: an envelope is confirmed by being moved. It counts what is
// settled besides, and refuses what is sent to the topic "refused".
type oneDatabase struct {
	*memstore.Store

	mu       sync.Mutex
	mover    reliable.Mover
	messages []reliable.ID
	confirms []reliable.Confirm
	settled  int
	ready    chan struct{}
}

func newOneDatabase() *oneDatabase {
	return &oneDatabase{Store: memstore.New(), ready: make(chan struct{}, 1)}
}

func (d *oneDatabase) Settle(ctx context.Context, ss ...reliable.Settlement) ([]reliable.SettleResult, error) {
	d.mu.Lock()
	d.settled += len(ss)
	d.mu.Unlock()
	return d.Store.Settle(ctx, ss...)
}

func (d *oneDatabase) settledSoFar() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.settled
}

func (d *oneDatabase) Database(context.Context) (string, error) { return "here", nil }

func (d *oneDatabase) Move(
	ctx context.Context, moves []reliable.Move, insert func(context.Context, reliable.MoveTx, []int) error,
) ([]bool, error) {
	moved := make([]bool, len(moves))
	for i, m := range moves {
		if err := insert(ctx, nil, []int{i}); err != nil {
			return nil, err
		}
		results, err := d.Store.Settle(ctx, reliable.Settlement{
			ID: m.ID, Fence: m.Fence, Topic: m.Topic, Key: m.Key, Sent: true, Outcome: reliable.Acked, To: reliable.Confirmed,
		})
		if err != nil {
			return nil, err
		}
		moved[i] = results[0] == reliable.Applied
	}
	return moved, nil
}

func (d *oneDatabase) Join(m reliable.Mover) { d.mover = m }

func (d *oneDatabase) Publish(ctx context.Context, batch []reliable.Attempt) (int, error) {
	for i := range batch {
		a := &batch[i]
		confirm := reliable.Confirm{ID: a.ID, Fence: a.Fence, Outcome: reliable.Returned, Err: reliable.ErrUnroutable}
		if a.Topic != "refused" {
			moved, err := d.mover.Move(ctx, []reliable.Move{{ID: a.ID, Fence: a.Fence, Topic: a.Topic, Key: a.Key}},
				func(context.Context, reliable.MoveTx, []int) error {
					d.mu.Lock()
					defer d.mu.Unlock()
					d.messages = append(d.messages, a.ID)
					return nil
				})
			if err != nil {
				return i, err
			}
			confirm = reliable.Confirm{ID: a.ID, Fence: a.Fence, Outcome: reliable.Acked, Settled: moved[0]}
		}
		d.mu.Lock()
		d.confirms = append(d.confirms, confirm)
		d.mu.Unlock()
		select {
		case d.ready <- struct{}{}:
		default:
		}
	}
	return len(batch), nil
}

func (d *oneDatabase) Receive(ctx context.Context, limit int) ([]reliable.Confirm, error) {
	if limit < 1 {
		return nil, io.ErrShortBuffer
	}
	for {
		d.mu.Lock()
		n := min(limit, len(d.confirms))
		taken := d.confirms[:n:n]
		d.confirms = d.confirms[n:]
		d.mu.Unlock()
		if n > 0 {
			return taken, nil
		}
		select {
		case <-d.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func TestHandOver_inTheStoresTransactionIsNotSettledAgain(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		d := newOneDatabase()
		var mu sync.Mutex // the hook is called by several goroutines of the engine
		var settled []reliable.ID
		o, err := tagging.New(d, d, d, tagging.WithoutRetention(), tagging.WithHooks(tagging.Hooks{
			Settled: func(_ *reliable.Attempt, s *reliable.Settlement, r reliable.SettleResult) {
				mu.Lock()
				defer mu.Unlock()
				if s.To == reliable.Confirmed && r == reliable.Applied {
					settled = append(settled, s.ID)
				}
			},
		}))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- o.Run(ctx) }()
		synctest.Wait()

		var envs []reliable.Envelope
		for i := range 30 { // three of a key, which follow one another, and others
			envs = append(envs, reliable.Envelope{ID: reliable.ID(fmt.Sprint("k", i)), Topic: "orders", Key: fmt.Sprint(i % 10)},
				reliable.Envelope{ID: reliable.ID(fmt.Sprint("u", i)), Topic: "orders"})
		}
		receipt, err := o.Publish(t.Context(), envs...)
		require.NoError(t, err)
		statuses, err := receipt.Wait(t.Context())
		require.NoError(t, err)
		for _, status := range statuses {
			assert.Equal(t, reliable.Confirmed, status)
		}
		synctest.Wait()
		assert.Zero(t, d.settledSoFar(), "what was moved is recorded already")
		assert.Len(t, d.messages, 60)
		assert.Len(t, settled, 60, "the hooks hear of it all the same")

		_, err = o.Publish(t.Context(), reliable.Envelope{ID: "refused", Topic: "refused"})
		require.NoError(t, err)
		time.Sleep(time.Second)
		assert.Positive(t, d.settledSoFar(), "what was refused is settled as ever")
		cancel()
		require.NoError(t, <-ran, "nothing is left in flight")
	})
}

func TestHandOver_countsInTheReportOfAPass(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		d := newOneDatabase()
		stored(t, d.Store, many("orders", "m", 500)...)
		o, err := tagging.New(d, d, d)
		require.NoError(t, err)
		report, err := o.SweepOnce(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 500, report.Claimed)
		assert.Equal(t, 500, report.Confirmed)
		assert.Equal(t, map[reliable.Status]int{reliable.Confirmed: 500}, countStatus(d.Store, "orders"))
	})
}
