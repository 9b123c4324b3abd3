package servertest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// claimLate asks for an envelope that was due before others, and became visible after they had been claimed.
func (s Server) claimLate(t *testing.T) {
	db, store := s.onNew(t)
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	bound, err := store.Bind(tx)
	require.NoError(t, err)
	_, err = bound.Enqueue(t.Context(), reliable.EnqueueRequest{}, Envelope("late"))
	require.NoError(t, err)
	backlog := make([]reliable.Envelope, 5000)
	for i := range backlog {
		backlog[i] = Envelope(fmt.Sprint("waiting-", i))
	}
	_, err = store.Enqueue(t.Context(), reliable.EnqueueRequest{}, backlog...)
	require.NoError(t, err)
	claim := func() reliable.ID {
		attempts, err := store.Claim(t.Context(), reliable.ClaimRequest{Max: 1, Lease: time.Hour})
		require.NoError(t, err)
		require.Len(t, attempts, 1)
		return attempts[0].ID
	}
	for range 10 {
		require.NotEqual(t, reliable.ID("late"), claim())
	}
	require.NoError(t, tx.Commit())
	claimed := 10
	for deadline := time.Now().Add(3 * time.Second); claim() != "late"; claimed++ {
		require.True(t, time.Now().Before(deadline), "not claimed within three seconds, though %d others were", claimed)
	}
	require.Less(t, claimed, len(backlog), "there was no backlog any more")
}
