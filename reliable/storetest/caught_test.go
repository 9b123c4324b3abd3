package storetest_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// flaw is one thing that a store can do wrong, and the checks that must catch it.
type flaw struct {
	name     string
	breaks   func(b *broken)
	caughtBy []string
}

// by lists checks, by their names.
func by(checks ...string) []string { return checks }

func allFlaws() []flaw {
	return slices.Concat(
		enqueueFlaws, claimFlaws, settleFlaws, lateFlaws, orderFlaws, transactionFlaws, holdFlaws, compensationFlaws,
		insideFlaws, listFlaws, decideFlaws, overruleFlaws, inspectFlaws, purgeFlaws, fleetFlaws, paceFlaws,
		consumerFlaws, withholdFlaws,
	)
}

// harness describes a store in which breaks is wrong; nil breaks nothing.
func harness(breaks func(b *broken)) storetest.Harness {
	open := func(testing.TB) reliable.Store {
		b := &broken{Store: memstore.New()}
		if breaks != nil {
			breaks(b)
		}
		return b
	}
	return storetest.Harness{
		Open: open,
		Reopen: func(_ testing.TB, store reliable.Store) reliable.Store {
			if b := store.(*broken); b.reopen != nil {
				return b.reopen()
			}
			return store
		},
		Begin: func(t testing.TB, store reliable.Store) storetest.Native {
			tx, err := store.(*broken).Begin(t.Context(), nil)
			require.NoError(t, err)
			var sp reliable.Savepoint
			return storetest.Native{
				Tx: tx.Native(), Commit: tx.Commit, Rollback: tx.Rollback,
				Exec: func(ctx context.Context, statement string) error {
					if sp == nil {
						sp, err = tx.Savepoint(ctx)
						return err
					}
					return sp.Rollback(ctx)
				},
			}
		},
		NotTx:  func(reliable.Store) []any { return []any{(*memstore.Tx)(nil)} },
		Expect: storetest.AllAbilities(),
		Bubble: virtualtime.Test,
	}
}

// failures runs one check against a store and returns what it complains of.
func failures(t *testing.T, check storetest.Check, h storetest.Harness) []string {
	var r *recorder
	virtualtime.Test(t, func(t *testing.T) {
		r = &recorder{TB: t}
		r.run(func() { check.Run(r, h) })
	})
	return r.failures
}

func TestRun_passesASoundStoreThroughAWrapper(t *testing.T) { storetest.Run(t, harness(nil)) }

func TestRun_passesASoundStoreOnARealClock(t *testing.T) {
	h := harness(nil)
	h.Bubble = nil
	h.Lease = 2 * time.Second
	storetest.Run(t, h)
}

func TestCheck_failsWhereAStoreHangs(t *testing.T) {
	h := harness(nil)
	h.Open = func(testing.TB) reliable.Store {
		return memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
			return memstore.Fault{HangBefore: op == memstore.OpClaim}
		}))
	}
	h.Reopen = nil
	for _, check := range storetest.Checks() {
		if check.Name == "Claim_eight_claimers_never_hold_one_envelope_twice" {
			require.NotEmpty(t, failures(t, check, h))
		}
	}
}

// bare has no abilities.
type bare struct{ reliable.Store }

func TestRun_passesAStoreWithoutAbilities(t *testing.T) {
	h := harness(nil)
	h.Open = func(testing.TB) reliable.Store { return bare{memstore.New()} }
	h.Reopen, h.Expect = nil, nil
	storetest.Run(t, h)
}

// wrapped hides its store's methods and leaves them reachable.
type wrapped struct {
	reliable.Store
	inner any
}

func (w wrapped) Unwrap() any { return w.inner }

func TestRun_findsAbilitiesThroughWrappers(t *testing.T) {
	for _, check := range storetest.Checks() {
		if check.Name != abilityCheck {
			continue
		}
		h := harness(nil)
		h.Open = func(testing.TB) reliable.Store { return bare{memstore.New()} }
		require.Len(t, failures(t, check, h), len(storetest.AllAbilities()), "one for each that is missing")
		h.Open = func(testing.TB) reliable.Store {
			store := memstore.New()
			return wrapped{store, store}
		}
		require.Empty(t, failures(t, check, h))
	}
}

// abilityCheck is shown to fail by a test of its own.
const abilityCheck = "Ability_the_expected_ones_are_there"

func TestChecks_catchEveryFlaw(t *testing.T) {
	checks := make(map[string]storetest.Check)
	for _, check := range storetest.Checks() {
		require.NotContains(t, checks, check.Name, "two checks of one name")
		checks[check.Name] = check
	}
	caught := make(map[string]bool)
	for _, f := range allFlaws() {
		t.Run(f.name, func(t *testing.T) {
			require.NotEmpty(t, f.caughtBy, "no check is said to catch it")
			for _, name := range f.caughtBy {
				check, there := checks[name]
				require.True(t, there, "there is no check %q", name)
				assert.NotEmpty(t, failures(t, check, harness(f.breaks)), "%q does not notice", name)
				caught[name] = true
			}
		})
	}
	delete(checks, abilityCheck)
	for name := range checks {
		assert.True(t, caught[name], "nothing shows that %q can fail: add a flaw that it catches", name)
	}
}
