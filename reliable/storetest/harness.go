package storetest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// Ability names an optional ability of a store.
type Ability string

// The abilities, each an interface of package reliable.
const (
	Transactions Ability = "Transactor"
	Holds        Ability = "Holder"
	Inspection   Ability = "Inspector"
	Purging      Ability = "Purger"
	Election     Ability = "Elector"
	Pacing       Ability = "Pacer"
	WakeUps      Ability = "Waker"
	SelfCheck    Ability = "Checker"
	Compensation Ability = "Compensator"
	Operation    Ability = "Operator"
	OwnLimits    Ability = "Limited"
	Receiving    Ability = "Inbox"
	Confirming   Ability = "Confirmations"
	Marking      Ability = "Marker"
	Withholding  Ability = "Withholder"
)

// AllAbilities lists every ability that the suite knows.
func AllAbilities() []Ability {
	return []Ability{
		Transactions, Holds, Inspection, Purging, Election, Pacing, WakeUps, SelfCheck, Compensation, Operation,
		OwnLimits, Receiving, Confirming, Marking, Withholding,
	}
}

func (a Ability) of(store reliable.Store) bool {
	switch a {
	case Transactions:
		return has[reliable.Transactor](store)
	case Holds:
		return has[reliable.Holder](store)
	case Inspection:
		return has[reliable.Inspector](store)
	case Purging:
		return has[reliable.Purger](store)
	case Election:
		return has[reliable.Elector](store)
	case Pacing:
		return has[reliable.Pacer](store)
	case WakeUps:
		return has[reliable.Waker](store)
	case SelfCheck:
		return has[reliable.Checker](store)
	case Compensation:
		return has[reliable.Compensator](store)
	case Operation:
		return has[reliable.Operator](store)
	case OwnLimits:
		return has[reliable.Limited](store)
	case Receiving:
		return has[reliable.Inbox](store)
	case Confirming:
		return has[reliable.Confirmations](store)
	case Marking:
		return has[reliable.Marker](store)
	case Withholding:
		return has[reliable.Withholder](store)
	}
	return false
}

func has[A any](store reliable.Store) bool {
	_, ok := reliable.Ability[A](store)
	return ok
}

// Harness describes a store to the suite. Only Open is required.
type Harness struct {
	// Open returns a fresh, empty store, with all that belongs to it gone when t ends. It is called once for each check,
	// concurrently.
	Open func(t testing.TB) reliable.Store
	// Reopen returns a second handle on what store keeps, as another process would open it. nil means that store itself is
	// all there is.
	Reopen func(t testing.TB, store reliable.Store) reliable.Store
	// Begin starts a transaction of the user's own library on the database of store, for Bind, and rolls it back when t
	// ends if it is still open. nil means that Bind is checked only with what Tx.Native returns.
	Begin func(t testing.TB, store reliable.Store) Native
	// NotTx returns what Bind must refuse besides what no store can take, the *sql.DB above all. nil means nothing.
	NotTx func(store reliable.Store) []any
	// Expect lists the abilities that the store must have.
	Expect []Ability
	// OneWriter says that an open transaction keeps every other writer out, as SQLite does: the checks for what several
	// open transactions do to each other are left out.
	OneWriter bool
	// Lease is the lease that checks wait for to run out; the default is 3 s. The suite's duration follows it: some forty
	// checks wait for one to four of them. Too small, and what must not happen yet happens before it was asked for: it must
	// be well above what a few statements take on a loaded machine.
	Lease time.Duration
	// Parallel is how many checks run at a time; the default is 8, and 1 with a Bubble.
	Parallel int
	// Sleep lets time pass on the store's clock; the default is time.Sleep.
	Sleep func(d time.Duration)
	// Bubble runs a check; synctest.Test for a store on virtual time. nil calls it directly. With the race detector on, run
	// bubbles on one processor (go test -cpu 1): timers that fire on two at once crash it, https://go.dev/issue/78156.
	Bubble func(t *testing.T, check func(t *testing.T))

	realClock bool // there is no Bubble
}

