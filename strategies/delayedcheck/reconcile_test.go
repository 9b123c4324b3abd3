package delayedcheck_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// orderTable is a table of orders in virtual time. A position is the order's number.
type orderTable struct {
	rows  []orderRow
	pages []int // what was asked for
	fails error
}

type orderRow struct {
	number  int
	at      time.Time
	visible bool
	gone    bool
}

func (o *orderTable) place(n int, visible bool) {
	for range n {
		o.rows = append(o.rows, orderRow{number: len(o.rows) + 1, at: time.Now(), visible: visible})
	}
}

func idOf(number int) reliable.ID { return reliable.ID(fmt.Sprintf("order-%04d", number)) }

func (o *orderTable) Rows(_ context.Context, after delayedcheck.Position, minAge time.Duration, limit int) ([]delayedcheck.Row, error) {
	o.pages = append(o.pages, limit)
	if o.fails != nil {
		return nil, o.fails
	}
	var rows []delayedcheck.Row
	for _, order := range o.rows {
		position := delayedcheck.Position(fmt.Sprintf("%04d", order.number))
		if order.visible && position > after && time.Since(order.at) >= minAge && len(rows) < limit {
			rows = append(rows, delayedcheck.Row{
				Position: position, Age: time.Since(order.at), ID: idOf(order.number), Groups: []string{"billing", "shipping"},
			})
		}
	}
	return rows, nil
}

func (o *orderTable) Message(_ context.Context, id reliable.ID) (reliable.Envelope, bool, error) {
	i := slices.IndexFunc(o.rows, func(order orderRow) bool { return idOf(order.number) == id })
	return reliable.Envelope{ID: id, Topic: "orders"}, !o.rows[i].gone, nil
}

type reconcileRig struct {
	orders orderTable
	ledger *memstore.Store
	sent   []reliable.ID
	fails  error
}

func (r *reconcileRig) send(_ context.Context, envs ...reliable.Envelope) error {
	if r.fails != nil {
		return r.fails
	}
	for _, env := range envs {
		r.sent = append(r.sent, env.ID)
	}
	return nil
}

func (r *reconcileRig) process(t *testing.T, group string, numbers ...int) {
	t.Helper()
	for _, number := range numbers {
		require.NoError(t, r.ledger.StoreProcessed(t.Context(), reliable.Processed{ID: idOf(number), Group: group}))
	}
}

