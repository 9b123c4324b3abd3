package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// each calls fn with every command, cobra's own and the pages of help among them.
func each(cmd *cobra.Command, fn func(cmd *cobra.Command)) {
	fn(cmd)
	for _, sub := range cmd.Commands() {
		each(sub, fn)
	}
}

func tree() *cobra.Command {
	return newRoot(&app{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &bytes.Buffer{}})
}

func TestHelp_isCompleteForEveryCommand(t *testing.T) {
	commands := 0
	each(tree(), func(cmd *cobra.Command) {
		commands++
		assert.NotEmpty(t, cmd.Short, "%s has no short help", cmd.CommandPath())
		assert.NotEmpty(t, cmd.Long, "%s has no long help", cmd.CommandPath())
		assert.NotEmpty(t, cmd.Example, "%s has no example", cmd.CommandPath())
		cmd.Flags().VisitAll(func(flag *pflag.Flag) {
			assert.NotEmpty(t, flag.Usage, "%s --%s is not explained", cmd.CommandPath(), flag.Name)
		})
	})
	assert.Greater(t, commands, 15)
}

func TestHelp_namesOnlyFlagsAndCommandsThatExist(t *testing.T) {
	root := tree()
	all := map[string]bool{"help": true}
	each(root, func(cmd *cobra.Command) {
		cmd.Flags().VisitAll(func(flag *pflag.Flag) { all[flag.Name] = true })
		cmd.PersistentFlags().VisitAll(func(flag *pflag.Flag) { all[flag.Name] = true })
	})
	each(root, func(cmd *cobra.Command) {
		if strings.HasPrefix(cmd.CommandPath(), "waybill completion") {
			return // cobra's own words
		}
		for _, match := range regexp.MustCompile(`--([a-z][a-z-]*)`).FindAllStringSubmatch(cmd.Long, -1) {
			assert.True(t, all[match[1]], "%s speaks of --%s, which no command has", cmd.CommandPath(), match[1])
		}
		// Each example is a command line that parses, as far as its own command.
		for _, example := range regexp.MustCompile(`(?m)waybill ([a-z-]+(?: [a-z]+)?)([^\n]*)`).FindAllStringSubmatch(cmd.Example, -1) {
			words := strings.Fields(example[1])
			found, _, err := root.Find(words)
			require.NoError(t, err, "example of %s: %s", cmd.CommandPath(), example[0])
			require.NotEqual(t, root, found, "example of %s: %s", cmd.CommandPath(), example[0])
			line, _, _ := strings.Cut(example[2], "#")
			line = regexp.MustCompile(`"[^"]*"|'[^']*'`).ReplaceAllString(line, "x")
			for _, flag := range regexp.MustCompile(`--([a-z][a-z-]*)`).FindAllStringSubmatch(line, -1) {
				assert.True(t, found.Flags().Lookup(flag[1]) != nil || found.InheritedFlags().Lookup(flag[1]) != nil,
					"example of %s: %s has no flag --%s", cmd.CommandPath(), found.CommandPath(), flag[1])
			}
		}
	})
}

func TestHelp_listsEveryExitCode(t *testing.T) {
	result := waybill(t, "", "help", "exit-codes")
	require.Zero(t, result.code, "%v", result)
	for _, code := range []string{"0", "1", "2", "3", "4", "5", "6", "130"} {
		assert.Regexp(t, `(?m)^  `+code+` +\w`, result.stdout)
	}
}

func TestHelp_listsEveryKindOfURL(t *testing.T) {
	result := waybill(t, "", "help", "urls")
	require.Zero(t, result.code, "%v", result)
	for _, kind := range stores() {
		assert.Contains(t, result.stdout, kind.Example)
	}
	for _, kind := range brokers() {
		assert.Contains(t, result.stdout, kind.Example)
	}
}

func TestHelp_isGivenWithoutAStore(t *testing.T) {
	for _, args := range [][]string{{}, {"--help"}, {"list", "--help"}, {"migrate", "apply", "-h"}, {"--version"}} {
		result := finish(t, command(t, nil, args...))
		assert.Zero(t, result.code, "%v", result)
		assert.NotEmpty(t, result.stdout)
		assert.Empty(t, result.stderr)
	}
}

func TestCompletion_knowsCommandsFlagsAndTopics(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		result := waybill(t, "", "completion", shell)
		assert.Zero(t, result.code, "%v", result)
		assert.Contains(t, result.stdout, "waybill", shell)
	}
	url := places[0].url(t)
	stored(t, migrated(t, url), "orders.placed", 1)
	for _, c := range []struct{ args, want string }{
		{"req", "requeue"}, {"list --sta", "--status"}, {"list --status f", "failed"}, {"purge --status c", "confirmed"},
		{"-o ", "json"}, {"migrate ", "apply"}, {"list --topic o", "orders.placed"},
	} {
		args := append([]string{"__complete"}, strings.Split(c.args, " ")...)
		result := waybill(t, url, args...)
		assert.Regexp(t, `(?m)^`+c.want, result.stdout, "completion of %q", c.args)
	}
}
