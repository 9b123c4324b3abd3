package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/waybillmq/waybill/strategies/tagging"
)

func newSweep(a *app) *cobra.Command {
	r := &relaying{app: a}
	cmd := &cobra.Command{
		Use:   "sweep",
		Short: "Relay everything that is due, once, for cron",
		Long: `Makes one pass from a store to a broker: claims all that is due, hands it over, waits
for the answers, records them, and ends. For cron, or a Kubernetes CronJob, from as
many processes at a time as you like: they share the work by leases. Messages that are
refused or unanswered wait for a later pass.

It ends with 1 if something was due and the broker took none of it.` + sameRules,
		Example: `  * * * * *  waybill sweep --log-level warn     # in a crontab, with both URLs set
  waybill sweep -o json`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.with(cmd.Context(), tagging.Hooks{}, func(outbox *tagging.Outbox, _ *slog.Logger) error {
				report, err := outbox.SweepOnce(cmd.Context())
				if shown := a.showSweep(report); err == nil {
					err = shown
				}
				if err != nil {
					return err
				}
				if report.Claimed > 0 && report.Returned == report.Claimed {
					return fmt.Errorf("the broker took none of %s: is it up, and is --broker right?", plural(report.Claimed, "due message"))
				}
				return nil
			})
		},
	}
	r.add(cmd)
	cmd.Flags().Lookup("log-level").DefValue = "warn"
	r.logLevel = "warn"
	return cmd
}

type sweepDocument struct {
	Claimed   int `json:"claimed"`
	Confirmed int `json:"confirmed"`
	Failed    int `json:"failed"`
	Retried   int `json:"retried"`
	GivenBack int `json:"given_back"`
}

func (a *app) showSweep(report tagging.Report) error {
	d := sweepDocument{report.Claimed, report.Confirmed, report.Failed, report.Retried, report.Returned}
	if a.format == formatJSON {
		return a.json(d)
	}
	a.say("claimed %d: confirmed %d, failed %d, to be tried again %d, given back unsent %d\n",
		d.Claimed, d.Confirmed, d.Failed, d.Retried, d.GivenBack)
	return nil
}
