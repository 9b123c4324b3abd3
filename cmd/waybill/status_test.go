package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

func TestStatus_countsByTopicAndShowsHolds(t *testing.T) {
	everywhere(t, func(t *testing.T, url string) {
		store := migrated(t, url)
		empty := waybill(t, url, "status")
		assert.Zero(t, empty.code)
		assert.Contains(t, empty.stdout, "nothing is pending, and nothing has failed")

		stored(t, store, "orders.cancelled", 2)
		failed(t, store)
		stored(t, store, "orders.placed", 3)
		holder, ok := reliable.Ability[reliable.Holder](store)
		require.True(t, ok)
		_, err := holder.Hold(t.Context(), "orders.placed", time.Hour)
		require.NoError(t, err)

		result := waybill(t, url, "status", "-o", "json")
		require.Zero(t, result.code, "%v", result)
		document := parsed[statusDocument](t, result)
		require.Len(t, document.Topics, 2, "%v", result)
		assert.Equal(t, topicDocument{
			Topic: "orders.cancelled", Failed: 2, OldestFailedSeconds: document.Topics[0].OldestFailedSeconds,
		}, document.Topics[0])
		assert.Equal(t, "orders.placed", document.Topics[1].Topic)
		assert.Equal(t, 3, document.Topics[1].Pending)
		require.Len(t, document.Holds, 1)
		assert.Equal(t, "orders.placed", document.Holds[0].Topic)
		assert.Greater(t, document.Holds[0].NextProbeSeconds, 3000.0)

		result = waybill(t, url, "status")
		assert.Regexp(t, `(?m)^TOPIC +PENDING +OLDEST +FAILED`, result.stdout)
		assert.Regexp(t, `(?m)^orders.placed +3 +\d+m?s +0 +- +0 +0$`, result.stdout)
		assert.Regexp(t, `(?m)^\(all\) +3 .* 2 `, result.stdout)
		assert.Regexp(t, `(?m)^orders.placed +1 +\d+m?s +in 59m`, result.stdout)
	})
}

func TestStatus_ratesAreChangesBetweenTwoLooks(t *testing.T) {
	url := places[0].url(t)
	store := migrated(t, url)
	stored(t, store, "orders.placed", 5)
	result := waybill(t, url, "status", "--rate", "10ms", "-o", "json")
	require.Zero(t, result.code, "%v", result)
	topics := parsed[statusDocument](t, result).Topics
	require.Len(t, topics, 1)
	require.NotNil(t, topics[0].PendingPerSecond)
	assert.Zero(t, *topics[0].PendingPerSecond)
	assert.Contains(t, waybill(t, url, "status", "--rate", "10ms").stdout, "PENDING/s")
}

func TestStatus_watchGoesOnUntilInterrupted(t *testing.T) {
	url := places[0].url(t)
	store := migrated(t, url)
	cmd := command(t, []string{"WAYBILL_STORE=" + url}, "status", "--watch", "--interval", "20ms", "-o", "json")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	looks := json.NewDecoder(bufio.NewReader(out))
	look := func() (d statusDocument) {
		require.NoError(t, looks.Decode(&d))
		return d
	}
	assert.Empty(t, look().Topics)
	stored(t, store, "orders.placed", 7)
	grew := false
	for !grew {
		d := look()
		grew = len(d.Topics) == 1 && d.Topics[0].Pending == 7 && *d.Topics[0].PendingPerSecond > 0
	}
	confirmed(t, store)
	for shrank := false; !shrank; {
		d := look()
		shrank = len(d.Topics) == 1 && d.Topics[0].Pending == 0 && *d.Topics[0].PendingPerSecond < 0
	}
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	for looks.Decode(new(statusDocument)) == nil { // what was on its way
	}
	require.NoError(t, cmd.Wait(), "an interrupt is how watching ends")
}

// A signal may come at any moment, so this one comes at some.
func TestInterrupt_isSaidByTheExitCode(t *testing.T) {
	url := places[0].url(t)
	migrated(t, url)
	for range 20 {
		ctx, interrupt := context.WithCancel(t.Context())
		time.AfterFunc(rand.N(20*time.Millisecond), interrupt)
		var out, errOut bytes.Buffer
		code := run(ctx, []string{"status", "--rate", "1h", "--store", url}, strings.NewReader(""), &out, &errOut)
		assert.Equal(t, exitInterrupted, code, "%s", errOut.String())
		assert.Contains(t, errOut.String(), "interrupted")
		assert.Empty(t, out.String())
	}
}
