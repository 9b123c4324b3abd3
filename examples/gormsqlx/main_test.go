package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A message of a transaction that rolled back would be received before that of the next one.
func TestGORMAndSQLX_commitSendsAndRollbackDoesNot(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	assert.Equal(t, `GORM: order-1: card declined
GORM: order-2: <nil>
received order-2: kettle
sqlx: order-3: card declined
sqlx: order-4: <nil>
received order-4: saucer
`, out.String())
}
