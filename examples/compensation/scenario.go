package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/waybillmq/waybill/reliable"
)

// play is the story; repair makes the stream that is missing.
func play(ctx context.Context, s *shop, o *operator, repair func() error, out io.Writer) error {
	fmt.Fprintf(out, "\nplacing 4 orders, of which order-4 has a picture of 100 KiB, and 3 invoices, for which there is no stream\n")
	for _, message := range []struct {
		id    reliable.ID
		topic string
		size  int
	}{
		{"order-1", orderTopic, 100}, {"order-2", orderTopic, 100}, {"order-3", orderTopic, 100}, {"order-4", orderTopic, 100 << 10},
		{"invoice-1", invoiceTopic, 100}, {"invoice-2", invoiceTopic, 100}, {"invoice-3", invoiceTopic, 100},
	} {
		if err := s.place(ctx, message.id, message.topic, message.size); err != nil {
			return err
		}
	}

	if err := s.await(ctx, reliable.Compensated, "order-4"); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nthe handler of %s refunded order-4, in the transaction that made it compensated:\n", orderTopic)
	if err := o.explain(ctx, "order-4"); err != nil {
		return err
	}

	invoices := []reliable.ID{"invoice-1", "invoice-2", "invoice-3"}
	if err := s.await(ctx, reliable.Failed, invoices...); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s lists what has failed and has no handler:\n", o.name)
	listed, err := o.list(ctx, invoiceTopic)
	if err != nil {
		return err
	}
	if len(listed) != len(invoices) {
		return fmt.Errorf("%d failed messages are listed, and there are %d", len(listed), len(invoices))
	}
	fmt.Fprintf(out, "\n%s looks at the first:\n", o.name)
	if err := o.explain(ctx, "invoice-1"); err != nil {
		return err
	}

	fmt.Fprintf(out, "\n%s makes the stream, has two invoices sent, and drops the third:\n", o.name)
	if err := repair(); err != nil {
		return fmt.Errorf("make the stream: %w", err)
	}
	return errors.Join(
		o.decide(ctx, reliable.Requeue, "the stream was missing, now it is there", "invoice-1", "invoice-2"),
		o.decide(ctx, reliable.Discard, "the customer has paid in cash", "invoice-3"),
		s.await(ctx, reliable.Confirmed, "order-1", "order-2", "order-3", "invoice-1", "invoice-2"),
	)
}

// ends is how each message should end.
var ends = map[reliable.ID]reliable.Status{
	"order-1": reliable.Confirmed, "order-2": reliable.Confirmed, "order-3": reliable.Confirmed, "order-4": reliable.Compensated,
	"invoice-1": reliable.Confirmed, "invoice-2": reliable.Confirmed, "invoice-3": reliable.Discarded,
}

// audit prints how everything ended, and returns an error if something did not end as it should.
func audit(ctx context.Context, s *shop, c *consumer, out io.Writer) error {
	records, err := s.store.Lookup(ctx, s.sent...)
	if err != nil {
		return err
	}
	refunds, err := s.refunds(ctx)
	if err != nil {
		return err
	}
	byID := make(map[reliable.ID]*reliable.Record, len(records))
	confirmed := 0
	for i := range records {
		byID[records[i].ID] = &records[i]
		if records[i].Status == reliable.Confirmed {
			confirmed++
		}
	}
	receipts := c.got(ctx, confirmed)

	var wrong []error
	counts := make(map[reliable.Status]int)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nmessage\tstatus\treceived\trefunded\taudit trail")
	for _, id := range s.sent {
		record := byID[id]
		if record == nil {
			wrong = append(wrong, fmt.Errorf("%s is gone", id))
			continue
		}
		counts[record.Status]++
		trail := make([]string, len(record.History))
		for i, entry := range record.History {
			trail[i] = line(entry)
			if entry.Kind != reliable.OperatorDecided {
				trail[i], _, _ = strings.Cut(trail[i], ": natsbroker")
			}
		}
		fmt.Fprintf(table, "%s\t%d %v\t%d\t%d\t%s\n", id, record.Status, record.Status, receipts[id], refunds[id], strings.Join(trail, " > "))
		wrong = append(wrong, judge(record, receipts[id], refunds[id]))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nmessages=%d confirmed=%d compensated=%d discarded=%d failed=%d pending=%d received=%d refunds=%d\n", len(s.sent),
		counts[reliable.Confirmed], counts[reliable.Compensated], counts[reliable.Discarded], counts[reliable.Failed], counts[reliable.Pending],
		len(receipts), len(refunds))
	return errors.Join(wrong...)
}

// judge says what is wrong with how a message ended.
func judge(record *reliable.Record, receipts, refunds int) error {
	decided := false
	for _, entry := range record.History {
		decided = decided || entry.Kind == reliable.OperatorDecided && entry.By != "" && entry.Reason != ""
	}
	switch want := ends[record.ID]; {
	case record.Status != want:
		return fmt.Errorf("%s is %v, and should be %v", record.ID, record.Status, want)
	case want == reliable.Confirmed && receipts == 0:
		return fmt.Errorf("%s is confirmed, and was not received", record.ID)
	case want != reliable.Confirmed && receipts > 0:
		return fmt.Errorf("%s is %v, and was received", record.ID, record.Status)
	case want == reliable.Compensated && refunds != 1, want != reliable.Compensated && refunds != 0:
		return fmt.Errorf("%s is %v, and was refunded %d times", record.ID, record.Status, refunds)
	case record.Topic == invoiceTopic && !decided:
		return fmt.Errorf("who decided about %s, and why, is not recorded", record.ID)
	}
	return nil
}
