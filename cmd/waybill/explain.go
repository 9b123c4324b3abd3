package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

func newExplain(a *app) *cobra.Command {
	var show shown
	cmd := &cobra.Command{
		Use:   "explain ID...",
		Short: "Tell the life of a message, and what happens next",
		Long: `Tells what became of a message: when it was stored, what went wrong with it, by whom
and why, who decided what about it; and what happens next and when: due, leased by
whom until when, tried again later, waiting behind which message of its key or behind
a held topic, failed and waiting for a handler or for you. Attempts that succeeded
leave no trace but the status.

Payloads and metadata are not shown unless --payload and --metadata ask for them:
mind who reads your screen and your logs.`,
		Example: `  waybill explain order-17
  waybill explain order-17 order-18 -o json
  waybill explain order-17 --payload --metadata`,
		Args: arguments(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withOperator(cmd.Context(), func(operator *tagging.Operator) error {
				return a.explain(cmd.Context(), operator, args, show)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&show.payload, "payload", false, "show the payload as well")
	cmd.Flags().BoolVar(&show.metadata, "metadata", false, "show the metadata as well")
	return cmd
}

// shown is what is shown only on request.
type shown struct{ payload, metadata bool }

func (a *app) explain(ctx context.Context, operator *tagging.Operator, ids []string, show shown) error {
	documents := []lifeDocument{}
	var missing []string
	told := 0
	for _, id := range ids {
		life, err := operator.Explain(ctx, reliable.ID(id))
		switch {
		case err != nil:
			return err
		case life == nil:
			missing = append(missing, fmt.Sprintf("%q", id))
		case a.format == formatJSON:
			documents = append(documents, lifeOf(life, show))
		default:
			if told > 0 {
				a.say("\n")
			}
			told++
			a.tell(life, show)
		}
	}
	if a.format == formatJSON {
		if err := a.json(documents); err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		return errNothing("no message has the ID %s: IDs are compared byte by byte; a confirmed row is deleted after its "+
			"retention, and is then no longer known", strings.Join(missing, ", "))
	}
	return nil
}

// tell writes a life for a person.
func (a *app) tell(life *tagging.Life, show shown) {
	r := &life.Record
	fact := func(name, format string, args ...any) {
		a.say("%-11s %s\n", name, line(fmt.Sprintf(format, args...)))
	}
	fact("message", "%s", string(r.ID))
	fact("topic", "%s", r.Topic)
	if r.Key != "" {
		fact("key", "%s", r.Key)
	}
	fact("status", "%d %v%s", r.Status, r.Status, lateAck(r))
	fact("stored", "%s ago%s", span(r.Age), deadline(r))
	fact("attempts", "%d, %d of them charged%s", r.Attempts, r.Failures, failingFor(r))
	fact("maybe sent", "%s", maybeSent(r))
	if show.metadata {
		for _, key := range slices.Sorted(maps.Keys(r.Metadata)) {
			fact("metadata", "%s: %s", key, r.Metadata[key])
		}
	} else if len(r.Metadata) > 0 {
		fact("metadata", "%s (--metadata shows them)", plural(len(r.Metadata), "entr"+ies(len(r.Metadata))))
	}
	if show.payload {
		fact("payload", "%s:", size(len(r.Payload)))
	} else {
		fact("payload", "%s (--payload shows it)", size(len(r.Payload)))
	}
	if show.payload {
		a.say("\n%s\n", printable(r.Payload))
	}

	rows := make([][]string, 0, len(life.Events)+1)
	for _, event := range life.Events {
		rows = append(rows, []string{span(event.Ago) + " ago", event.What, event.By, event.Why})
	}
	rows = append(rows, []string{"now", string(life.Next.State), r.LeasedBy, ""})
	a.say("\n")
	a.table([]string{"WHEN", "WHAT", "BY", "WHY"}, rows)
	a.say("\nnext: %s%s\n%s", when(life.Next.In), line(life.Next.What), advice(life))
}

func lateAck(r *reliable.Record) string {
	if !r.LateAck {
		return ""
	}
	return ", but the broker's ack came too late to count: it was delivered"
}

func deadline(r *reliable.Record) string {
	switch left := r.Deadline - r.Age; {
	case r.Deadline == 0 || r.Status.Final():
		return ""
	case left > 0:
		return ", its deadline is in " + span(left)
	}
	return ", its deadline has passed: its next outcome that is no ack fails it"
}

func failingFor(r *reliable.Record) string {
	if r.FailingFor == 0 {
		return ""
	}
	return ", failing since " + span(r.FailingFor) + " ago"
}

func maybeSent(r *reliable.Record) string {
	switch {
	case r.Status == reliable.Confirmed || r.LateAck:
		return "yes, the broker acked it"
	case r.MayHaveBeenSent:
		return "yes: an answer was lost or a lease ran out, so the broker may have a copy"
	case r.Status == reliable.Pending && r.LeasedBy != "" && r.DueIn > 0:
		return "perhaps just now: an attempt is under way"
	case r.Status == reliable.Pending && r.LeasedBy != "":
		return "perhaps: its lease ran out, and what became of the attempt was not recorded"
	case r.Attempts == 0 && !slices.ContainsFunc(r.History, func(e reliable.HistoryEntry) bool {
		return e.Kind == reliable.AttemptEnded
	}):
		return "no: no attempt of it is recorded"
	}
	return "no: every answer so far was a definite one"
}

func ies(n int) string {
	if n == 1 {
		return "y"
	}
	return "ie"
}

func when(in time.Duration) string {
	switch {
	case in > 0:
		return "in " + span(in) + ": "
	case in < -time.Second:
		return "due since " + span(-in) + ": "
	}
	return ""
}

// advice is what a person can do.
func advice(life *tagging.Life) string {
	switch life.Next.State {
	case tagging.Undelivered, tagging.CompensationLater:
		what := argument(life.Record.ID) + " --why ..."
		if strings.HasPrefix(what, "--") {
			what = "--why ... " + argument(life.Record.ID) // behind "--" nothing is a flag
		}
		return fmt.Sprintf("\n  waybill requeue %[1]s     send it again, with a new failure budget\n"+
			"  waybill compensate %[1]s  it was dealt with by other means\n"+
			"  waybill discard %[1]s     it shall not be sent\n", what)
	case tagging.BehindItsKey:
		if life.Record.Behind != "" {
			return fmt.Sprintf("\n  waybill explain %s\n", argument(life.Record.Behind))
		}
	case tagging.BehindAHold:
		return "\n  repair the destination (is the queue declared, is there a permission?); nothing else is needed\n"
	case tagging.Delayed, tagging.Due, tagging.Leased, tagging.BackingOff, tagging.BeingCompensated, tagging.Over, tagging.Undecided:
	}
	return ""
}

// argument is an ID as an argument in a shell: one that looks like a flag has "--" in front.
func argument(id reliable.ID) string {
	if strings.HasPrefix(string(id), "-") {
		return "-- " + quoted(string(id))
	}
	return quoted(string(id))
}

// quoted makes an ID fit for a shell. What a terminal must not be shown is escaped as bash, zsh and ksh read it.
func quoted(id string) string {
	plain := strings.IndexFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.:/@", r)
	}) < 0
	switch {
	case plain:
		return id
	case id == line(id) && utf8.ValidString(id):
		return "'" + strings.ReplaceAll(id, "'", `'\''`) + "'"
	}
	var text strings.Builder
	for _, b := range []byte(id) {
		switch {
		case b == '\'' || b == '\\':
			text.WriteString("\\" + string(b))
		case b < ' ' || b >= utf8.RuneSelf-1:
			fmt.Fprintf(&text, `\%03o`, b)
		default:
			text.WriteByte(b)
		}
	}
	return "$'" + text.String() + "'"
}

// printable is a payload as a terminal can bear it.
func printable(payload []byte) string {
	if !utf8.Valid(payload) {
		return fmt.Sprintf("%q", payload)
	}
	lines := strings.Split(string(payload), "\n")
	for i := range lines {
		if lines[i] != "" {
			lines[i] = line(strings.ReplaceAll(lines[i], "\t", "    "))
		}
	}
	return strings.Join(lines, "\n")
}

type lifeDocument struct {
	recordDocument
	PayloadBytes int               `json:"payload_bytes"`
	Payload      []byte            `json:"payload,omitempty"` // base64, as JSON has it
	Metadata     map[string]string `json:"metadata,omitempty"`
	Hold         *holdDocument     `json:"hold,omitempty"`
	History      []entryDocument   `json:"history"`
	Next         nextDocument      `json:"next"`
}

type entryDocument struct {
	Kind       string  `json:"kind"`
	AgoSeconds float64 `json:"ago_seconds"`
	Fence      int64   `json:"fence"`
	Outcome    string  `json:"outcome,omitempty"`
	Charged    bool    `json:"charged"`
	Action     string  `json:"action,omitempty"`
	By         string  `json:"by"`
	Reason     string  `json:"reason"`
}

type nextDocument struct {
	State     string  `json:"state"`
	InSeconds float64 `json:"in_seconds"`
	What      string  `json:"what"`
}

func lifeOf(life *tagging.Life, show shown) lifeDocument {
	r := &life.Record
	d := lifeDocument{
		recordDocument: recordOf(r), PayloadBytes: len(r.Payload), History: []entryDocument{},
		Next: nextDocument{string(life.Next.State), seconds(life.Next.In), life.Next.What},
	}
	if show.payload {
		d.Payload = r.Payload
	}
	if show.metadata {
		d.Metadata = r.Metadata
	}
	if life.Hold != nil {
		hold := holdOf(*life.Hold)
		d.Hold = &hold
	}
	for _, e := range r.History {
		entry := entryDocument{
			Kind: e.Kind.String(), AgoSeconds: seconds(e.Ago), Fence: e.Fence, Charged: e.Charged, By: e.By, Reason: e.Reason,
		}
		switch e.Kind {
		case reliable.AttemptEnded:
			entry.Outcome = e.Outcome.String()
		case reliable.OperatorDecided:
			entry.Action = e.Action.String()
		case reliable.GivenUp, reliable.CompensationFailed:
		}
		d.History = append(d.History, entry)
	}
	return d
}
