package main

import (
	"bufio"
	"encoding/json"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/reliable"
)

// natsServer starts a broker that other processes can reach.
func natsServer(t *testing.T) *embedded.Server {
	t.Helper()
	server, err := embedded.StartServer(t.Context(), t.TempDir(), embedded.WithListener(0))
	require.NoError(t, err)
	t.Cleanup(server.Stop)
	return server
}

// received is how many messages the server has of a stream.
func received(t *testing.T, server *embedded.Server, stream string) int {
	t.Helper()
	conn, err := nats.Connect(server.URL())
	require.NoError(t, err)
	defer conn.Close()
	js, err := jetstream.New(conn)
	require.NoError(t, err)
	s, err := js.Stream(t.Context(), stream)
	require.NoError(t, err)
	info, err := s.Info(t.Context())
	require.NoError(t, err)
	return int(info.State.Msgs)
}

// statusOf counts messages by status.
func statusOf(t *testing.T, store reliable.Store, ids []reliable.ID) map[reliable.Status]int {
	t.Helper()
	inspector, ok := reliable.Ability[reliable.Inspector](store)
	require.True(t, ok)
	counts := make(map[reliable.Status]int)
	for len(ids) > 0 {
		n := min(1000, len(ids))
		records, err := inspector.Lookup(t.Context(), ids[:n]...)
		require.NoError(t, err)
		for i := range records {
			counts[records[i].Status]++
		}
		ids = ids[n:]
	}
	return counts
}

// started is a command that runs until it is told to stop.
type started struct {
	*exec.Cmd
	lines chan string // of standard error
}

func start(t *testing.T, cmd *exec.Cmd) *started {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	s := &started{cmd, make(chan string, 10_000)}
	go func() {
		defer close(s.lines)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			s.lines <- lines.Text()
		}
	}()
	return s
}

// await returns the first line with text, and fails if the command ends without one.
func (s *started) await(t *testing.T, text string) string {
	t.Helper()
	for line := range s.lines {
		if strings.Contains(line, text) {
			return line
		}
	}
	t.Fatalf("the command ended without saying %q", text)
	return ""
}

func TestRelay_drainsAndEndsWithZeroWhenToldToStop(t *testing.T) {
	server := natsServer(t)
	url := places[0].url(t)
	store := migrated(t, url)
	ids := stored(t, store, "orders.placed", 20_000)

	relay := start(t, command(t, []string{"WAYBILL_STORE=" + url, "WAYBILL_BROKER=" + server.URL() + "?stream=SHOP"},
		"relay", "--log-format", "json", "--log-level", "debug", "--declare", "orders.placed", "--worker", "relay-1"))
	var entry map[string]any
	require.NoError(t, json.Unmarshal([]byte(relay.await(t, `"relaying"`)), &entry), "logs are not structured")
	assert.Equal(t, url, entry["store"])

	deadline := time.Now().Add(patience)
	for statusOf(t, store, ids[:1000])[reliable.Confirmed] == 0 { // in the middle of it
		require.True(t, time.Now().Before(deadline), "nothing is relayed")
	}
	require.NoError(t, relay.Process.Signal(syscall.SIGTERM))
	relay.await(t, "stopped, everything in flight is settled")
	require.NoError(t, relay.Wait())

	counts := statusOf(t, store, ids)
	assert.Equal(t, len(ids), counts[reliable.Confirmed]+counts[reliable.Pending])
	assert.Equal(t, counts[reliable.Confirmed], received(t, server, "SHOP"), "an outcome was not recorded")
	t.Logf("%d were confirmed and %d given back", counts[reliable.Confirmed], counts[reliable.Pending])
	confirmed(t, store) // what is pending is due, not leased to a process that has ended
	assert.Equal(t, len(ids), statusOf(t, store, ids)[reliable.Confirmed])
}

// relaysAndStops has a relay confirm everything, and stop.
func relaysAndStops(t *testing.T, store, broker string) {
	opened := migrated(t, store)
	ids := stored(t, opened, "orders.placed", 200)
	relay := start(t, command(t, []string{"WAYBILL_STORE=" + store, "WAYBILL_BROKER=" + broker}, "relay", "--declare", "orders.placed"))
	relay.await(t, "relaying")
	deadline := time.Now().Add(patience)
	for statusOf(t, opened, ids)[reliable.Confirmed] < len(ids) {
		require.True(t, time.Now().Before(deadline), "not everything is relayed")
	}
	require.NoError(t, relay.Process.Signal(syscall.SIGTERM))
	for line := range relay.lines {
		assert.NotContains(t, line, "waybill:waybill", "a password was logged")
	}
	require.NoError(t, relay.Wait())
}

