//go:build services && linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const orderCount = 200

// skips has the delayed check played once with each broker, on another store than with the last one. `make run-matrix` plays
// all rows, which takes longer than a test should.
func skips(lane, at int, strategy string) bool { return strategy == "delayedcheck" && at != lane%3 }

func TestMatrix_losesNothingOnAnyCombination(t *testing.T) {
	var out, log bytes.Buffer
	err := matrix{orders: orderCount, patience: 5 * time.Minute, out: &out, log: &log, skips: skips}.run(t.Context())
	if !assert.NoError(t, err) {
		t.Log("\n" + log.String())
	}
	t.Log("\n" + out.String())
	for lane, rows := range lanes() {
		for at, r := range rows {
			// With delayedcheck none is the rule, but a machine that is slow for long uses up the rounds of a check.
			for strategy, failed := range map[string]string{"tagging": "1", "delayedcheck": `\d+`} {
				if skips(lane, at, strategy) {
					continue
				}
				sent := orderCount
				if strategy == "tagging" {
					sent-- // one is to a topic that nobody can route
				}
				line := fmt.Sprintf(`(?m)^\s*%s +%s +%d +%d +%s +%d +\d+ +0 +[1-9]\d*$`,
					strings.ReplaceAll(r.name, "+", `\+`), strategy, orderCount, sent, failed, sent)
				assert.Regexp(t, line, out.String())
			}
		}
	}
}

// A broker that says that it has what it has dropped is noticed, and the command says so to whoever started it.
func TestMatrix_exitsWithAnErrorIfABrokerLies(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "all")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	output, err := build.CombinedOutput()
	require.NoError(t, err, string(output))

	run := func(env ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), binary, "-orders", "60", "-only", "NATS+SQLite tagging", "-patience", "10s")
		cmd.Env = append(os.Environ(), env...)
		output, err := cmd.CombinedOutput()
		return string(output), err
	}
	said, err := run()
	require.NoError(t, err, said)
	said, err = run("LIE_ABOUT=order-000007")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, said)
	assert.Equal(t, 1, exit.ExitCode())
	assert.Contains(t, said, "1 committed orders were neither delivered nor failed")
	assert.Regexp(t, `NATS\+SQLite +tagging +60 +59 +1 +58 +\d+ +1 `, said)
}
