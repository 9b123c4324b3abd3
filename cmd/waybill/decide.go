package main

import (
	"bufio"
	"context"
	"fmt"
	"iter"
	"os"
	"os/user"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// decision is one of the three things that a person can decide, and what the command line says about it.
type decision struct {
	app      *app
	action   reliable.Action
	statuses []reliable.Status // that it applies to

	picked        filter
	all           bool
	who, why      string
	dryRun, yes   bool
	limit         int
	filter        reliable.Filter
	ids           []reliable.ID
	readFromInput bool
}

const howToPick = `

Messages are named by their IDs ("-" reads them from standard input, one a line), or
picked by --topic, --older-than, --reason and --status, or --all. --dry-run shows what
would be decided. What is about more than one message asks first, and fails where
nobody can be asked, unless --yes is given.

--why is required and --who is you unless it says otherwise: both are kept in the
history of each message. Decisions are recorded in batches, so an interrupted command
has decided about some and not about others; call it again. A message that cannot be
decided about (its status does not fit, or a compensation handler has it now) is left
alone and listed, with exit code 4.`

func newRequeue(a *app) *cobra.Command {
	d := &decision{
		app: a, action: reliable.Requeue, statuses: []reliable.Status{reliable.Failed, reliable.Discarded},
	}
	return d.command("requeue", "Have failed or discarded messages sent again", `
Makes failed or discarded messages pending and due at once, with their failure budget
reset and their deadline lifted, as though they had just been stored. Repair what made
them fail first: else they fail again. A message that may have been sent can reach its
consumers twice, with the same ID.`,
		`  waybill requeue order-17 --why "the queue is declared again"
  waybill requeue --topic orders.placed --reason "no queue" --why "INC-512" --yes
  waybill requeue --status discarded --topic orders.placed --why "discarded by mistake" --dry-run`)
}

func newCompensate(a *app) *cobra.Command {
	d := &decision{app: a, action: reliable.Compensate, statuses: []reliable.Status{reliable.Failed}}
	return d.command("compensate", "Record that failed messages were dealt with by other means", `
Makes failed messages compensated: somebody has dealt with what they were about outside
of Waybill (refunded the order, told the customer). They are not sent, and what waits
behind their keys goes on.`,
		`  waybill compensate order-17 --why "refunded by hand, ticket 512"
  waybill list --topic orders.placed -o json | jq -r .messages[].id |
      waybill compensate - --why "refunded by hand, ticket 512" --yes`)
}

func newDiscard(a *app) *cobra.Command {
	d := &decision{app: a, action: reliable.Discard, statuses: []reliable.Status{reliable.Failed, reliable.Pending}}
	return d.command("discard", "Drop failed or pending messages", `
Makes failed or pending messages discarded: they shall not be sent, and what waits
behind their keys goes on. A pending one may be on its way to the broker at that
moment: 'waybill explain' then says that its ack came too late. The row stays, and can
be requeued, until its retention ends.`,
		`  waybill discard order-17 --why "a test order"
  waybill discard --status pending --topic orders.test --older-than 24h --why "left over" --dry-run`)
}

func (d *decision) command(name, short, long, example string) *cobra.Command {
	cmd := &cobra.Command{
		Use:               name + " [ID...]",
		Short:             short,
		Long:              strings.TrimSpace(long) + howToPick,
		Example:           example,
		Args:              arguments(cobra.ArbitraryArgs),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := d.parse(cmd, args); err != nil {
				return err
			}
			return d.app.withOperator(cmd.Context(), func(operator *tagging.Operator) error {
				return d.run(cmd.Context(), operator)
			})
		},
	}
	d.picked.add(d.app, cmd, d.statuses...)
	flags := cmd.Flags()
	flags.BoolVar(&d.all, "all", false, "every message of the status, whatever its topic, age and reason")
	flags.StringVar(&d.why, "why", "", "why, for the history; required")
	flags.StringVar(&d.who, "who", "", "who decides, for the history; default the name you are logged in with")
	flags.BoolVar(&d.dryRun, "dry-run", false, "show what would be decided, and change nothing")
	flags.BoolVarP(&d.yes, "yes", "y", false, "do not ask")
	flags.IntVar(&d.limit, "limit", 0, "decide about so many of those that match at most; 0 means all")
	return cmd
}

