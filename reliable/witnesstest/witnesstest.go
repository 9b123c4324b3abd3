// Package witnesstest is the suite by which a [reliable.Witness] proves itself: that it never calls a transaction aborted
// that can still commit, nor one committed that did not, and that it says so where it cannot know.
//
//	witnesstest.Run(t, witnesstest.Harness{
//		Open:       func(t testing.TB) witnesstest.Subject { ... },
//		NeedsToken: true,
//	})
package witnesstest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// Harness connects the suite to a witness.
type Harness struct {
	// Open returns a witness over an empty database of its own.
	Open func(t testing.TB) Subject
	// NeedsToken says that the answer is found by the token; without it, by the message's id alone.
	NeedsToken bool
}

// Subject is a witness and the business that it watches.
type Subject struct {
	Witness reliable.Witness
	// Begin starts a business transaction on a connection of its own.
	Begin func(t testing.TB) Business
	// NotTx are values that are no transaction, each of which Mark must refuse.
	NotTx []any
	// OneWriter says that transactions that have written wait for each other.
	OneWriter bool
}

// Business is one business transaction, as its owner has it.
type Business struct {
	// Tx is what Mark is given.
	Tx any
	// Insert writes the business row from which the message id derives.
	Insert func(ctx context.Context, id reliable.ID) error
	// Savepoint runs fn in a scope that is rolled back after it.
	Savepoint func(ctx context.Context, fn func() error) error
	Commit    func(ctx context.Context) error
	Rollback  func(ctx context.Context) error
	// Kill ends the connection from outside, while the transaction is open; nil where there is none.
	Kill func(t testing.TB)
}

// quick is how long an answer may take while the transaction is open: that it did not wait for it. It is long because the
// machine may be busy.
const quick = 20 * time.Second

// patience is how long a server may take to notice that a connection was ended.
const patience = 90 * time.Second

// Run runs every check as a test of its own.
func Run(t *testing.T, h Harness) {
	t.Helper()
	require.NotNil(t, h.Open, "Harness.Open is required")
	for _, c := range checks() {
		if c.applies != nil && !c.applies(h) {
			continue
		}
		t.Run(c.name, func(t *testing.T) { c.run(t, h) })
	}
}

type check struct {
	name    string
	applies func(Harness) bool
	run     func(t testing.TB, h Harness)
}

func checks() []check {
	needsToken := func(h Harness) bool { return h.NeedsToken }
	return []check{
		{"open until it commits", nil, openUntilItCommits},
		{"aborted once it is rolled back", nil, abortedOnceRolledBack},
		{"a scope that is rolled back does not abort the rest", nil, scopeRolledBack},
		{"a transaction whose connection ends is aborted", nil, connectionEnds},
		{"a retried transaction has a fate of its own", needsToken, retriedHasItsOwn},
		{"a retried transaction that shares its id committed", func(h Harness) bool { return !h.NeedsToken }, retriedSharesItsID},
		{"a token that is not its own is unknowable", needsToken, foreignToken},
		{"a token fits into a header", nil, tokenFits},
		{"what is no transaction is refused", nil, noTransaction},
		{"an answer ends with the context", nil, endsWithContext},
		{"no answer is taken back while transactions end", nil, neverTakenBack},
	}
}

// begun is a transaction that has written its row and was marked.
func begun(t testing.TB, s Subject, id reliable.ID) (Business, reliable.Token) {
	t.Helper()
	b := s.Begin(t)
	require.NoError(t, b.Insert(t.Context(), id))
	token, err := s.Witness.Mark(t.Context(), b.Tx)
	require.NoError(t, err)
	return b, token
}

// ask asks about a transaction, and fails the test if the answer waits.
func ask(t testing.TB, s Subject, id reliable.ID, token reliable.Token) reliable.Fate {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), quick)
	defer cancel()
	fate, err := s.Witness.Ask(ctx, id, token)
	require.NoError(t, err, "ask")
	return fate
}
