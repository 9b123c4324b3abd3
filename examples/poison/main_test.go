package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPoison_isRepairedReplayedAndBilledOnce(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	assert.Equal(t, `order-2 failed, attempt 1: read the amount: strconv.Atoi: parsing "12,50": invalid syntax
order-2 failed, attempt 2: read the amount: strconv.Atoi: parsing "12,50": invalid syntax
order-2 failed, attempt 3: read the amount: strconv.Atoi: parsing "12,50": invalid syntax

in the poison topic:
  order-2 from "orders", group "billing", key "ada", tenant "eu": 3 attempts, 0 replays
  reason: read the amount: strconv.Atoi: parsing "12,50": invalid syntax

replayed 1 of 1

invoices:
  order-1 12.50
  order-2 12.50
  order-3 9.99
`, out.String())
}
