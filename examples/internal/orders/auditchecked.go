package orders

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/waybillmq/waybill/reliable"
)

// auditChecked counts from the outside: the business table, the consumer's log, and the ledger for what was confirmed.
func auditChecked(ctx context.Context, b Backend, s *shop, c *consumer, declined reliable.ID) (Result, error) {
	committed, err := s.committed(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("read the orders: %w", err)
	}
	receipts, err := c.receipts(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("read the consumer's log: %w", err)
	}
	ledger, ok := reliable.Ability[reliable.Confirmations](b.Store)
	if !ok {
		return Result{}, errors.New("the store can be no ledger")
	}
	r := Result{declined: declined}
	for first := 0; first < len(committed); first += reliable.MaxProcessed {
		processed, err := ledger.ProcessedBy(ctx, committed[first:min(first+reliable.MaxProcessed, len(committed))]...)
		if err != nil {
			return Result{}, fmt.Errorf("look up confirms: %w", err)
		}
		r.Confirmed += len(processed)
	}
	requests, err := b.Store.Stats(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("look at resend requests: %w", err)
	}
	for _, topic := range requests {
		r.Pending += topic.Pending
		r.Failed += topic.Failed
	}
	// Nothing here can fail for good: a request that did is no excuse for an order that was not delivered.
	return r.compared(committed, receipts, nil), nil
}

// printChecked writes what happened, and the line.
func (r Result) printChecked(out io.Writer) error {
	was := "was never sent"
	if r.Phantoms > 0 {
		was = "or another one that was never committed WAS SENT"
	}
	_, err := fmt.Fprintf(out, "\nrolled back: %s, %s\n\n%s checks=%d resends=%d\n", r.declined, was, r, r.Checks, r.Resends)
	return err
}
