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

func TestMatrix_losesNothingOnAnyCombination(t *testing.T) {
	var out, log bytes.Buffer
	err := matrix{orders: orderCount, patience: 2 * time.Minute, out: &out, log: &log}.run(t.Context())
	if !assert.NoError(t, err) {
		t.Log("\n" + log.String())
	}
	t.Log("\n" + out.String())
	for _, r := range rows() {
		line := fmt.Sprintf(`(?m)^\s*%s +%d +%d +1 +%d +\d+ +0 +[1-9]\d*$`,
			strings.ReplaceAll(r.name, "+", `\+`), orderCount, orderCount-1, orderCount-1)
		assert.Regexp(t, line, out.String())
	}
}

// A broker that says that it has what it has dropped is noticed, and the command says so to whoever started it.
func TestMatrix_exitsWithAnErrorIfABrokerLies(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "all")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	output, err := build.CombinedOutput()
	require.NoError(t, err, string(output))

	run := func(env ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), binary, "-orders", "60", "-only", "NATS+SQLite", "-patience", "10s")
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
	assert.Regexp(t, `NATS\+SQLite +60 +59 +1 +58 +\d+ +1 `, said)
}
