package servers

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCommand_tellsWhatWentWrong(t *testing.T) {
	require.NoError(t, Command("true")(t.Context()))
	err := Command("echo no such broker; exit 3")(t.Context())
	require.ErrorContains(t, err, "no such broker")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
}

func TestSetting_isTheVariableOrTheFallback(t *testing.T) {
	t.Setenv("WAYBILL_EXAMPLE_SERVER", "")
	assert.Equal(t, "usual", Setting("WAYBILL_EXAMPLE_SERVER", "usual"))
	t.Setenv("WAYBILL_EXAMPLE_SERVER", "mine")
	assert.Equal(t, "mine", Setting("WAYBILL_EXAMPLE_SERVER", "usual"))
}
