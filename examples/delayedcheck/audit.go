package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/waybillmq/waybill/examples/internal/backends"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

// Result compares what was committed with what was received.
type Result struct {
	Orders     int // committed
	Confirmed  int // of these, with a processed confirm in the ledger
	Failed     int // resend requests that were given up
	Pending    int // resend requests under way
	Delivered  int // of the committed orders, by the consumer's log
	Duplicates int // receipts beyond the first of each message
	Lost       int // committed and not delivered
	Phantoms   int // delivered, never committed
	Checks     int // answered by the callback service
	Resends    int // made by the shop
	byKill     int // of these, of the order whose message was not sent because the shop was killed
	unchecked  int // committed orders of which no check was answered yet
}

// String is the line that scripts look for.
func (r Result) String() string {
	return fmt.Sprintf("orders=%d confirmed=%d failed=%d pending=%d delivered=%d duplicates=%d lost=%d checks=%d resends=%d",
		r.Orders, r.Confirmed, r.Failed, r.Pending, r.Delivered, r.Duplicates, r.Lost, r.Checks, r.Resends)
}

// Err is nil if what was promised was kept, and if the kill had the effect that the example is about.
func (r Result) Err() error {
	var broken []error
	for _, wrong := range []struct {
		is   bool
		what string
	}{
		{r.Lost > 0, fmt.Sprintf("%d committed orders were not delivered", r.Lost)},
		{r.Phantoms > 0, fmt.Sprintf("%d orders were delivered that no transaction committed", r.Phantoms)},
		{r.Failed > 0, fmt.Sprintf("%d resend requests were given up", r.Failed)},
		{r.Pending > 0, fmt.Sprintf("%d resend requests are still pending", r.Pending)},
		{r.Confirmed < r.Orders, fmt.Sprintf("%d orders were not confirmed", r.Orders-r.Confirmed)},
		{r.unchecked > 0, fmt.Sprintf("the checks of %d orders were not answered", r.unchecked)},
		{r.byKill == 0, "nothing was sent again although the shop was killed before it sent"},
	} {
		if wrong.is {
			broken = append(broken, errors.New(wrong.what))
		}
	}
	return errors.Join(broken...)
}

// audit counts from the outside: the business table, the consumer's log, and the ledger.
type audit struct {
	shop, shipping, callback backend.Store
	held                     reliable.ID // the order whose message was not sent
}

func openAudit(ctx context.Context, s stage, held reliable.ID) (_ *audit, err error) {
	a := &audit{held: held}
	for databaseURL, store := range map[string]*backend.Store{s.Shop: &a.shop, s.Shipping: &a.shipping, s.Callback: &a.callback} {
		if *store, err = backends.Stores.Open(ctx, databaseURL); err != nil {
			return nil, errors.Join(err, a.close())
		}
	}
	return a, nil
}

func (a *audit) close() (err error) {
	for _, store := range []backend.Store{a.shop, a.shipping, a.callback} {
		if store != nil {
			err = errors.Join(err, store.Close())
		}
	}
	return err
}

// awaitQuiet looks until nothing is left to be done, or patience ends.
func (a *audit) awaitQuiet(ctx context.Context, patience time.Duration) (Result, error) {
	look := time.NewTicker(200 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(patience); ; {
		result, err := a.count(ctx)
		if err != nil || result.Err() == nil || time.Now().After(deadline) {
			return result, err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return result, ctx.Err()
		}
	}
}

func (a *audit) count(ctx context.Context) (r Result, err error) {
	committed, err := ids(ctx, a.shop, `SELECT id FROM orders`)
	if err != nil {
		return r, err
	}
	received, err := ids(ctx, a.shipping, `SELECT id FROM receipts`)
	if err != nil {
		return r, err
	}
	// A check that was delivered twice is one.
	answered, err := ids(ctx, a.callback, `SELECT id FROM (SELECT DISTINCT check_id, id FROM answered) AS checks`)
	if err != nil {
		return r, err
	}
	resent, err := ids(ctx, a.shop, `SELECT id FROM resends`)
	if err != nil {
		return r, err
	}
	r.Orders, r.Checks, r.Resends = len(committed), sum(answered), sum(resent)
	r.byKill = resent[string(a.held)]
	for id, receipts := range received {
		if committed[id] == 0 {
			r.Phantoms++
		}
		r.Duplicates += receipts - 1
	}
	var all []reliable.ID
	for id := range committed {
		all = append(all, reliable.ID(id))
		if received[id] > 0 {
			r.Delivered++
		} else {
			r.Lost++
		}
		if answered[id] == 0 {
			r.unchecked++
		}
	}
	return r, a.countLedger(ctx, all, &r)
}

func (a *audit) countLedger(ctx context.Context, all []reliable.ID, r *Result) error {
	confirms, ok := reliable.Ability[reliable.Confirmations](a.callback)
	requests, inspected := reliable.Ability[reliable.Inspector](a.callback)
	if !ok || !inspected {
		return errors.New("the store cannot be a ledger, or cannot be asked")
	}
	for first := 0; first < len(all); first += reliable.MaxProcessed {
		processed, err := confirms.ProcessedBy(ctx, all[first:min(first+reliable.MaxProcessed, len(all))]...)
		if err != nil {
			return err
		}
		r.Confirmed += len(processed)
	}
	topics, err := requests.Stats(ctx)
	if err != nil {
		return err
	}
	for _, topic := range topics {
		r.Failed += topic.Failed
		r.Pending += topic.Pending
	}
	return nil
}

// ids returns how often each id is in the answer to a query.
func ids(ctx context.Context, store backend.Store, query string) (map[string]int, error) {
	db, err := backends.Database(store)
	if err != nil {
		return nil, err
	}
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	counts := make(map[string]int)
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		counts[id]++
	}
	return counts, rows.Err()
}

func sum(counts map[string]int) (all int) {
	for _, n := range counts {
		all += n
	}
	return all
}
