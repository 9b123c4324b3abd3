package main

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/examples/internal/liar"
	"github.com/waybillmq/waybill/examples/internal/orders"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long nothing may happen on a loaded machine before it counts as lost.
const patience = 20 * time.Second

func TestQuickstart_losesNothingOverAnOutage(t *testing.T) {
	var out strings.Builder
	plan := orders.Plan{Orders: 300, Outage: 500 * time.Millisecond, Patience: patience}
	result, err := run(t.Context(), config{plan: plan}, &out)
	t.Log("\n" + out.String())
	require.NoError(t, err)
	require.NoError(t, result.Err())
	line := regexp.MustCompile(`(?m)^orders=300 confirmed=299 failed=1 pending=0 delivered=299 duplicates=\d+ lost=0$`)
	assert.Regexp(t, line, out.String())
	assert.Contains(t, out.String(), `to "orders.nowhere"`)
	assert.Contains(t, out.String(), "rolled back: order-declined, was never sent")
}

func TestQuickstart_noticesAMessageThatIsDroppedAndAcked(t *testing.T) {
	var out strings.Builder
	result, err := run(t.Context(), config{
		plan: orders.Plan{Orders: 30, Outage: 100 * time.Millisecond, Patience: 6 * time.Second},
		wrap: func(honest broker) broker { return liar.New(honest, "order-000007") },
	}, &out)
	t.Log("\n" + out.String())
	require.NoError(t, err)
	require.Error(t, result.Err(), "the program exits with 0")
	assert.Regexp(t, `(?m)^orders=30 confirmed=29 failed=1 pending=0 delivered=28 duplicates=\d+ lost=1$`, out.String())
}
