package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestUsage_isRefusedBeforeAnythingIsOpened(t *testing.T) {
	const nowhere = "postgres://waybill:hush-hush@127.0.0.1:1/nothing"
	for _, c := range []struct {
		args string
		says string
	}{
		{"lst", `unknown command "lst"; did you mean list?`},
		{"list --frobnicate", "unknown flag: --frobnicate; `waybill list --help`"},
		{"list extra", "see `waybill list --help`"},
		{"list --status nonsense", "must be one of failed, pending, confirmed, compensated, discarded"},
		{"list --older-than yesterday", "invalid argument"},
		{"list --older-than -1h", "must be 0 or more"},
		{"list --limit 0", "must be at least 1"},
		{"list -o yaml", "must be table or json"},
		{"status --timeout 0s", "--timeout is 0s"},
		{"migrate", "say what: apply, print or status"},
		{"explain", "requires at least 1 arg"},
		{"requeue", "which messages?"},
		{"requeue a", "--why is missing"},
		{"requeue a --topic t --why w", "not both"},
		{"requeue --status confirmed --why w", "must be one of failed, discarded"},
		{"compensate --status pending --why w", "must be one of failed"},
		{"discard --status compensated --why w", "must be one of failed, pending"},
		{"purge", "--status and --older-than are required"},
		{"purge --status failed --older-than 1h", "must be one of confirmed, compensated, discarded"},
		{"purge --status confirmed --older-than 1h --batch 0", "must be 1 to 10000"},
		{"relay", "no broker is named: set WAYBILL_BROKER or pass --broker"},
		{"relay --broker amqp://h/v --log-level loud", "must be debug, info, warn or error"},
		{"relay --broker amqp://h/v --log-format xml", "must be text or json"},
		{"sweep --broker amqp://h/v --retention -1h", "--retention is -1h0m0s"},
		{"sweep --broker carrier-pigeon://h", "possible are amqp, amqps"},
		{"replay", "requires at least 1 arg"},
		{"replay orders.poison --yes", "no broker is named"},
		{"replay orders.poison --broker amqp://h/v", "nobody can be asked"},
		{"replay orders.poison a --limit -1", "--limit is -1"},
		{"replay orders.poison a --idle 0s", "--idle is 0s"},
		{"replay orders.poison a --through", "--through is for --dry-run"},
		{"replay orders.poison a --to orders.poison", "--to is the poison topic itself"},
		{"replay orders.poison a --broker amqp://h/v?windw=1", `parameter "windw"`},
		{"relay --broker amqp://h/v?windw=1", `parameter "windw"`},
	} {
		t.Run(c.args, func(t *testing.T) {
			result := waybill(t, nowhere, strings.Fields(c.args)...)
			assert.Equal(t, exitUsage, result.code, "%v", result)
			assert.Contains(t, result.stderr, c.says)
			assert.Empty(t, result.stdout)
			assert.NotContains(t, result.stderr, "127.0.0.1", "it has looked for the store")
		})
	}
}

func TestStore_mustBeNamed(t *testing.T) {
	result := finish(t, command(t, nil, "status"))
	assert.Equal(t, exitUsage, result.code)
	assert.Contains(t, result.stderr, "set WAYBILL_STORE or pass --store")
}

func TestStore_flagWinsOverEnvironment(t *testing.T) {
	url := places[0].url(t)
	migrated(t, url)
	assert.Zero(t, waybill(t, "postgres://nowhere.invalid/none", "status", "--store", url).code)
}

func TestSecrets_areNotInWhatIsSaidOfAURL(t *testing.T) {
	for _, url := range []string{
		"postgres://waybill:hush-hush@127.0.0.1:1/nothing", "mysql://waybill:hush-hush@127.0.0.1:1/nothing",
		"oracle://waybill:hush-hush@127.0.0.1:1/nothing", "postgres://waybill:hush-hush@127.0.0.1:port/nothing",
		"postgres://waybill:hush-hush@127.0.0.1:1/nothing?sslmod=disable", "waybill:hush-hush@127.0.0.1",
	} {
		result := waybill(t, url, "status", "--timeout", "5s")
		assert.NotZero(t, result.code, url)
		assert.NotEmpty(t, result.stderr, url)
		assert.NotContains(t, result.stdout+result.stderr, "hush", url)
	}
	url := places[0].url(t)
	migrated(t, url)
	for _, broker := range []string{"amqp://waybill:hush-hush@127.0.0.1:1/v", "nats://waybill:hush-hush@127.0.0.1:1", "nats://hush-hush@127.0.0.1:1"} {
		result := waybill(t, url, "sweep", "--broker", broker, "--log-level", "debug")
		assert.NotContains(t, result.stdout+result.stderr, "hush", broker)
	}
}
