package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillmq/waybill/reliable"
)

// commands make the subcommands. Another one is a file beside these, with a function here.
var commands = []func(*app) *cobra.Command{
	newMigrate, newStatus, newList, newExplain, newRequeue, newCompensate, newDiscard, newRelay, newSweep, newPurge,
	newReplay, newCallback,
}

// run is the program; it returns its exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{in: in, out: out, err: errOut}
	root := newRoot(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil && a.outErr != nil {
		err = fmt.Errorf("write the result: %w", a.outErr)
	}
	code := codeOf(ctx, err)
	if err != nil && err.Error() != "" {
		a.note("waybill: %v%s", err, remedy(ctx, err))
	}
	return code
}

// remedy is what helps against an error in which the library speaks of itself.
func remedy(ctx context.Context, err error) string {
	switch {
	case ctx.Err() != nil:
		return ": interrupted"
	case errors.Is(err, reliable.ErrSchema):
		return "\nrun `waybill migrate status`, then `waybill migrate apply`, or have your DBA apply what `waybill migrate print` prints"
	case errors.Is(err, context.DeadlineExceeded):
		return "\nthe store did not answer in time: is it reachable from here? --timeout sets how long it may take"
	case errors.Is(err, reliable.ErrUnknown):
		return "\nthe connection was lost while it was being recorded: look (waybill explain ID) before you repeat it"
	}
	return ""
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "waybill",
		Short: "Operate Waybill outboxes",
		Long: `waybill looks into the outbox of any store, explains what became of a message,
records decisions about failed ones, and relays.

The store is named by WAYBILL_STORE or --store, the broker of the commands that
relay by WAYBILL_BROKER or --broker; prefer the environment, for other users of a
machine can see a command's flags. 'waybill help urls' lists what is possible.

Results go to standard output, as a table or (-o json) as JSON; what is said beside
goes to standard error. Exit codes are listed by 'waybill help exit-codes'. Nothing
ever shows a password, or a payload unless 'explain --payload' asks for it. What
changes more than one message asks first, unless --yes says that nobody need be
asked.`,
		Example: `  export WAYBILL_STORE=postgres://shop:secret@db.internal/shop
  waybill status
  waybill list --topic orders.placed
  waybill explain order-17
  waybill requeue --topic orders.placed --why "the queue is declared again"`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs, // RunE says better what is wrong with them
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			hint := "`waybill --help` lists the commands"
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				hint = "did you mean " + strings.Join(near, " or ") + "?"
			}
			return usagef("unknown command %q; %s", args[0], hint)
		},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.format != formatTable && a.format != formatJSON {
				return usagef("--output is %q, must be table or json", a.format)
			}
			if a.timeout <= 0 {
				return usagef("--timeout is %v, must be above 0", a.timeout)
			}
			return nil
		},
	}
	root.SuggestionsMinimumDistance = 2
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; `%s --help` lists the flags", err, cmd.CommandPath())
	})

	flags := root.PersistentFlags()
	flags.StringVar(&a.storeURL, "store", "", "URL of the store; default $"+storeVariable)
	flags.StringVar(&a.brokerURL, "broker", "", "URL of the broker, for relay, sweep, replay and callback; default $"+brokerVariable)
	flags.StringVarP(&a.format, "output", "o", formatTable, "how results are written: table or json")
	flags.DurationVar(&a.timeout, "timeout", 30*time.Second, "how long connecting, and each call to the store, may take")
	complete(root, "output", func(*cobra.Command) []string { return []string{formatTable, formatJSON} })

	for _, command := range commands {
		root.AddCommand(command(a))
	}
	root.AddCommand(topics()...)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	explainCompletion(root)
	return root
}

// arguments refuses what is not a command line of cmd, as a matter of usage.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usagef("%w; see `%s --help`", err, cmd.CommandPath())
		}
		return nil
	}
}

// complete tells shells what a flag may be.
func complete(cmd *cobra.Command, flag string, values func(cmd *cobra.Command) []string) {
	err := cmd.RegisterFlagCompletionFunc(flag,
		func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
			var fitting []string
			for _, value := range values(cmd) {
				if strings.HasPrefix(value, prefix) {
					fitting = append(fitting, value)
				}
			}
			return fitting, cobra.ShellCompDirectiveNoFileComp
		})
	if err != nil {
		panic(fmt.Sprintf("flag %s: %v", flag, err)) // there is no such flag, or it has completions already
	}
}

// topics are help pages that are not about one command.
func topics() []*cobra.Command {
	var urls strings.Builder
	urls.WriteString("A store and a broker are named by a URL each. Reserved characters of user and password are\n" +
		"percent-encoded. The examples show every parameter; each may be left out.\n\nStores:\n\n")
	for _, kind := range stores() {
		fmt.Fprintf(&urls, "  %s\n      %s\n", strings.Join(kind.Schemes, ", "), kind.Example)
	}
	urls.WriteString("\nBrokers:\n\n")
	for _, kind := range brokers() {
		fmt.Fprintf(&urls, "  %s\n      %s\n", strings.Join(kind.Schemes, ", "), kind.Example)
	}
	urls.WriteString("\nA SQLite file and its tables are only made by 'waybill migrate apply'.\n")
	return []*cobra.Command{
		{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodes, Example: "  waybill explain order-17; echo $?"},
		{Use: "urls", Short: "How stores and brokers are named", Long: urls.String(),
			Example: "  WAYBILL_STORE=sqlite:/var/lib/shop/orders.db waybill status"},
	}
}

// explainCompletion gives cobra's own commands what every command here has.
func explainCompletion(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Example = "  waybill help explain"
		case "completion":
			cmd.Example = "  source <(waybill completion bash)"
			for _, shell := range cmd.Commands() {
				shell.Example = "  waybill completion " + shell.Name()
			}
		}
	}
}

// version is that of the module, as far as the build knows.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(unknown)"
}
