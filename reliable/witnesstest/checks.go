package witnesstest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

func openUntilItCommits(t testing.TB, h Harness) {
	s := h.Open(t)
	b, token := begun(t, s, "order-1")
	assert.Equal(t, reliable.FateOpen, ask(t, s, "order-1", token), "while it is open")
	assert.Equal(t, reliable.FateOpen, ask(t, s, "order-1", token), "asked again while it is open")
	require.NoError(t, b.Commit(t.Context()), "a question must not break the transaction")
	assert.Equal(t, reliable.FateCommitted, ask(t, s, "order-1", token))
	assert.Equal(t, reliable.FateCommitted, ask(t, s, "order-1", token), "asked again")
}

func abortedOnceRolledBack(t testing.TB, h Harness) {
	s := h.Open(t)
	b, token := begun(t, s, "order-1")
	require.NoError(t, b.Rollback(t.Context()))
	assert.Equal(t, reliable.FateAborted, ask(t, s, "order-1", token))
	assert.Equal(t, reliable.FateAborted, ask(t, s, "order-1", token), "asked again")
}

func scopeRolledBack(t testing.TB, h Harness) {
	s := h.Open(t)
	b := s.Begin(t)
	require.NoError(t, b.Insert(t.Context(), "order-1"))
	require.NoError(t, b.Savepoint(t.Context(), func() error { return b.Insert(t.Context(), "line-1") }))
	token, err := s.Witness.Mark(t.Context(), b.Tx)
	require.NoError(t, err)
	require.NoError(t, b.Commit(t.Context()))
	assert.Equal(t, reliable.FateCommitted, ask(t, s, "order-1", token))
}

func connectionEnds(t testing.TB, h Harness) {
	s := h.Open(t)
	b, token := begun(t, s, "order-1")
	if b.Kill == nil {
		require.NoError(t, b.Rollback(t.Context()))
		return // the database lives in this process
	}
	b.Kill(t)
	for deadline := time.Now().Add(patience); ; {
		fate := ask(t, s, "order-1", token)
		if fate == reliable.FateAborted {
			break
		}
		require.Equal(t, reliable.FateOpen, fate, "until the server has noticed")
		require.True(t, time.Now().Before(deadline), "still open %v after its connection was ended", patience)
	}
	_ = b.Rollback(t.Context()) // gives the dead connection back
}

func retriedHasItsOwn(t testing.TB, h Harness) {
	s := h.Open(t)
	first, token := begun(t, s, "order-1")
	require.NoError(t, first.Rollback(t.Context()))
	second, again := begun(t, s, "order-1")
	if !s.OneWriter { // such a one cannot tell who it is that is writing
		assert.Equal(t, reliable.FateAborted, ask(t, s, "order-1", token), "while the second is open")
	}
	assert.Equal(t, reliable.FateOpen, ask(t, s, "order-1", again))
	require.NoError(t, second.Commit(t.Context()))
	assert.Equal(t, reliable.FateAborted, ask(t, s, "order-1", token))
	assert.Equal(t, reliable.FateCommitted, ask(t, s, "order-1", again))
}

func retriedSharesItsID(t testing.TB, h Harness) {
	s := h.Open(t)
	first, token := begun(t, s, "order-1")
	require.NoError(t, first.Rollback(t.Context()))
	second, again := begun(t, s, "order-1")
	require.NoError(t, second.Commit(t.Context()))
	assert.Equal(t, reliable.FateCommitted, ask(t, s, "order-1", token), "the message is the same one")
	assert.Equal(t, reliable.FateCommitted, ask(t, s, "order-1", again))
}

func foreignToken(t testing.TB, h Harness) {
	s := h.Open(t)
	b, token := begun(t, s, "order-1")
	require.NoError(t, b.Commit(t.Context()))
	foreign := map[string]reliable.Token{
		"empty":            "",
		"cut":              token[:len(token)/2],
		"prolonged":        token + "0:0",
		"of another kind":  "other:" + token,
		"garbage":          "\x00\xff';--",
		"far too long":     reliable.Token(strings.Repeat("9", reliable.MaxTokenBytes+1)),
		"only separators":  "::::::::",
		"negative numbers": reliable.Token(strings.ReplaceAll(string(token), ":", ":-")),
	}
	for name, token := range foreign {
		assert.Equal(t, reliable.FateUnknowable, ask(t, s, "order-1", token), name)
	}
}

func tokenFits(t testing.TB, h Harness) {
	s := h.Open(t)
	b, token := begun(t, s, "order-1")
	require.NoError(t, b.Rollback(t.Context()))
	assert.LessOrEqual(t, len(token), reliable.MaxTokenBytes)
	for _, char := range []byte(token) {
		assert.True(t, char > ' ' && char <= '~', "%q is not printable ASCII", token)
	}
	assert.Equal(t, h.NeedsToken, token != "")
}

func noTransaction(t testing.TB, h Harness) {
	s := h.Open(t)
	for _, value := range append([]any{nil, "tx", struct{}{}}, s.NotTx...) {
		_, err := s.Witness.Mark(t.Context(), value)
		require.ErrorIs(t, err, reliable.ErrInvalid, "%T", value)
	}
}

func endsWithContext(t testing.TB, h Harness) {
	s := h.Open(t)
	b, token := begun(t, s, "order-1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Witness.Ask(ctx, "order-1", token)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, b.Commit(t.Context()))
}

// neverTakenBack has transactions end in both ways while they are asked about without a pause.
func neverTakenBack(t testing.TB, h Harness) {
	s := h.Open(t)
	const transactions = 60
	workers := 6
	if s.OneWriter {
		workers = 1
	}
	var group sync.WaitGroup
	for worker := range workers {
		group.Go(func() {
			for i := range transactions / workers {
				id := reliable.ID(fmt.Sprintf("order-%d-%d", worker, i))
				b, token := begun(t, s, id)
				want, end := reliable.FateCommitted, b.Commit
				if rand.IntN(2) == 0 {
					want, end = reliable.FateAborted, b.Rollback
				}
				ended := make(chan error, 1)
				go func() { ended <- end(t.Context()) }()
				watch(t, s, id, token, want)
				assert.NoError(t, <-ended)
			}
		})
	}
	group.Wait()
}

// watch asks until the transaction has ended, and whether the answer stays.
func watch(t testing.TB, s Subject, id reliable.ID, token reliable.Token, want reliable.Fate) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		fate, err := s.Witness.Ask(t.Context(), id, token)
		if !assert.NoError(t, err) || !assert.True(t, time.Now().Before(deadline), "%v is still open", id) {
			return
		}
		if fate != reliable.FateOpen {
			assert.Equal(t, want, fate, "the first answer that is not open")
			break
		}
	}
	fate, err := s.Witness.Ask(t.Context(), id, token)
	assert.NoError(t, err)
	assert.Equal(t, want, fate, "asked again")
}
