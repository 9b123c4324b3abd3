package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/examples/internal/liar"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCompensation_everyMessageEndsAsItShould(t *testing.T) {
	var out strings.Builder
	began := time.Now()
	err := run(t.Context(), config{}, &out)
	t.Logf("took %v\n%s", time.Since(began), out.String())
	require.NoError(t, err)
	text := out.String()
	for _, expected := range []string{
		"the handler of orders.placed refunded order-4, in the transaction that made it compensated:",
		`order-4 to orders.placed is compensated after 1 attempts`,
		"ada lists what has failed and has no handler:",
		`no stream takes subject "invoices.issued"`,
		"requeue invoice-1: decided, it is pending now",
		"requeue invoice-2: decided, it is pending now",
		"discard invoice-3: decided, it is discarded now",
	} {
		assert.Contains(t, text, expected)
	}
	for _, expected := range []string{
		`(?m)^order-1 +1 confirmed +1 +0 +$`,
		`(?m)^order-4 +3 compensated +0 +1 +attempt: rejected: this message can never be published`,
		`(?m)^invoice-1 +1 confirmed +1 +0 +.*> requeue by ada: the stream was missing, now it is there$`,
		`(?m)^invoice-3 +4 discarded +0 +0 +.*> discard by ada: the customer has paid in cash$`,
		`(?m)^messages=7 confirmed=5 compensated=1 discarded=1 failed=0 pending=0 received=5 refunds=1$`,
	} {
		assert.Regexp(t, expected, text)
	}
}

func TestCompensation_noticesAMessageThatIsDroppedAndAcked(t *testing.T) {
	var out strings.Builder
	err := run(t.Context(), config{wrap: func(honest broker) broker { return liar.New(honest, "order-2") }}, &out)
	t.Log("\n" + out.String())
	require.ErrorContains(t, err, "order-2 is confirmed, and was not received", "the program exits with 0")
}
