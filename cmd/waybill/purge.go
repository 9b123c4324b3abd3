package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
	"github.com/waybillmq/waybill/strategies/tagging"
)

type purging struct {
	app         *app
	status      string
	olderThan   time.Duration
	batch, most int
	pause       time.Duration
	dryRun, yes bool
}

func finalStatuses() []reliable.Status {
	return []reliable.Status{reliable.Confirmed, reliable.Compensated, reliable.Discarded}
}

func newPurge(a *app) *cobra.Command {
	p := &purging{app: a}
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "Delete what is over, in bounded batches",
		Long: `Deletes messages of a final status (confirmed, compensated or discarded) that were
settled at least --older-than ago, with their histories: one short transaction for
each batch, so that relays are not held up. Relays inside your own processes do this
by themselves; it is for those that do not. Pending and failed messages are never
deleted.

A row remembers its ID: an operation that is repeated after its row was deleted is
sent again. It asks first, and fails where nobody can be asked, unless --yes is given.
--dry-run counts those that were stored that long ago; of these, the ones that were
settled later stay.`,
		Example: `  waybill purge --status confirmed --older-than 72h --dry-run
  waybill purge --status confirmed --older-than 72h --yes
  waybill purge --status discarded --older-than 720h --batch 500 --pause 200ms --yes`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&p.status, "status", "", "which ones: confirmed, compensated or discarded; required")
	flags.DurationVar(&p.olderThan, "older-than", 0, "settled at least this long ago, as 72h; required")
	flags.IntVar(&p.batch, "batch", 1000, "how many to delete in one transaction, at most 10000")
	flags.IntVar(&p.most, "limit", 0, "how many to delete at most; 0 means all")
	flags.DurationVar(&p.pause, "pause", 0, "how long to wait between batches")
	flags.BoolVar(&p.dryRun, "dry-run", false, "count, and delete nothing")
	flags.BoolVarP(&p.yes, "yes", "y", false, "do not ask")
	complete(cmd, "status", func(*cobra.Command) []string {
		return []string{reliable.Confirmed.String(), reliable.Compensated.String(), reliable.Discarded.String()}
	})
	return cmd
}

func (p *purging) run(cmd *cobra.Command) error {
	const maxBatch = 10_000
	switch {
	case p.status == "" || !cmd.Flags().Changed("older-than"):
		return usagef("say what to delete: --status and --older-than are required")
	case p.olderThan < 0 || p.pause < 0 || p.most < 0:
		return usagef("--older-than, --pause and --limit must be 0 or more")
	case p.batch < 1 || p.batch > maxBatch:
		return usagef("--batch is %d, must be 1 to %d", p.batch, maxBatch)
	}
	status, err := parseStatus(p.status, finalStatuses()...)
	if err != nil {
		return err
	}
	return p.app.withStore(cmd.Context(), func(store backend.Store) error {
		if p.dryRun {
			return p.rehearse(cmd.Context(), store, status)
		}
		purger, ok := reliable.Ability[reliable.Purger](store)
		if !ok {
			return fmt.Errorf("the store deletes nothing: %w", errors.ErrUnsupported)
		}
		if err := p.confirm(); err != nil {
			return err
		}
		return p.purge(cmd.Context(), purger, status)
	})
}

func (p *purging) confirm() error {
	if p.yes {
		return nil
	}
	if !p.app.canAsk() {
		return usagef("this deletes messages, and nobody can be asked: look with --dry-run, then pass --yes")
	}
	if !p.app.ask("delete %s messages that were settled more than %s ago?", p.status, span(p.olderThan)) {
		return usagef("not confirmed; nothing was deleted")
	}
	return nil
}

type purgeDocument struct {
	Status  string `json:"status"`
	DryRun  bool   `json:"dry_run"`
	Deleted int    `json:"deleted"`
	AtMost  int    `json:"at_most,omitempty"` // with dry_run
}

func (p *purging) purge(ctx context.Context, purger reliable.Purger, status reliable.Status) error {
	deleted, more := 0, true
	var failed error
	for more {
		size := p.batch
		if p.most > 0 {
			size = min(size, p.most-deleted)
		}
		call, cancel := p.app.bounded(ctx)
		n, err := purger.Purge(call, status, p.olderThan, size)
		cancel()
		if failed = err; err != nil {
			break
		}
		deleted += n
		more = n == size && (p.most == 0 || deleted < p.most)
		if more {
			failed = sleep(ctx, p.pause)
			more = failed == nil
		}
	}
	if err := p.show(purgeDocument{Status: status.String(), Deleted: deleted}); err != nil {
		return errors.Join(failed, err)
	}
	switch {
	case failed != nil:
		return failed
	case p.most > 0 && deleted == p.most:
		p.app.note("stopped at --limit %d; there may be more", p.most)
		return exitError{code: exitPartly}
	}
	return nil
}

func (p *purging) rehearse(ctx context.Context, store reliable.Store, status reliable.Status) error {
	operator, err := tagging.NewOperator(withPatience(store, p.app.timeout))
	if err != nil {
		return err
	}
	d := purgeDocument{Status: status.String(), DryRun: true}
	for records, err := range operator.Pages(ctx, reliable.Filter{Status: status, OlderThan: p.olderThan}) {
		if err != nil {
			return err
		}
		d.AtMost += len(records)
		if p.most > 0 && d.AtMost >= p.most {
			d.AtMost = p.most
			break
		}
	}
	return p.show(d)
}

func (p *purging) show(d purgeDocument) error {
	if p.app.format == formatJSON {
		return p.app.json(d)
	}
	if d.DryRun {
		p.app.say("would delete at most %s; nothing was deleted\n", plural(d.AtMost, d.Status+" message"))
		return nil
	}
	p.app.say("deleted %s\n", plural(d.Deleted, d.Status+" message"))
	return nil
}
