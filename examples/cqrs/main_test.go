package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCQRS_shipsWhatWasCommittedInOrder(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	assert.Equal(t, `placed order-1: teapot
order-2 is rolled back: card declined
placed order-3: cup
shipping order-1 to ada: teapot
shipping order-3 to ada: cup
`, out.String())
}