// Native is a transaction of the user's own library.
type Native struct {
	// Tx is what Bind takes.
	Tx any
	// Commit and Rollback end it.
	Commit, Rollback func(ctx context.Context) error
	// Exec runs SAVEPOINT and ROLLBACK TO SAVEPOINT statements in it; nil leaves these checks out.
	Exec func(ctx context.Context, statement string) error
}

func (h Harness) withDefaults() Harness {
	if h.Reopen == nil {
		h.Reopen = func(_ testing.TB, store reliable.Store) reliable.Store { return store }
	}
	if h.Lease <= 0 {
		h.Lease = 3 * time.Second
	}
	if h.Sleep == nil {
		h.Sleep = time.Sleep
	}
	if h.Parallel < 1 {
		h.Parallel = 8
		if h.Bubble != nil {
			h.Parallel = 1
		}
	}
	if h.Bubble == nil {
		h.realClock = true
		h.Bubble = func(t *testing.T, check func(t *testing.T)) { check(t) }
	}
	return h
}

// Run runs every check, each as a subtest.
func Run(t *testing.T, h Harness) {
	t.Helper()
	require.NotNil(t, h.Open, "Harness.Open is required")
	h = h.withDefaults()

	checks := make(chan Check)
	var workers sync.WaitGroup
	for range h.Parallel {
		workers.Go(func() {
			for check := range checks {
				t.Run(check.Name, func(t *testing.T) {
					h.Bubble(t, func(t *testing.T) { check.Run(t, h) })
				})
			}
		})
	}
	for _, check := range Checks() {
		checks <- check
	}
	close(checks)
	workers.Wait()
}

// Check is one sentence that every store keeps.
type Check struct {
	// Name is the sentence.
	Name string
	// Needs lists the abilities without which it says nothing, and passes.
	Needs []Ability
	run   func(t *T)
}

// Run checks a fresh store of h and reports to t. It can be called with a testing.TB that records failures instead of
// failing: FailNow may end the goroutine.
func (c Check) Run(t testing.TB, h Harness) {
	t.Helper()
	h = h.withDefaults()
	store := h.Open(t)
	for _, ability := range c.Needs {
		if !ability.of(store) {
			t.Logf("not tested: the store is no reliable.%s", ability)
			return
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), hanging)
	t.Cleanup(cancel)
	c.run(&T{TB: t, h: h, store: store, ctx: ctx})
}

func abilitiesExpected(t *T) {
	for _, ability := range AllAbilities() {
		switch {
		case ability.of(t.store):
		case slices.Contains(t.h.Expect, ability):
			t.Errorf("the store is no reliable.%s, which the harness expects of it", ability)
		default:
			t.Logf("not tested: the store is no reliable.%s", ability)
		}
	}
}

// Checks returns all checks.
func Checks() []Check {
	var all []Check
	for _, group := range []struct {
		subject string
		checks  []Check
	}{
		{"Ability", []Check{{Name: "the expected ones are there", run: abilitiesExpected}}},
		{"Enqueue", enqueueChecks}, {"Claim", claimChecks}, {"Settle", settleChecks},
		{"Settle", historyChecks}, {"Late", lateChecks},
		{"Order", orderChecks}, {"Tx", transactionChecks}, {"Hold", holdChecks},
		{"Hold", probeChecks}, {"Hold", unholdChecks}, {"Compensation", compensationChecks},
		{"Compensation", insideChecks}, {"List", listChecks},
		{"Decide", decideChecks}, {"Decide", overruleChecks}, {"Decide", modelChecks},
		{"Decide", crowdChecks},
		{"Inspect", inspectChecks}, {"Purge", purgeChecks}, {"Fleet", fleetChecks}, {"Pace", paceChecks},
		{"Inbox", inboxChecks}, {"Processed", processedChecks}, {"Marker", markerChecks},
		{"Withhold", withholdChecks},
	} {
		for _, check := range group.checks {
			check.Name = group.subject + "_" + strings.ReplaceAll(check.Name, " ", "_")
			all = append(all, check)
		}
	}
	return all
}

func needs(abilities ...Ability) []Ability { return abilities }
