package main

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/spf13/cobra"

	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable"
)

// maxListed is how many entries a replay lists; it counts them all.
const maxListed = 1000

type replaying struct {
	app *app

	topic                      string
	ids                        []reliable.ID
	readAs                     string
	from, failedGroup, reason  string
	to                         string
	limit                      int
	idle                       time.Duration
	dryRun, through, yes, kept bool
}

func newReplay(a *app) *cobra.Command {
	r := &replaying{app: a}
	cmd := &cobra.Command{
		Use:   "replay POISON-TOPIC [ID...]",
		Short: "Send messages of a poison topic to where they came from",
		Long: `Reads a poison topic, in which consumers put what they could not process, and sends
its messages to the topics that they were consumed from. A message keeps its ID, key,
payload and metadata. It leaves the poison topic only once the broker has confirmed it
in the other. All consumer groups of that topic see it again; --to sends it elsewhere,
for example to a retry topic of the one group that failed.

Without IDs it takes all messages that match --from, --failed-group and --reason. What
does not match is put at the end of the poison topic, in its order, because most brokers
deliver nothing further before. What fails again meanwhile is left there.

It reads as a consumer group, --as. On RabbitMQ with topics that are exchanges that group
needs a queue of the poison topic before messages are put there, as any group does.

--dry-run sends nothing: it holds what it is shown and gives it back. A broker that
delivers the next message only after the last one was acked shows no more than the
first; --through has it put each at the end of the poison topic, and so see all.

It asks before it replays more than one message, and fails where nobody can be asked,
unless --yes is given. It ends when nothing came for --idle.`,
		Example: `  export WAYBILL_BROKER=amqp://shop:secret@mq/shop
  waybill replay orders.poison --dry-run --through
  waybill replay orders.poison order-17
  waybill replay orders.poison --reason "connection refused" --limit 100 --yes`,
		Args:              arguments(cobra.MinimumNArgs(1)),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.topic = args[0]
			for _, id := range args[1:] {
				r.ids = append(r.ids, reliable.ID(id))
			}
			return r.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&r.readAs, "as", "waybill-replay", "the consumer group that reads the poison topic")
	flags.StringVar(&r.from, "from", "", "only messages that came from this topic")
	flags.StringVar(&r.failedGroup, "failed-group", "", "only messages that this consumer group could not process")
	flags.StringVar(&r.reason, "reason", "", "only messages whose reason contains this")
	flags.StringVar(&r.to, "to", "", "send them to this topic; default: the topic that each came from")
	flags.IntVar(&r.limit, "limit", 0, "how many to replay at most; 0 means all")
	flags.DurationVar(&r.idle, "idle", 5*time.Second, "end when nothing came for that long")
	flags.BoolVar(&r.dryRun, "dry-run", false, "list, and send nothing")
	flags.BoolVar(&r.through, "through", false, "with --dry-run: see all, by putting each at the end of the poison topic")
	flags.BoolVar(&r.kept, "all", false, "list those that do not match as well")
	flags.BoolVarP(&r.yes, "yes", "y", false, "do not ask")
	return cmd
}

func (r *replaying) run(ctx context.Context) error {
	switch {
	case r.limit < 0:
		return usagef("--limit is %d, must be 0 (all) or more", r.limit)
	case r.idle <= 0:
		return usagef("--idle is %v, must be above 0", r.idle)
	case r.through && !r.dryRun:
		return usagef("--through is for --dry-run; a replay sees all anyway")
	case r.to == r.topic && r.to != "":
		return usagef("--to is the poison topic itself")
	case r.readAs == "":
		return usagef("--as is empty; name a consumer group")
	}
	if err := r.confirm(); err != nil {
		return err
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(r.app.err, &slog.HandlerOptions{Level: slog.LevelWarn}))) // adapters log there
	broker, err := r.app.openBroker(ctx)
	if err != nil {
		return err
	}
	subscriber, err := broker.Subscribe(r.readAs)
	if err != nil {
		return errors.Join(err, broker.Close())
	}
	publisher := broker.Watermill()
	err = r.replay(ctx, subscriber, publisher)
	if closed := errors.Join(subscriber.Close(), publisher.Close(), broker.Close()); err == nil {
		err = closed
	}
	return err
}

