package main

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

func newMigrate(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Create the tables, or bring them up to date",
		Long: `Creates the tables of a store, or brings them up to date; or says what that would
be, for a DBA who does it. Migrations are additive: programs that know the tables of
before go on working while a fleet is rolled over.`,
		Example: `  waybill migrate status
  waybill migrate print > waybill.sql
  waybill migrate apply`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("say what: apply, print or status; see `%s --help`", cmd.CommandPath())
		},
	}
	cmd.AddCommand(newMigrateApply(a), newMigratePrint(a), newMigrateStatus(a))
	return cmd
}

// schemaReport is what the migrate commands say as JSON.
type schemaReport struct {
	Store   string `json:"store"`
	Usable  bool   `json:"usable"`
	Changed bool   `json:"changed"`
	Problem string `json:"problem,omitempty"`
}

func (a *app) reportSchema(r schemaReport) error {
	if a.format == formatJSON {
		return a.json(r)
	}
	text := "the tables are up to date"
	switch {
	case r.Changed:
		text = "the tables were brought up to date"
	case !r.Usable:
		text = r.Problem
	}
	a.say("%s: %s\n", r.Store, text)
	return nil
}

func newMigrateApply(a *app) *cobra.Command {
	cmd := &cobra.Command{ //nolint:gosec // the URL of the example is made up
		Use:   "apply",
		Short: "Create the tables, or bring them up to date",
		Long: `Creates the tables or brings them up to date; does nothing if they are. Several
processes may do so at once. The account needs the right to create tables and
indexes. A SQLite file that is not there is made. On a large table a new version
may take a while: 'waybill migrate print' shows what it does.`,
		Example: `  WAYBILL_STORE=mysql://dba:secret@db.internal/shop waybill migrate apply`,
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			address, err := a.storeAddress()
			if err != nil {
				return err
			}
			a.storeURL = making(address)
			store, err := a.openStore(cmd.Context())
			if err != nil {
				return err
			}
			defer store.Close()
			migrator, ok := reliable.Ability[backend.Migrator](store)
			if !ok {
				return fmt.Errorf("the store has no tables to migrate: %w", errors.ErrUnsupported)
			}
			before := a.checked(cmd.Context(), store)
			if before != nil && !errors.Is(before, reliable.ErrSchema) {
				return before
			}
			// A migration takes as long as it takes: half of one is no use.
			if err := migrator.Migrate(cmd.Context()); err != nil {
				return err
			}
			return a.reportSchema(schemaReport{Store: backend.Redact(address), Usable: true, Changed: before != nil})
		},
	}
	return cmd
}

// making has a SQLite file made if it is not there; on anything else it changes nothing.
func making(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "sqlite" {
		return address
	}
	parameters, err := url.ParseQuery(u.RawQuery)
	if err != nil || parameters.Has("create") {
		return address
	}
	parameters.Set("create", "true")
	u.RawQuery = parameters.Encode()
	return u.String()
}

func newMigratePrint(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "print",
		Short: "Print the SQL that creates the tables",
		Long: `Prints the SQL that creates the tables, version by version, for a DBA who applies
it. It connects to nothing, so host and password of the URL may be made up; its
scheme and its table_prefix count. The script can be run again.`,
		Example: `  waybill migrate print --store 'postgres://h/d?table_prefix=shop_' > waybill.sql`,
		Args:    arguments(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			address, err := a.storeAddress()
			if err != nil {
				return err
			}
			schema, err := stores().Schema(address)
			if err != nil {
				return err
			}
			if a.format == formatJSON {
				return a.json(map[string]string{"schema": schema})
			}
			a.say("%s", schema)
			return nil
		},
	}
}

func newMigrateStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say whether the tables can be used",
		Long: `Says whether the tables are there and fit this program. It changes nothing. Exit code
5 means that they do not: see 'waybill help exit-codes'.`,
		Example: `  waybill migrate status || waybill migrate apply`,
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := a.openStore(cmd.Context())
			if err != nil {
				return err
			}
			defer store.Close()
			address, _ := a.storeAddress()
			report := schemaReport{Store: backend.Redact(address), Usable: true}
			err = a.checked(cmd.Context(), store)
			switch {
			case errors.Is(err, reliable.ErrSchema):
				report.Usable, report.Problem = false, err.Error()
			case err != nil:
				return err
			}
			if err := a.reportSchema(report); err != nil {
				return err
			}
			if !report.Usable {
				return exitError{code: exitSchema}
			}
			return nil
		},
	}
}
