package delayedcheck_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

func TestService_onSQLite(t *testing.T) {
	onLedger(t, "sqlite:"+filepath.Join(t.TempDir(), "ledger.db"))
}

// openLedger opens a ledger with its tables.
func openLedger(t testing.TB, url string) backend.Store {
	t.Helper()
	ledger, err := backend.Stores{mysqlstore.Backend(), postgresstore.Backend(), sqlitestore.Backend()}.Open(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, ledger.Close()) })
	migrator, ok := reliable.Ability[backend.Migrator](ledger)
	require.True(t, ok)
	require.NoError(t, migrator.Migrate(t.Context()))
	return ledger
}

// onLedger has two instances share a real ledger: one confirms and is asked, both work.
func onLedger(t *testing.T, url string) {
	const messages = 60
	shop := answering(delayedcheck.Resent)
	opts := []delayedcheck.ServiceOption{
		delayedcheck.WithNextCheck("checks", 200*time.Millisecond), delayedcheck.WithMaxRounds(3), delayedcheck.WithPollEvery(20 * time.Millisecond),
		delayedcheck.WithReviewEvery(200 * time.Millisecond), delayedcheck.WithOpenBackoff(100*time.Millisecond, time.Second),
	}
	first := service(t, openLedger(t, url), shop, nil, append(opts, delayedcheck.WithServiceWorker("first"))...)
	second := service(t, openLedger(t, url), shop, nil, append(opts, delayedcheck.WithServiceWorker("second"))...)
	for i := range messages {
		if i%3 == 0 {
			confirm(t, second, messageID(i), "billing")
		}
		require.NoError(t, first.Checks(due(t, messageID(i))))
		require.NoError(t, second.Checks(due(t, messageID(i))), "a retried transaction leaves two checks")
	}
	runService(t, first)
	runService(t, second)
	backlog := func() (pending, failed int) {
		stats, err := first.Backlog(t.Context())
		require.NoError(t, err)
		for _, one := range stats {
			pending, failed = pending+one.Pending, failed+one.Failed
		}
		return pending, failed
	}
	awaitBacklog := func(what string, so func(pending, failed int) bool) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); !so(backlog()); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				pending, failed := backlog()
				require.Failf(t, what, "%d pending, %d failed, %+v and %+v", pending, failed, first.Stats(), second.Stats())
			}
		}
	}
	// Two requests for each of the other two thirds, all of which fail after their rounds.
	awaitBacklog("every unconfirmed one fails visibly", func(pending, failed int) bool { return pending == 0 && failed == 2*messages*2/3 })
	for i := range messages {
		copies := len(shop.times(messageID(i)))
		if i%3 == 0 {
			assert.Zero(t, copies, "it was confirmed")
		} else {
			assert.GreaterOrEqual(t, copies, 2*3, "three rounds for each check")
		}
		confirm(t, first, messageID(i), "billing")
	}
	awaitBacklog("late confirms heal", func(_, failed int) bool { return failed == 0 })
	assert.EqualValues(t, 2*messages*2/3, first.Stats().Late+second.Stats().Late)
}
