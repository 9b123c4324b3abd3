package orders

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Result compares what was committed with what was received.
type Result struct {
	Orders     int // committed
	Confirmed  int // of these, by the outbox
	Failed     int
	Pending    int
	Delivered  int // of these, by the consumer's log
	Duplicates int // receipts beyond the first of each message
	Lost       int // committed, neither delivered nor failed
	Phantoms   int // delivered, never committed

	Checks  int // of how many messages a check was answered; without a message row only, as what follows
	Resends int // copies that were sent because a check found no confirm

	Lasted time.Duration // from the first order to the last receipt, the outage included

	failures []reliable.Record
	declined reliable.ID
}

// String is the line that scripts look for.
func (r Result) String() string {
	return fmt.Sprintf("orders=%d confirmed=%d failed=%d pending=%d delivered=%d duplicates=%d lost=%d",
		r.Orders, r.Confirmed, r.Failed, r.Pending, r.Delivered, r.Duplicates, r.Lost)
}

// Err is nil if what was promised was kept.
func (r Result) Err() error {
	var broken []error
	if r.Lost > 0 {
		broken = append(broken, fmt.Errorf("%d committed orders were neither delivered nor failed", r.Lost))
	}
	if r.Pending > 0 {
		broken = append(broken, fmt.Errorf("%d messages are still pending", r.Pending))
	}
	if r.Phantoms > 0 {
		broken = append(broken, fmt.Errorf("%d messages were delivered that no transaction committed", r.Phantoms))
	}
	return errors.Join(broken...)
}

// audit counts from the outside: the business table, the consumer's log, and the outbox for the statuses.
func audit(ctx context.Context, s *shop, c *consumer, store reliable.Inspector, declined reliable.ID) (Result, error) {
	committed, err := s.committed(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("read the orders: %w", err)
	}
	receipts, err := c.receipts(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("read the consumer's log: %w", err)
	}
	outbox := make(map[reliable.ID]reliable.Record, len(committed))
	const batch = 1000 // what Lookup takes at once
	for first := 0; first < len(committed); first += batch {
		records, err := store.Lookup(ctx, committed[first:min(first+batch, len(committed))]...)
		if err != nil {
			return Result{}, fmt.Errorf("look up statuses: %w", err)
		}
		for i := range records {
			outbox[records[i].ID] = records[i]
		}
	}
	sent, err := store.Lookup(ctx, declined)
	if err != nil {
		return Result{}, fmt.Errorf("look up the order that rolled back: %w", err)
	}

	var r Result
	failed := make(map[reliable.ID]bool)
	for _, id := range committed {
		record, stored := outbox[id]
		switch {
		case stored && record.Status == reliable.Failed:
			r.Failed++
			r.failures = append(r.failures, record)
			failed[id] = true
		case stored && record.Status == reliable.Confirmed:
			r.Confirmed++
		case stored && record.Status == reliable.Pending:
			r.Pending++
		}
	}
	r = r.compared(committed, receipts, failed)
	r.declined = declined
	r.Phantoms += len(sent)
	return r, nil
}

// compared adds what was received of what was committed. What failed is not lost.
func (r Result) compared(committed []reliable.ID, receipts map[string]int, failed map[reliable.ID]bool) Result {
	r.Orders = len(committed)
	for _, id := range committed {
		n := receipts[string(id)]
		delete(receipts, string(id))
		if n > 0 {
			r.Delivered++
			r.Duplicates += n - 1
		} else if !failed[id] {
			r.Lost++
		}
	}
	r.Phantoms = len(receipts)
	return r
}

// print writes the table of what happened, and the line.
func (r Result) print(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nstatus\torders\twhat it means")
	fmt.Fprintf(table, "0 pending\t%d\tcommitted, waiting for the broker\n", r.Pending)
	fmt.Fprintf(table, "1 confirmed\t%d\tthe broker took responsibility\n", r.Confirmed)
	fmt.Fprintf(table, "2 failed\t%d\tgiven up, waiting for compensation\n", r.Failed)
	if err := table.Flush(); err != nil {
		return err
	}
	for i := range r.failures {
		record := &r.failures[i]
		reason := ""
		if n := len(record.History); n > 0 {
			reason = record.History[n-1].Reason
		}
		fmt.Fprintf(out, "\nfailed: %s to %q, attempt %d: %s\n", record.ID, record.Topic, record.Attempts, reason)
	}
	was := "was never sent"
	if r.Phantoms > 0 {
		was = "or another one that was never committed WAS SENT"
	}
	_, err := fmt.Fprintf(out, "rolled back: %s, %s\n\n%s\n", r.declined, was, r)
	return err
}
