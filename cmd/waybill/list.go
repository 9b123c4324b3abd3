package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// everyStatus is in the order in which help texts name them: failed first, for that is what people look for.
func everyStatus() []reliable.Status {
	return []reliable.Status{reliable.Failed, reliable.Pending, reliable.Confirmed, reliable.Compensated, reliable.Discarded}
}

func newList(a *app) *cobra.Command {
	var picked filter
	var limit int
	var after string
	var reasons bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List messages by status, topic, age and reason",
		Long: `Lists messages of one status, failed ones unless --status says otherwise, in the
store's own order, a page at a time. A page that is not the last one says how to go
on: --after takes the cursor of the page before. A message that is worked on
meanwhile may be listed again, or by the next walk only. Payloads and metadata are
never shown here; --reasons shows the newest reason of each, and 'waybill explain' the
whole history.

A filter that matches little makes many small calls, not a long one: it may take a
while, and can be interrupted at any time.`,
		Example: `  waybill list
  waybill list --topic orders.placed --reason "no queue" --limit 20 --reasons
  waybill list --status pending --older-than 1h -o json`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			by, err := picked.parse(everyStatus()...)
			if err != nil {
				return err
			}
			if limit < 1 {
				return usagef("--limit is %d, must be at least 1", limit)
			}
			return a.withOperator(cmd.Context(), func(operator *tagging.Operator) error {
				page, err := a.page(cmd.Context(), operator, by, reliable.Cursor(after), limit)
				if err != nil {
					return err
				}
				var last map[reliable.ID]string
				if reasons {
					if last, err = lastReasons(cmd.Context(), operator, page.Records); err != nil {
						return err
					}
				}
				return a.showPage(page, last)
			})
		},
	}
	picked.add(a, cmd, everyStatus()...)
	cmd.Flags().IntVar(&limit, "limit", 100, "how many messages to list at most")
	cmd.Flags().BoolVar(&reasons, "reasons", false, "show the newest reason of each as well, which takes a look at each message")
	cmd.Flags().StringVar(&after, "after", "", "the cursor at which the page before ended")
	return cmd
}

// page puts one page together from the store's, which may be shorter.
func (a *app) page(
	ctx context.Context, operator *tagging.Operator, by reliable.Filter, after reliable.Cursor, limit int,
) (reliable.Page, error) {
	page := reliable.Page{Next: after}
	for {
		part, err := operator.List(ctx, reliable.ListRequest{
			Filter: by, After: page.Next, Limit: min(limit-len(page.Records), reliable.MaxPage),
		})
		if err != nil {
			return page, err
		}
		page.Records, page.Next = append(page.Records, part.Records...), part.Next
		if page.Next == "" || len(page.Records) >= limit {
			return page, nil
		}
	}
}

// lastReasons returns the newest reason of each message. It looks at a few at a time, since their payloads come along.
func lastReasons(ctx context.Context, operator *tagging.Operator, records []reliable.Record) (map[reliable.ID]string, error) {
	const atOnce = 20
	last := make(map[reliable.ID]string)
	for some := range slices.Chunk(records, atOnce) {
		ids := make([]reliable.ID, len(some))
		for i := range some {
			ids[i] = some[i].ID
		}
		full, err := operator.Lookup(ctx, ids...)
		if err != nil {
			return nil, err
		}
		for i := range full {
			for _, entry := range full[i].History {
				if entry.Reason != "" {
					last[full[i].ID] = entry.Reason
				}
			}
		}
	}
	return last, nil
}

// showPage shows a page, with reasons if they were asked for.
func (a *app) showPage(page reliable.Page, reasons map[reliable.ID]string) error {
	if a.format == formatJSON {
		document := pageDocument{Messages: make([]recordDocument, len(page.Records)), Next: string(page.Next)}
		for i := range page.Records {
			document.Messages[i] = recordOf(&page.Records[i])
			document.Messages[i].LastReason = reasons[page.Records[i].ID]
		}
		return a.json(document)
	}
	rows := make([][]string, len(page.Records))
	for i := range page.Records {
		rows[i] = rowOf(&page.Records[i])
		if reasons != nil {
			rows[i] = append(rows[i], reasons[page.Records[i].ID])
		}
	}
	header := recordHeader()
	if reasons != nil {
		header = append(header, "LAST REASON")
	}
	a.table(header, rows)
	if page.Next != "" {
		a.note("there is more: add --after %s", page.Next)
	}
	return nil
}

func recordHeader() []string {
	return []string{"ID", "TOPIC", "KEY", "STATUS", "AGE", "ATTEMPTS", "CHARGED", "MAYBE SENT", "STATE"}
}

func rowOf(r *reliable.Record) []string {
	return []string{
		string(r.ID), r.Topic, r.Key, r.Status.String(), span(r.Age), fmt.Sprint(r.Attempts), fmt.Sprint(r.Failures),
		yes(r.MayHaveBeenSent), stateOf(r),
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// stateOf is more than the status, where a list knows more.
func stateOf(r *reliable.Record) string {
	switch {
	case r.Withheld:
		return "withheld"
	case r.Waiting:
		return "behind its key"
	case r.Held:
		return "behind its held topic"
	case r.LateAck:
		return "acked too late"
	case r.LeasedBy != "" && r.DueIn > 0:
		return "leased for " + span(r.DueIn)
	case r.Status != reliable.Pending:
		return ""
	case r.DueIn > 0:
		return "due in " + span(r.DueIn)
	}
	return "due"
}

type pageDocument struct {
	Messages []recordDocument `json:"messages"`
	Next     string           `json:"next"` // empty at the end
}

// recordDocument is a message in JSON, without payload and metadata.
type recordDocument struct {
	ID                string  `json:"id"`
	Topic             string  `json:"topic"`
	Key               string  `json:"key"`
	Status            string  `json:"status"`
	StatusNumber      int     `json:"status_number"`
	AgeSeconds        float64 `json:"age_seconds"`
	Attempts          int     `json:"attempts"`
	Charged           int     `json:"charged"`
	FailingForSeconds float64 `json:"failing_for_seconds"`
	MayHaveBeenSent   bool    `json:"may_have_been_sent"`
	LateAck           bool    `json:"late_ack"`
	Waiting           bool    `json:"waiting"`
	Behind            string  `json:"behind,omitempty"`
	Held              bool    `json:"held"`
	Withheld          bool    `json:"withheld"`
	LeasedBy          string  `json:"leased_by"`
	DueInSeconds      float64 `json:"due_in_seconds"`
	DeadlineSeconds   float64 `json:"deadline_seconds"`
	LastReason        string  `json:"last_reason,omitempty"`
}

func recordOf(r *reliable.Record) recordDocument {
	return recordDocument{
		ID: string(r.ID), Topic: r.Topic, Key: r.Key, Status: r.Status.String(), StatusNumber: int(r.Status),
		AgeSeconds: seconds(r.Age), Attempts: r.Attempts, Charged: r.Failures, FailingForSeconds: seconds(r.FailingFor),
		MayHaveBeenSent: r.MayHaveBeenSent, LateAck: r.LateAck, Waiting: r.Waiting, Behind: string(r.Behind), Held: r.Held, Withheld: r.Withheld,
		LeasedBy: r.LeasedBy, DueInSeconds: seconds(r.DueIn), DeadlineSeconds: seconds(r.Deadline),
	}
}
