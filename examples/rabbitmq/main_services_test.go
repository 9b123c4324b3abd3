//go:build services && linux

package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/examples/internal/liar"
	"github.com/waybillmq/waybill/examples/internal/orders"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/internal/testservers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long nothing may happen on a loaded machine before it counts as lost.
const patience = time.Minute

func TestRabbitMQ_losesNothingOverAnOutage(t *testing.T) {
	server := testservers.StartRabbitMQ(t)
	var out strings.Builder
	result, err := run(t.Context(), config{
		mariadb: testenv.MariaDB(t), rabbitmq: server.URL(),
		stop:  func(context.Context) error { server.Stop(); return nil },
		start: func(context.Context) error { server.Start(); return nil },
		plan:  orders.Plan{Orders: 600, Outage: 500 * time.Millisecond, Patience: patience},
	}, &out)
	t.Log("\n" + out.String())
	require.NoError(t, err)
	require.NoError(t, result.Err())
	assert.Regexp(t, `(?m)^orders=600 confirmed=599 failed=1 pending=0 delivered=599 duplicates=\d+ lost=0$`, out.String())
	assert.Contains(t, out.String(), "rolled back: order-declined, was never sent")
}

func TestRabbitMQ_noticesAMessageThatIsDroppedAndAcked(t *testing.T) {
	var out strings.Builder
	nothing := func(context.Context) error { return nil }
	result, err := run(t.Context(), config{
		mariadb: testenv.MariaDB(t), rabbitmq: testenv.RabbitMQ(t), stop: nothing, start: nothing,
		plan: orders.Plan{Orders: 30, Patience: 5 * time.Second},
		wrap: func(honest broker) broker { return liar.New(honest, "order-000007") },
	}, &out)
	t.Log("\n" + out.String())
	require.NoError(t, err)
	require.Error(t, result.Err(), "the program exits with 0")
	assert.Regexp(t, `(?m)^orders=30 confirmed=29 failed=1 pending=0 delivered=28 duplicates=\d+ lost=1$`, out.String())
}