func TestRelay_thatCannotDrainInTimeSaysSo(t *testing.T) {
	url := places[0].url(t)
	ids := stored(t, migrated(t, url), "orders.placed", 1)
	deaf, published := deafServer(t)
	relay := start(t, command(t, []string{"WAYBILL_STORE=" + url, "WAYBILL_BROKER=" + deaf}, "relay", "--drain-timeout", "10ms"))
	<-published
	require.NoError(t, relay.Process.Signal(syscall.SIGTERM))
	relay.await(t, "not drained in time")
	for range relay.lines { // to their end
	}
	var exit *exec.ExitError
	require.ErrorAs(t, relay.Wait(), &exit)
	assert.Equal(t, exitNotDrained, exit.ExitCode())

	life := waybill(t, url, "explain", string(ids[0]))
	assert.Contains(t, life.stdout, "leased", "%v", life)
}

func TestSweep_fromTwoProcessesSharesTheWork(t *testing.T) {
	server := natsServer(t)
	url := places[0].url(t)
	store := migrated(t, url)
	ids := stored(t, store, "orders.placed", 4000)
	env := []string{"WAYBILL_STORE=" + url, "WAYBILL_BROKER=" + server.URL() + "?stream=SHOP"}
	args := []string{"sweep", "-o", "json", "--declare", "orders.placed"}

	var reports [2]sweepDocument
	var group sync.WaitGroup
	for i := range reports {
		cmd := command(t, env, args...)
		group.Go(func() {
			output, err := cmd.Output()
			assert.NoError(t, err)
			assert.NoError(t, json.Unmarshal(output, &reports[i]))
		})
	}
	group.Wait()
	assert.Equal(t, len(ids), reports[0].Claimed+reports[1].Claimed, "%+v", reports)
	assert.Equal(t, len(ids), reports[0].Confirmed+reports[1].Confirmed, "%+v", reports)
	assert.Equal(t, len(ids), received(t, server, "SHOP"), "a message was lost, or sent by both")
	assert.Equal(t, len(ids), statusOf(t, store, ids)[reliable.Confirmed])
	t.Logf("one claimed %d, the other %d", reports[0].Claimed, reports[1].Claimed)

	again := finish(t, command(t, env, args...))
	assert.Zero(t, again.code, "nothing to do is no failure: %v", again)
	assert.Equal(t, sweepDocument{}, parsed[sweepDocument](t, again))
}

func TestSweep_withoutABrokerFailsAndLosesNothing(t *testing.T) {
	url := places[0].url(t)
	store := migrated(t, url)
	ids := stored(t, store, "orders.placed", 10)
	result := waybill(t, url, "sweep", "--broker", "nats://127.0.0.1:1", "--drain-timeout", "3s")
	assert.Equal(t, exitFailure, result.code, "%v", result)
	assert.Contains(t, result.stderr, "the broker took none of")
	assert.Equal(t, len(ids), statusOf(t, store, ids)[reliable.Pending])
	confirmed(t, store) // nothing is leased to a process that has ended
	assert.Equal(t, len(ids), statusOf(t, store, ids)[reliable.Confirmed])
}

func TestRelay_endsAtOnceByASecondSignal(t *testing.T) {
	url := places[0].url(t)
	stored(t, migrated(t, url), "orders.placed", 1)
	deaf, published := deafServer(t)
	// Nothing but the second signal ends it before the test's patience does.
	relay := start(t, command(t, []string{"WAYBILL_STORE=" + url, "WAYBILL_BROKER=" + deaf + "?confirm_timeout=5m"},
		"relay", "--lease", "10m", "--drain-timeout", "10m"))
	<-published
	for ended := false; !ended; {
		_ = relay.Process.Signal(syscall.SIGINT) // the first one may still be on its way to its handler
		select {
		case _, open := <-relay.lines:
			ended = !open
		case <-time.After(20 * time.Millisecond):
		}
	}
	var exit *exec.ExitError
	require.ErrorAs(t, relay.Wait(), &exit)
	status, ok := exit.Sys().(syscall.WaitStatus)
	require.True(t, ok)
	assert.Equal(t, syscall.SIGINT, status.Signal(), "it was ended by the test's patience")
}