func reconciling(t *testing.T, test func(t *testing.T, r *reconcileRig, reconciler *delayedcheck.Reconciler)) {
	t.Helper()
	virtualtime.Test(t, func(t *testing.T) {
		r := &reconcileRig{ledger: memstore.New()}
		reconciler, err := delayedcheck.NewReconciler(&r.orders, r.ledger, r.send, delayedcheck.WithPage(10),
			delayedcheck.WithLongestTransaction(5*time.Hour), delayedcheck.WithReconcilerLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		test(t, r, reconciler)
	})
}

func TestReconciler_sendsWhatNotEveryGroupHasProcessed(t *testing.T) {
	reconciling(t, func(t *testing.T, r *reconcileRig, reconciler *delayedcheck.Reconciler) {
		r.orders.place(25, true)
		for number := range 25 {
			r.process(t, "billing", number+1)
			if number+1 != 7 && number+1 != 25 {
				r.process(t, "shipping", number+1)
			}
		}
		r.process(t, "somebody else", 7)
		time.Sleep(time.Hour)
		r.orders.place(3, true) // too young: their checks look after them

		report, err := reconciler.Pass(t.Context(), "")
		require.NoError(t, err)
		assert.Equal(t, delayedcheck.Report{Rows: 25, Processed: 23, Resent: 2}, report)
		assert.Equal(t, []reliable.ID{"order-0007", "order-0025"}, r.sent)
		for _, page := range r.orders.pages {
			assert.Equal(t, 10, page)
		}
	})
}

func TestReconciler_seesRowsThatCommitLate(t *testing.T) {
	reconciling(t, func(t *testing.T, r *reconcileRig, reconciler *delayedcheck.Reconciler) {
		r.orders.place(3, true)
		time.Sleep(4 * time.Hour)
		r.orders.place(1, false) // a transaction that stays open for two hours
		r.orders.place(1, true)
		time.Sleep(time.Hour)
		first, err := reconciler.Pass(t.Context(), "")
		require.NoError(t, err)
		assert.Equal(t, delayedcheck.Report{Next: "0003", Rows: 4, Resent: 4}, first, "only what is older than any transaction is passed for good")

		r.process(t, "billing", 1, 2, 3, 5)
		r.process(t, "shipping", 1, 2, 3, 5)
		r.sent = nil
		time.Sleep(time.Hour)
		r.orders.rows[3].visible = true
		second, err := reconciler.Pass(t.Context(), first.Next)
		require.NoError(t, err)
		assert.Equal(t, delayedcheck.Report{Next: "0003", Rows: 2, Processed: 1, Resent: 1}, second)
		assert.Equal(t, []reliable.ID{"order-0004"}, r.sent)
	})
}

func TestReconciler_goesOnWhereItWasInterrupted(t *testing.T) {
	reconciling(t, func(t *testing.T, r *reconcileRig, reconciler *delayedcheck.Reconciler) {
		r.orders.place(10, true)
		for number := range 10 {
			r.process(t, "billing", number+1)
			r.process(t, "shipping", number+1)
		}
		r.orders.place(5, true)
		time.Sleep(6 * time.Hour)
		r.fails = errors.New("the broker is away")
		report, err := reconciler.Pass(t.Context(), "")
		require.ErrorIs(t, err, r.fails)
		assert.Equal(t, delayedcheck.Position("0010"), report.Next, "the page that failed is read again")

		r.fails = nil
		report, err = reconciler.Pass(t.Context(), report.Next)
		require.NoError(t, err)
		assert.Equal(t, delayedcheck.Report{Next: "0015", Rows: 5, Resent: 5}, report)
	})
}

func TestReconciler_leavesWhatIsGone(t *testing.T) {
	reconciling(t, func(t *testing.T, r *reconcileRig, reconciler *delayedcheck.Reconciler) {
		r.orders.place(2, true)
		r.orders.rows[0].gone = true
		time.Sleep(time.Hour)
		report, err := reconciler.Pass(t.Context(), "")
		require.NoError(t, err)
		assert.Equal(t, delayedcheck.Report{Rows: 2, Resent: 1, Gone: 1}, report)
		assert.Equal(t, []reliable.ID{"order-0002"}, r.sent)
	})
}

// stuck returns the same row again and again.
type stuck struct{ orderTable }

func (s *stuck) Rows(context.Context, delayedcheck.Position, time.Duration, int) ([]delayedcheck.Row, error) {
	return []delayedcheck.Row{{Position: "0001", ID: idOf(1), Groups: []string{"billing"}}}, nil
}

func TestReconciler_refusesASourceThatStandsStill(t *testing.T) {
	source := &stuck{}
	source.place(1, true)
	r := &reconcileRig{ledger: memstore.New()}
	reconciler, err := delayedcheck.NewReconciler(source, r.ledger, r.send)
	require.NoError(t, err)
	_, err = reconciler.Pass(t.Context(), "")
	require.ErrorIs(t, err, reliable.ErrInvalid)
	assert.ErrorContains(t, err, "behind the position")
}

func TestReconciler_reportsAllThatIsWrongTogether(t *testing.T) {
	_, err := delayedcheck.NewReconciler(nil, struct{}{}, nil, delayedcheck.WithMinAge(-1), delayedcheck.WithLongestTransaction(-1),
		delayedcheck.WithPage(0), delayedcheck.WithReconcilerLogger(nil))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, field := range []string{"source", "ledger", "send", "WithMinAge", "WithLongestTransaction", "WithPage", "WithReconcilerLogger"} {
		assert.ErrorContains(t, err, field)
	}
}
