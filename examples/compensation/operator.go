package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/waybillmq/waybill/reliable"
)

// operator is a person with a tool: what the command waybill does as well.
type operator struct {
	name      string
	operator  reliable.Operator
	inspector reliable.Inspector
	out       io.Writer
}

func newOperator(name string, store reliable.Store, out io.Writer) (*operator, error) {
	o := &operator{name: name, out: out}
	var decides, tells bool
	o.operator, decides = reliable.Ability[reliable.Operator](store)
	o.inspector, tells = reliable.Ability[reliable.Inspector](store)
	if !decides || !tells {
		return nil, errors.New("this store has nothing for operators")
	}
	return o, nil
}

// list shows what waits for a person and returns its IDs, in order.
func (o *operator) list(ctx context.Context, topic string) ([]reliable.ID, error) {
	var ids []reliable.ID
	request := reliable.ListRequest{Filter: reliable.Filter{Status: reliable.Failed, Topic: topic}, Limit: reliable.MaxPage}
	for {
		page, err := o.operator.List(ctx, request)
		if err != nil {
			return nil, err
		}
		for i := range page.Records {
			ids = append(ids, page.Records[i].ID)
		}
		if page.Next == "" {
			break
		}
		request.After = page.Next
	}
	records, err := o.records(ctx, ids...)
	if err != nil {
		return nil, err
	}
	table := tabwriter.NewWriter(o.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "  id\ttopic\tattempts\tmay have been sent\tlast reason")
	ids = ids[:0]
	for i := range records {
		r := &records[i]
		ids = append(ids, r.ID)
		reason := ""
		if n := len(r.History); n > 0 {
			reason, _, _ = strings.Cut(r.History[n-1].Reason, ": ")
		}
		fmt.Fprintf(table, "  %s\t%s\t%d\t%t\t%s\n", r.ID, r.Topic, r.Attempts, r.MayHaveBeenSent, reason)
	}
	return ids, table.Flush()
}

// records looks messages up, ordered by ID.
func (o *operator) records(ctx context.Context, ids ...reliable.ID) ([]reliable.Record, error) {
	records, err := o.inspector.Lookup(ctx, ids...)
	slices.SortFunc(records, func(a, b reliable.Record) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return records, err
}

// explain shows the life of one message.
func (o *operator) explain(ctx context.Context, id reliable.ID) error {
	records, err := o.records(ctx, id)
	if err != nil || len(records) == 0 {
		return errors.Join(err, fmt.Errorf("there is no message %s", id))
	}
	r := &records[0]
	fmt.Fprintf(o.out, "  %s to %s is %v after %d attempts\n", r.ID, r.Topic, r.Status, r.Attempts)
	for _, entry := range r.History {
		fmt.Fprintf(o.out, "    %s\n", line(entry))
	}
	return nil
}

// line is one entry of a history in words.
func line(e reliable.HistoryEntry) string {
	switch e.Kind {
	case reliable.AttemptEnded:
		return fmt.Sprintf("attempt: %v: %s", e.Outcome, e.Reason)
	case reliable.GivenUp:
		return "given up: " + e.Reason
	case reliable.CompensationFailed:
		return "the handler failed: " + e.Reason
	case reliable.OperatorDecided:
		return fmt.Sprintf("%v by %s: %s", e.Action, e.By, e.Reason)
	}
	return e.Reason
}

// decide records a decision about messages and says what came of it.
func (o *operator) decide(ctx context.Context, action reliable.Action, why string, ids ...reliable.ID) error {
	results, err := o.operator.Decide(ctx, reliable.Decision{Action: action, IDs: ids, Who: o.name, Why: why})
	if err != nil {
		return err
	}
	for _, result := range results {
		fmt.Fprintf(o.out, "  %v %s: %v, it is %v now\n", action, result.ID, result.Verdict, result.Status)
		if result.Verdict != reliable.Decided {
			err = errors.Join(err, fmt.Errorf("%v %s: %v", action, result.ID, result.Verdict))
		}
	}
	return err
}