// parse finds everything that is wrong before anything is opened.
func (d *decision) parse(cmd *cobra.Command, args []string) error {
	byFilter := d.all || d.picked.given(cmd) || cmd.Flags().Changed("limit")
	switch {
	case len(args) > 0 && byFilter:
		return usagef("name messages by ID or pick them by flags, not both")
	case len(args) == 0 && !byFilter:
		return usagef("which messages? name their IDs, or pick them by --topic, --older-than, --reason, --status or --all")
	case d.limit < 0:
		return usagef("--limit is %d, must be 0 (all) or more", d.limit)
	case strings.TrimSpace(d.why) == "" && !d.dryRun:
		return usagef("--why is missing: say why, for whoever reads the history of these messages")
	}
	if strings.TrimSpace(d.who) == "" {
		d.who = loginName()
	}
	if len(args) == 0 {
		var err error
		d.filter, err = d.picked.parse(d.statuses...)
		return err
	}
	return d.readIDs(args)
}

func (d *decision) readIDs(args []string) error {
	for _, arg := range args {
		if arg != "-" {
			d.ids = append(d.ids, reliable.ID(arg))
			continue
		}
		d.readFromInput = true
		lines := bufio.NewScanner(d.app.in)
		for lines.Scan() {
			if id := strings.TrimRight(lines.Text(), "\r"); id != "" {
				d.ids = append(d.ids, reliable.ID(id))
			}
		}
		if err := lines.Err(); err != nil {
			return fmt.Errorf("read IDs from standard input: %w", err)
		}
	}
	if len(d.ids) == 0 {
		return errNothing("standard input holds no ID")
	}
	return nil
}

// loginName is who decides: behind sudo the one who called it.
func loginName() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if current, err := user.Current(); err == nil && current.Username != "" {
		return current.Username
	}
	if name := os.Getenv("USER"); name != "" {
		return name
	}
	return "unknown"
}

func (d *decision) run(ctx context.Context, operator *tagging.Operator) error {
	if d.dryRun {
		return d.rehearse(ctx, operator)
	}
	if err := d.confirm(ctx, operator); err != nil {
		return err
	}
	var results iter.Seq2[[]reliable.DecisionResult, error]
	if d.ids != nil {
		results = operator.Decide(ctx, d.action, d.who, d.why, d.ids...)
	} else {
		results = operator.DecideAll(ctx, d.action, d.who, d.why, d.filter, d.limit)
	}
	tally := newTally(d)
	var failed error
	for batch, err := range results {
		if failed = err; err != nil {
			break
		}
		tally.add(batch)
		if tally.seen > progressAfter {
			d.app.progress("%d decided", tally.Decided)
		}
	}
	if tally.seen > progressAfter {
		d.app.progress("\n")
	}
	return tally.report(failed)
}

// progressAfter is from how many messages on a terminal sees how far it is.
const progressAfter = 2000

// confirm asks before many messages are changed. Where nobody can be asked, more than one is refused.
func (d *decision) confirm(ctx context.Context, operator *tagging.Operator) error {
	if d.yes {
		return nil
	}
	asks := d.app.canAsk() && !d.readFromInput
	count, what := len(d.ids), "messages"
	if d.ids == nil {
		enough := d.limit
		if !asks && enough != 1 {
			enough = 2 // is as good as any number: nobody can be asked
		}
		var err error
		if count, err = d.count(ctx, operator, enough); err != nil {
			return err
		}
		what = describe(d.filter)
	}
	switch {
	case count <= 1:
		return nil
	case !asks:
		return usagef("this would %v more than one of the %s, and nobody can be asked: look with --dry-run, then pass --yes",
			d.action, what)
	}
	if !d.app.ask("%v %d %s?", d.action, count, what) {
		return usagef("not confirmed; nothing was changed")
	}
	return nil
}

