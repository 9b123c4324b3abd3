package testenv

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// answering returns a management API that answers one request after the other so.
func answering(t *testing.T, statuses ...int) (api string, left func() int) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "DELETE /api/vhosts/orders", r.Method+" "+r.URL.Path)
		if assert.NotEmpty(t, statuses, "one request too many") {
			w.WriteHeader(statuses[0])
			statuses = statuses[1:]
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, func() int { return len(statuses) }
}

func TestDeleteVhost_goesOnWhenTheBrokerFellOver(t *testing.T) {
	for _, end := range []int{http.StatusNoContent, http.StatusNotFound} {
		api, left := answering(t, http.StatusInternalServerError, http.StatusInternalServerError, end)
		require.NoError(t, deleteVhost(api, "orders"))
		require.Zero(t, left())
	}
}

func TestDeleteVhost_tellsWhatWillNotChange(t *testing.T) {
	api, _ := answering(t, http.StatusUnauthorized)
	require.ErrorContains(t, deleteVhost(api, "orders"), "401")
}
