package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

// program is the binary under test: what users run, built once.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "waybill-cli-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "waybill")
	if output, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, output)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// patience is how long anything may take on a loaded machine before it counts as stuck.
const patience = time.Minute

// place is a store that commands are run on.
type place struct {
	name string
	// url makes an empty database, without tables.
	url func(t *testing.T) string
}

// places are the stores that every test of a command runs on.
var places = append([]place{{"sqlite", func(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "shop.db")
	require.NoError(t, os.WriteFile(path, nil, 0o600)) // an empty file is an empty database
	return "sqlite:" + path
}}}, servers...)

// everywhere runs a test on each store.
func everywhere(t *testing.T, test func(t *testing.T, url string)) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) { test(t, p.url(t)) })
	}
}

// ran is what a command left behind.
type ran struct {
	stdout, stderr string
	code           int
}

func (r ran) String() string {
	return fmt.Sprintf("exit code %d\n--- standard output\n%s\n--- standard error\n%s", r.code, r.stdout, r.stderr)
}

// command is a command line, with an environment that names what is given and nothing else.
func command(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "USER=alice"}, env...)
	return cmd
}

// waybill runs a command on a store, with nobody to ask.
func waybill(t *testing.T, url string, args ...string) ran {
	t.Helper()
	return finish(t, command(t, []string{"WAYBILL_STORE=" + url}, args...))
}

func finish(t *testing.T, cmd *exec.Cmd) ran {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	result := ran{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	if result.code < 0 {
		t.Fatalf("%v: %v\n%v", cmd.Args, err, result)
	}
	return result
}

// parsed is the JSON that a command wrote.
func parsed[T any](t *testing.T, r ran) T {
	t.Helper()
	var v T
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &v), "%v", r)
	return v
}

// migrated opens a store for the test itself, after a command made its tables.
func migrated(t *testing.T, url string) backend.Store {
	t.Helper()
	result := waybill(t, url, "migrate", "apply")
	require.Zero(t, result.code, "%v", result)
	store, err := stores().Open(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// stored stores n messages of a topic, with IDs made of the topic and a number.
func stored(t *testing.T, store reliable.Store, topic string, n int) []reliable.ID {
	t.Helper()
	envs := make([]reliable.Envelope, n)
	ids := make([]reliable.ID, n)
	for i := range envs {
		ids[i] = reliable.ID(fmt.Sprintf("%s-%04d", strings.ReplaceAll(topic, ".", "-"), i))
		envs[i] = reliable.Envelope{
			ID: ids[i], Topic: topic, Payload: []byte("the secret of " + string(ids[i])),
			Metadata: map[string]string{"customer": "metadata of " + string(ids[i])},
		}
	}
	_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, envs...)
	require.NoError(t, err)
	return ids
}

// settled claims everything that is due and settles it.
func settled(t *testing.T, store reliable.Store, settle func(a reliable.Attempt) reliable.Settlement) {
	t.Helper()
	for {
		attempts, err := store.Claim(t.Context(), reliable.ClaimRequest{Worker: "worker-1", Max: 1000, Lease: time.Hour})
		require.NoError(t, err)
		if len(attempts) == 0 {
			return
		}
		settlements := make([]reliable.Settlement, len(attempts))
		for i := range attempts {
			s := settle(attempts[i])
			s.ID, s.Fence, s.Topic, s.Key, s.Sent = attempts[i].ID, attempts[i].Fence, attempts[i].Topic, attempts[i].Key, true
			settlements[i] = s
		}
		_, err = store.Settle(t.Context(), settlements...)
		require.NoError(t, err)
	}
}

// failed has everything that is due refused for good.
func failed(t *testing.T, store reliable.Store) {
	t.Helper()
	settled(t, store, func(reliable.Attempt) reliable.Settlement {
		return reliable.Settlement{Outcome: reliable.Returned, To: reliable.Failed, Charge: true, Reason: "no queue is bound"}
	})
}

// confirmed has everything that is due acked.
func confirmed(t *testing.T, store reliable.Store) {
	t.Helper()
	settled(t, store, func(reliable.Attempt) reliable.Settlement {
		return reliable.Settlement{Outcome: reliable.Acked, To: reliable.Confirmed}
	})
}