// count counts what matches the filter, up to enough; 0 means all.
func (d *decision) count(ctx context.Context, operator *tagging.Operator, enough int) (int, error) {
	count := 0
	for records, err := range operator.Pages(ctx, d.filter) {
		if err != nil {
			return 0, err
		}
		count += len(records)
		if enough > 0 && count >= enough {
			return enough, nil
		}
	}
	return count, nil
}

// rehearse shows what would be decided.
func (d *decision) rehearse(ctx context.Context, operator *tagging.Operator) error {
	r := rehearsal{Action: d.action.String(), DryRun: true, Messages: []recordDocument{}}
	var rows [][]string
	sample := func(record *reliable.Record) {
		if len(rows) < sampleSize {
			rows = append(rows, rowOf(record))
			r.Messages = append(r.Messages, recordOf(record))
		}
	}
	if d.ids != nil {
		for _, id := range d.ids {
			life, err := operator.Explain(ctx, id)
			switch {
			case err != nil:
				return err
			case life == nil:
				r.NotFound++
			case !d.fits(life.Record.Status):
				r.WrongStatus++
				sample(&life.Record)
			case handled(&life.Record):
				r.Busy++
				sample(&life.Record)
			default:
				r.Matched++
				sample(&life.Record)
			}
		}
	} else {
		for records, err := range operator.Pages(ctx, d.filter) {
			if err != nil {
				return err
			}
			for i := range records {
				if d.limit > 0 && r.Matched+r.Busy >= d.limit {
					break
				}
				if handled(&records[i]) {
					r.Busy++
				} else {
					r.Matched++
				}
				sample(&records[i])
			}
			if d.limit > 0 && r.Matched+r.Busy >= d.limit {
				break
			}
		}
	}
	return d.showRehearsal(r, rows)
}

// sampleSize is how many messages are listed one by one where they are only an illustration.
const sampleSize = 20

type rehearsal struct {
	Action      string           `json:"action"`
	DryRun      bool             `json:"dry_run"`
	Matched     int              `json:"matched"`
	NotFound    int              `json:"not_found"`
	WrongStatus int              `json:"wrong_status"`
	Busy        int              `json:"busy"`
	Messages    []recordDocument `json:"messages"` // the first of them
}

// handled reports whether a compensation handler has the message now, so that nobody can decide about it.
func handled(r *reliable.Record) bool {
	return r.Status == reliable.Failed && r.LeasedBy != "" && r.DueIn > 0
}

func (d *decision) fits(status reliable.Status) bool { return slices.Contains(d.statuses, status) }

func (d *decision) showRehearsal(r rehearsal, rows [][]string) error {
	if d.app.format == formatJSON {
		if err := d.app.json(r); err != nil {
			return err
		}
	} else {
		if len(rows) > 0 {
			d.app.table(recordHeader(), rows)
			d.app.say("\n")
		}
		if more := r.Matched + r.WrongStatus + r.Busy - len(rows); more > 0 {
			d.app.say("and %d more\n", more)
		}
		d.app.say("would %s %s; nothing was changed\n", r.Action, plural(r.Matched, "message"))
		if r.NotFound+r.WrongStatus+r.Busy > 0 {
			d.app.say("not found: %d, wrong status: %d, with a handler now: %d\n", r.NotFound, r.WrongStatus, r.Busy)
		}
	}
	if r.Matched == 0 && r.WrongStatus == 0 && r.Busy == 0 {
		return d.nothing()
	}
	if r.NotFound+r.WrongStatus+r.Busy > 0 {
		return exitError{code: exitPartly}
	}
	return nil
}

func (d *decision) nothing() error {
	if d.ids != nil {
		return errNothing("none of the IDs is stored: they are compared byte by byte")
	}
	return errNothing("there are no %s", describe(d.filter))
}