func (r *replaying) confirm() error {
	if r.yes || r.dryRun || len(r.ids) == 1 {
		return nil
	}
	if !r.app.canAsk() {
		return usagef("this sends messages again, and nobody can be asked: look with --dry-run, then pass --yes")
	}
	if !r.app.ask("replay what matches in %q?", r.topic) {
		return usagef("not confirmed; nothing was replayed")
	}
	return nil
}

func (r *replaying) options() []middleware.ReplayOption {
	options := []middleware.ReplayOption{
		middleware.ReplayIdle(r.idle), middleware.ReplayLimit(r.limit), middleware.ReplayTo(r.to), middleware.ReplayReason(r.reason),
	}
	if len(r.ids) > 0 {
		options = append(options, middleware.ReplayIDs(r.ids...))
	}
	if r.from != "" {
		options = append(options, middleware.ReplayFrom(r.from))
	}
	if r.failedGroup != "" {
		options = append(options, middleware.ReplayGroup(r.failedGroup))
	}
	switch {
	case r.through:
		options = append(options, middleware.ReplayDryRunThrough())
	case r.dryRun:
		options = append(options, middleware.ReplayDryRun())
	}
	return options
}

type replayDocument struct {
	DryRun bool `json:"dry_run"`
	middleware.Report
	Messages []replayEntry `json:"messages"` // the first 1000
}

type replayEntry struct {
	ID     reliable.ID             `json:"id"`
	Result middleware.ReplayResult `json:"result"`
	middleware.Failure
}

func (r *replaying) replay(ctx context.Context, subscriber message.Subscriber, publisher message.Publisher) error {
	document := replayDocument{DryRun: r.dryRun, Messages: []replayEntry{}}
	list := middleware.ReplayEach(func(msg *message.Message, f middleware.Failure, result middleware.ReplayResult) {
		if len(document.Messages) < maxListed && (r.kept || result != middleware.Kept) {
			document.Messages = append(document.Messages, replayEntry{reliable.ID(msg.UUID), result, f})
		}
	})
	report, failed := middleware.Replay(ctx, subscriber, publisher, r.topic, append(r.options(), list)...)
	document.Report = report
	if err := r.show(document); err != nil {
		return errors.Join(failed, err)
	}
	found := report.Entries - report.Kept
	left := report.Refused + report.Homeless + report.CameBack
	switch {
	case failed != nil && report.Drained && report.Refused > 0: // it went on behind them
		return exitError{exitPartly, failed.Error()}
	case failed != nil:
		return failed
	case found == 0 && report.Drained:
		return errNothing("no message in %q matches", r.topic)
	case left > 0:
		return exitError{code: exitPartly}
	case !report.Drained:
		r.app.note("stopped at --limit %d; there may be more", r.limit)
		return exitError{code: exitPartly}
	}
	return nil
}

func (r *replaying) show(document replayDocument) error {
	if r.app.format == formatJSON {
		return r.app.json(document)
	}
	if len(document.Messages) > 0 {
		rows := make([][]string, len(document.Messages))
		for i, entry := range document.Messages {
			last := "-"
			if !entry.Last.IsZero() {
				last = entry.Last.Format(time.RFC3339)
			}
			rows[i] = []string{
				string(entry.ID), entry.Topic, entry.Group, strconv.Itoa(entry.Attempts), strconv.Itoa(entry.Replays), last,
				string(entry.Result), entry.Reason,
			}
		}
		header := []string{"ID", "FROM", "GROUP", "ATTEMPTS", "REPLAYS", "FAILED", "RESULT", "REASON"}
		r.app.table(header, rows)
		r.app.say("\n")
	}
	verb := "replayed"
	if document.DryRun {
		verb = "would replay"
	}
	r.app.say("%s %s; kept %d, came back %d, without origin %d, refused %d\n", verb, plural(document.Replayed, "message"),
		document.Kept, document.CameBack, document.Homeless, document.Refused)
	return nil
}
